"""Iteration drivers: adaptive consensus ADMM and the accelerated proximal gradient method."""

from jaxspec.solvers.admm import consensus_admm
from jaxspec.solvers.penalties import (
    Displacement,
    Fixed,
    Geometric,
    NormRatio,
    RelativeResidual,
    ResidualBalance,
    Spectral,
)
from jaxspec.solvers.problem import Block, DataTerm
from jaxspec.solvers.proximal_gradient import ProximalGradient, accelerated_proximal_gradient
from jaxspec.solvers.state import ADMMInfo, ADMMState
from jaxspec.solvers.stopping import Gap, RelativeChange, Residual

__all__ = [
    "ADMMInfo",
    "ADMMState",
    "Block",
    "DataTerm",
    "Displacement",
    "Fixed",
    "Gap",
    "Geometric",
    "NormRatio",
    "ProximalGradient",
    "RelativeChange",
    "RelativeResidual",
    "Residual",
    "ResidualBalance",
    "Spectral",
    "accelerated_proximal_gradient",
    "consensus_admm",
]
