"""Iteration drivers: adaptive consensus ADMM, accelerated proximal gradient, Newton-CG, augmented Lagrangian."""

from jaxspec.solvers.admm import consensus_admm
from jaxspec.solvers.newton_cg import AugmentedLagrangian, NewtonCG, augmented_lagrangian, newton_cg
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
    "AugmentedLagrangian",
    "Block",
    "DataTerm",
    "Displacement",
    "Fixed",
    "Gap",
    "Geometric",
    "NewtonCG",
    "NormRatio",
    "ProximalGradient",
    "RelativeChange",
    "RelativeResidual",
    "Residual",
    "ResidualBalance",
    "Spectral",
    "accelerated_proximal_gradient",
    "augmented_lagrangian",
    "consensus_admm",
    "newton_cg",
]
