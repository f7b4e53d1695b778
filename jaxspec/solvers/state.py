"""State and info of the consensus ADMM, and the state before the first iteration."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxspec.solvers.loop import STALLED, History
from jaxspec.solvers.penalties import Displacement
from jaxspec.solvers.problem import Block
from jaxspec.solvers.stopping import Residuals


class ADMMState(NamedTuple):
    """Everything the iteration needs to go on, bit for bit; tuples run over blocks.

    Attributes:
        x: the solution, the last finite iterate.
        ax: A_i x.
        y: proximal points y_i of the last iteration (A_i x0 before the first).
        duals: W_i, subgradients of f_i in the limit.
        rho: penalties, shape (m,).
        rho0: first penalties, which bound the later ones.
        iter: iterations done, over all resumed runs.
        memory: of the penalty policy.
        value: sum_i f_i(y_i).
        residuals: of the last iteration.
        measure: last value of what the stopping rule watches; infinity before the first check.
        best: least measure so far that was 10% below its predecessor.
        best_iter: iteration of that.
        status: 0 iterations used up, 1 converged, 2 stalled, 3 diverged, 4 nothing to solve.
        history: recorded quantities, or None.
    """

    x: Array
    ax: tuple[Array, ...]
    y: tuple[Array, ...]
    duals: tuple[Array, ...]
    rho: Float[Array, "*batch m"]
    rho0: Float[Array, "*batch m"]
    iter: Int[Array, "*batch"]
    memory: PyTree
    value: Float[Array, "*batch"]
    residuals: Residuals
    measure: Float[Array, "*batch"]
    best: Float[Array, "*batch"]
    best_iter: Int[Array, "*batch"]
    status: Int[Array, "*batch"]
    history: History | None

    @property
    def u(self) -> tuple[Array, ...]:
        """Scaled duals u_i = -W_i / rho_i."""
        rho = jnp.moveaxis(self.rho, -1, 0)
        return tuple(-w / r.reshape(r.shape + (1,) * (w.ndim - r.ndim)) for w, r in zip(self.duals, rho, strict=True))


class ADMMInfo(NamedTuple):
    """How a run ended.

    Attributes:
        iterations: done in total (resumed runs included).
        converged: whether the stopping rule was met.
        status: 0 iterations used up, 1 converged, 2 stalled (at the rounding of the dtype, above the tolerance), 3
            diverged, 4 nothing to solve.
        primal_residual: relative, see `Residuals`.
        dual_residual: relative, see `Residuals`.
        rho: last penalties, shape (m,).
        objective: sum_i f_i(y_i) + g(x); y is not feasible for exact data, so this bounds nothing. NaN before the first
            iteration.
        gap: relative duality gap, NaN if not computed.
    """

    iterations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    status: Int[Array, "*batch"]
    primal_residual: Float[Array, "*batch"]
    dual_residual: Float[Array, "*batch"]
    rho: Float[Array, "*batch m"]
    objective: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]

    @property
    def stalled(self) -> Bool[Array, "*batch"]:
        """Whether the run ended at the rounding of its dtype, above the tolerance: as good as this dtype gives it."""
        return self.status == STALLED


def initial_state(
    blocks: Sequence[Block],
    x0: Float[Array, "..."],
    *,
    rho: Any,
    penalty: Any = Displacement(),  # noqa: B008 (frozen)
    u0: Sequence[Array] | None = None,
    duals: Sequence[Array] | None = None,
) -> ADMMState:
    """State before the first iteration.

    Args:
        blocks: the f_i(A_i x).
        x0: initial x.
        rho: first penalties, scalar or (m,).
        penalty: policy whose memory starts at (A_i x0, W_i).
        u0: initial scaled duals, one per block; None: 0.
        duals: initial W_i = -rho_i u_i instead of u0.

    Returns:
        The state.
    """
    x0 = jnp.asarray(x0)
    dtype = x0.dtype
    rho = jnp.broadcast_to(jnp.asarray(rho, dtype), (len(blocks),))
    ax = tuple(block.gather(block.data, x0) for block in blocks)
    if duals is None and u0 is None:
        duals = tuple(jnp.zeros_like(a) for a in ax)
    elif duals is None:
        duals = tuple(-r * jnp.asarray(u, dtype) for r, u in zip(rho, u0, strict=True))
    duals = tuple(jnp.asarray(w, dtype) for w in duals)
    if len(duals) != len(ax):
        raise ValueError(f"duals has {len(duals)} arrays; expected {len(ax)}, one per block")
    for index, (w, a) in enumerate(zip(duals, ax, strict=True)):
        if w.shape != a.shape:
            raise ValueError(f"dual {index} has shape {w.shape}; expected that of its block, {a.shape}")
    infinity, nan = jnp.asarray(jnp.inf, dtype), jnp.asarray(jnp.nan, dtype)
    zero = jnp.zeros((), jnp.int32)
    return ADMMState(
        x=x0,
        ax=ax,
        y=ax,
        duals=duals,
        rho=rho,
        rho0=rho,
        iter=zero,
        memory=penalty.init(rho, ax, duals),
        value=nan,
        residuals=Residuals(infinity, infinity, infinity, nan),
        measure=infinity,
        best=infinity,
        best_iter=zero,
        status=zero,
        history=None,
    )
