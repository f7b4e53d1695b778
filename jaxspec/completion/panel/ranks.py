"""How many directions a panel supports: deflated sign flips, or the gap rule of the paper.

Sign flips: at k = 0, 1, ... the residual ``R = W (Z - A) / phat`` of the current rank-k fit is compared with copies of
itself under random signs, which keep its size and its mask and destroy what is low-rank in it. The search stops when
``||R|| <= 1.06 max ||R S||``. The constant 96 of the paper's rule ``max {k : s_k - s_{k+1} >= 96 K T}`` selects rank 0
on any panel of ordinary size, so the gap rule asks for its threshold.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxspec.completion.panel.arms import Arm, Factors, scaled_factors, top
from jaxspec.completion.panel.refine import refine
from jaxspec.linalg import ordered, spectral_norm, top_svd
from jaxspec.solvers.loop import CONVERGED, RUNNING, iterate
from jaxspec.solvers.stopping import safe_ratio

EXCESS = 1.06
COPIES = 3
SWEEPS = 2
SHORT_SIDE_OF_A_GRAM_NORM = 256


def gap_rank(singular_values: Float[Array, " k"], threshold: Array) -> Int[Array, ""]:
    """``max {k : s_k - s_{k+1} >= threshold}``, 0 if there is none.

    Args:
        singular_values: descending, one more than the largest rank to consider.
        threshold: in the same units.

    Returns:
        The rank.
    """
    gaps = singular_values[:-1] - singular_values[1:]
    return jnp.max(jnp.where(gaps >= threshold, jnp.arange(1, gaps.size + 1), 0), initial=0).astype(jnp.int32)


class Choice(NamedTuple):
    """Ranks chosen by sign flips.

    Attributes:
        rank: of each arm, (a,).
        path: residual norm over the largest norm of the flipped copies at each k, NaN after the stop, (a, rank_max+1).
    """

    rank: Int[Array, " a"]
    path: Float[Array, "a _"]


class _State(NamedTuple):
    factors: Factors
    rank: Int[Array, " a"]
    running: Bool[Array, " a"]
    path: Float[Array, "a _"]
    iter: Int[Array, ""]
    status: Int[Array, ""]


def flip_rank(
    arms: Arm, phat: Float[Array, "a n _"], key: PRNGKeyArray, *, rank_max: int, length: int, block: int
) -> Choice:
    """Ranks of all arms by deflated sign flips; see the module's text.

    Args:
        arms: with a leading axis.
        phat: probabilities of a cell, (a, n, 1) or (a, n, m).
        key: randomness of the signs.
        rank_max: largest rank (static).
        length: of the path, at least ``rank_max + 1`` (static).
        block: consecutive periods that share their sign (static): 1 for errors independent over time; longer blocks
            keep serial correlation in the copies.

    Returns:
        The choice.
    """
    count, n, m = arms.Z.shape
    dtype = arms.Z.dtype
    keys = jax.random.split(key, count)
    nothing = Factors(jnp.zeros((count, n, rank_max), dtype), jnp.zeros((count, m, rank_max), dtype))
    path = jnp.full((count, length), jnp.nan, dtype)
    start = _State(
        nothing,
        jnp.zeros(count, jnp.int32),
        jnp.ones(count, bool),
        path,
        jnp.zeros((), jnp.int32),
        jnp.asarray(RUNNING, jnp.int32),
    )

    def step(state: _State) -> _State:
        k = state.iter
        fitted = state.factors.product()
        residual = jnp.where(arms.W, arms.Z - fitted, 0) / phat
        norms = jax.vmap(lambda r, key: _norms(r, jax.random.fold_in(key, k), block))(residual, keys)
        edge = jnp.max(norms[:, 1:], axis=1)
        grows = state.running & (norms[:, 0] > EXCESS * edge) & (k < rank_max)
        rank = state.rank + grows

        def grow() -> Factors:
            triplets = jax.vmap(lambda x: top(x, rank_max))(ordered(residual + fitted, norms))
            cut = jax.vmap(scaled_factors)(*triplets, rank)
            return refine(arms, cut, rank, sweeps=SWEEPS).factors

        factors = jax.lax.cond(jnp.any(grows), grow, lambda: state.factors)
        seen = jnp.where(state.running, safe_ratio(norms[:, 0], edge), jnp.nan)
        return state._replace(factors=factors, rank=rank, running=grows, path=state.path.at[:, k].set(seen), iter=k + 1)

    def test(state: _State) -> _State:
        return state._replace(status=jnp.where(jnp.any(state.running), RUNNING, CONVERGED).astype(jnp.int32))

    end = iterate(step, test, start, max_iter=rank_max + 1)
    return Choice(end.rank, end.path)


def _norms(residual: Float[Array, "n m"], key: PRNGKeyArray, block: int) -> Float[Array, " k"]:
    """Norm of the residual and of its flipped copies, one after the other."""
    n, m = residual.shape

    def one(index: Array) -> Array:
        signs = jax.random.rademacher(jax.random.fold_in(key, index), (n, -(-m // block)), jnp.int8)
        signs = jnp.repeat(signs, block, axis=1)[:, :m]
        return _norm(residual * jnp.where(index == 0, 1, signs))

    return jax.lax.map(one, jnp.arange(1 + COPIES))


def _norm(x: Float[Array, "n m"]) -> Float[Array, ""]:
    if min(x.shape) <= SHORT_SIDE_OF_A_GRAM_NORM:
        return spectral_norm(x)
    return top_svd(x, 1).s[0]
