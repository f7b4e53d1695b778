"""Two-level dynamical mean-field theory: training dynamics, and the singular values that leave the bulk.

Level 1 follows training without training a network: deep linear networks in the proportional limit (`solve_linear`) and
infinitely wide nonlinear ones (`solve_nonlinear`), full batches, mini-batches or one pass over fresh data, with
schedules and weight decay, momentum in the linear ones. Level 2 turns its fields into singular values outside the bulk
(`outliers`, `escape_time`). Finite networks to compare with: `simulate_linear`, `simulate_mlp`.

Out of scope: Adam and Muon. The theory needs updates that are sums of a few outer products of fields, one coefficient
for each. Adam divides the gradient entry by entry by the root of its second moments: that is no function of products
with the matrices, has full rank, and depends on the basis, while the theory rests on Gaussian matrices that know none.
Muon moves along the polar factor of the momentum: where that has a rank that grows with the width (large batches, many
outputs) the update does too, and all its singular values are 1, those of the noise as well. For a few points the polar
factor is a combination of the same outer products, but with coefficients for all pairs of them, which are singular
functions of their Gram matrices; that theory is not derived here. Momentum, weight decay and schedules are linear in
the gradients: a table of factors is all they need.
"""

from jaxspec.dmft.algebra import GaussianMatrix, Link, Space, connect
from jaxspec.dmft.bulk import generalized_mp, marchenko_pastur
from jaxspec.dmft.extensive import ExtensiveModes, FrozenBulk, FrozenConfig, extensive_frozen, extensive_modes
from jaxspec.dmft.fields import SpikeFields
from jaxspec.dmft.finite_width import FiniteWidth, finite_width
from jaxspec.dmft.linear import LinearSolution, solve_linear
from jaxspec.dmft.linear_config import LinearConfig
from jaxspec.dmft.nonlinear import NonlinearSolution, solve_nonlinear
from jaxspec.dmft.outliers import Outliers, escape_margin, escape_time, outliers, resolvent
from jaxspec.dmft.overlay import Overlay, overlay
from jaxspec.dmft.simulate import Simulation, simulate_linear, simulate_mlp

__all__ = [
    "ExtensiveModes",
    "FiniteWidth",
    "FrozenBulk",
    "FrozenConfig",
    "GaussianMatrix",
    "LinearConfig",
    "LinearSolution",
    "Link",
    "NonlinearSolution",
    "Outliers",
    "Overlay",
    "Simulation",
    "Space",
    "SpikeFields",
    "connect",
    "escape_margin",
    "escape_time",
    "extensive_frozen",
    "extensive_modes",
    "finite_width",
    "generalized_mp",
    "marchenko_pastur",
    "outliers",
    "overlay",
    "resolvent",
    "simulate_linear",
    "simulate_mlp",
    "solve_linear",
    "solve_nonlinear",
]
