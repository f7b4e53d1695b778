"""Two-level dynamical mean-field theory: training dynamics, and the singular values that leave the bulk."""

from jaxspec.dmft.algebra import GaussianMatrix, Link, Space, connect
from jaxspec.dmft.bulk import generalized_mp, marchenko_pastur
from jaxspec.dmft.fields import SpikeFields
from jaxspec.dmft.linear import LinearConfig, LinearSolution, solve_linear
from jaxspec.dmft.nonlinear import NonlinearSolution, solve_nonlinear
from jaxspec.dmft.outliers import Outliers, escape_margin, escape_time, outliers, resolvent

__all__ = [
    "GaussianMatrix",
    "LinearConfig",
    "LinearSolution",
    "Link",
    "NonlinearSolution",
    "Outliers",
    "Space",
    "SpikeFields",
    "connect",
    "escape_margin",
    "escape_time",
    "generalized_mp",
    "marchenko_pastur",
    "outliers",
    "resolvent",
    "solve_linear",
    "solve_nonlinear",
]
