"""What the completion methods return."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.linalg import singular_values
from jaxspec.solvers import ADMMInfo, Block
from jaxspec.solvers.loop import STALLED, History


class TensorCompletion(eqx.Module):
    """A completed tensor and what is known about it.

    Attributes:
        tensor: the completion, in the units and dtype of the data.
        duals: W_i, one array per block: subgradients of ``lam alpha_i ||A_i X||_*`` in the limit, with
            ``sum_i A_i^T W_i = -grad`` of the data term. Empty for methods without duals.
        rho: last penalties, one per block.
        info: how the run ended, a `jaxspec.solvers.ADMMInfo`: ``iterations``, ``converged`` (the stopping rule of the
            method was met: residuals or a gap for `complete_tensor`, a small step, which certifies nothing, for the
            baselines), ``stalled``, ``status`` (0 iterations used up, 1 converged, 2 stalled at rounding, 3 diverged,
            4 no observed entry), residuals, ``objective``, the relative ``gap``.
        history: per-iteration ``primal``, ``dual``, ``rho``, ``objective`` (and ``nmse`` with a known truth), or None.
        scale: power of two by which the data were divided.
        state: of the engine in the scaled units, to resume; None for methods that cannot.
        blocks: the regularisers.
    """

    tensor: Float[Array, "..."]
    duals: tuple[Array, ...]
    rho: Float[Array, "*batch m"]
    info: ADMMInfo
    history: History | None
    scale: Float[Array, "*batch"]
    state: Any
    blocks: tuple[Block, ...]

    @property
    def ranks(self) -> tuple[Array, ...]:
        """Numerical ranks of the thresholded matrices y_i: per block one integer array with a rank per matrix.

        Shape (1,) for an unfolding, which is one matrix; (k,) for a block that stacks k. Empty for methods that keep no
        such matrices.
        """
        if self.state is None:
            return ()
        eps = jnp.finfo(self.state.x.dtype).eps
        stacks = [
            (y, block) for y, block in zip(self.state.y, self.blocks, strict=True) if hasattr(block.prox, "thresholds")
        ]

        def rank(y: Array) -> Array:
            s = singular_values(y)
            return jnp.sum(s > max(y.shape[-2:]) * eps * jnp.max(s, axis=-1, keepdims=True, initial=0), axis=-1)

        return tuple(rank(y) for y, _ in stacks)


class MatrixState(NamedTuple):
    """Where a matrix completion can start or go on, in the units of the data.

    Attributes:
        M: the completed matrix, in the computing dtype.
        duals: W_i, one array per block of `game`; empty for soft-impute.
        rho: penalties, one per block; for soft-impute the curvature 1 / step.
    """

    M: Float[Array, "*batch n d"]
    duals: tuple[Array, ...]
    rho: Float[Array, "*batch m"]


class CompletionResult(eqx.Module):
    """A completed matrix and its certificate; a path has a leading axis on every field.

    Attributes:
        M: the completion, in the units and dtype of the data.
        objective: its objective P(M). Units of ``W Y^2``: infinite where that overflows.
        gap: ``P(M) - d``, at least the distance of P(M) from the optimum, in the same units (absolute).
        relative_gap: gap over objective, finite also where they overflow; what the run stopped on.
        iterations: done.
        converged: whether the relative gap reached the tolerance.
        status: 0 iterations used up, 1 converged, 2 stalled (at the rounding of the dtype, above the tolerance), 3
            diverged, 4 no observed entry (M = 0).
        rho: last penalties, one per block; for soft-impute the curvature 1 / step.
        lam: weights of the nuclear norms: (G,) for `game`, a number for soft-impute.
        state: to start another run from, or None.
    """

    M: Float[Array, "*batch n d"]
    objective: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    relative_gap: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    status: Int[Array, "*batch"]
    rho: Float[Array, "*batch m"]
    lam: Float[Array, "..."]
    state: MatrixState | None

    @property
    def stalled(self) -> Bool[Array, "*batch"]:
        """Whether the run ended at the rounding of its dtype, above the tolerance: as good as this dtype gives it."""
        return self.status == STALLED
