"""Two-level dynamical mean-field theory: training dynamics, and the singular values that leave the bulk."""

from jaxspec.dmft.algebra import GaussianMatrix, Link, Space, connect
from jaxspec.dmft.bulk import generalized_mp, marchenko_pastur
from jaxspec.dmft.extensive import ExtensiveModes, FrozenBulk, FrozenConfig, extensive_frozen, extensive_modes
from jaxspec.dmft.fields import SpikeFields
from jaxspec.dmft.linear import LinearConfig, LinearSolution, solve_linear
from jaxspec.dmft.nonlinear import NonlinearSolution, solve_nonlinear
from jaxspec.dmft.outliers import Outliers, escape_margin, escape_time, outliers, resolvent
from jaxspec.dmft.simulate import Simulation, simulate_linear, simulate_mlp

__all__ = [
    "ExtensiveModes",
    "FrozenBulk",
    "FrozenConfig",
    "GaussianMatrix",
    "LinearConfig",
    "LinearSolution",
    "Link",
    "NonlinearSolution",
    "Outliers",
    "Simulation",
    "Space",
    "SpikeFields",
    "connect",
    "escape_margin",
    "escape_time",
    "extensive_frozen",
    "extensive_modes",
    "generalized_mp",
    "marchenko_pastur",
    "outliers",
    "resolvent",
    "simulate_linear",
    "simulate_mlp",
    "solve_linear",
    "solve_nonlinear",
]
