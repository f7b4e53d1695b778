"""Programs over lists of the strongest competitors of each row, renewed until a certificate holds for all pairs.

Multipliers of listed pairs are multipliers of all, so what they prove needs no further look; a memory that separates
the listed pairs is judged by a pass over all competitors, which also writes the next lists: first the pairs whose
multipliers are positive, at most 7/8 of a list, then the strongest of the others. As long as a row has no more active
pairs than that, what the last program settled stays settled, and the minimum over the lists only rises.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_integers
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide
from jaxspec.memory.associations import Associations, num_competitors, numbers
from jaxspec.memory.certificates import gap_bounds, proven_bounds, widened
from jaxspec.memory.hinges import normalised
from jaxspec.memory.pairs import Pairs, all_pairs, listed_pairs, smallest_gaps
from jaxspec.solvers.loop import STALLED, iterate

_MAX_LISTS = 30


class Solved(NamedTuple):
    """What a solver found on some pairs.

    Attributes:
        W: the memory that proves the lower bound.
        multipliers: prove the upper bound.
        x: where to go on.
        newton: Newton steps so far.
        cg: Hessian products so far.
        listed: entries of each row that the multipliers belong to; None: all.
        lower: with lists, what W proves about all pairs, as computed; -infinity where it was not looked at.
    """

    W: Float[Array, "d d"]
    multipliers: Float[Array, "p k"]
    x: Float[Array, "d d"]
    newton: Int[Array, ""]
    cg: Int[Array, ""]
    listed: Int[Array, "p k"] | None = None
    lower: Float[Array, ""] | None = None


class Limits(NamedTuple):
    """Caps of a search and the form of its pairs; static.

    Attributes:
        newton: Newton steps at most.
        cg: Hessian products for each of them at most.
        outer: updates of the multipliers at most.
        top: length of the lists; None: all pairs at once.
        block: competitors at a time in a pass over all pairs.
    """

    newton: int
    cg: int
    outer: int = 0
    top: int | None = None
    block: int = 256


class _ListState(NamedTuple):
    found: Solved
    following: Int[Array, "p k"]
    iter: Int[Array, ""]
    status: Int[Array, ""]


def solved(
    a: Associations,
    n: Int[Array, ""],
    solve: Callable[[Pairs, Array, Solved], Solved],
    judge: Callable[[Array, Array], Array],
    limits: Limits,
    W0: Float[Array, "d d"] | None = None,
) -> tuple[Solved, Pairs]:
    """Runs a solver on all pairs, or on lists of them.

    Args:
        a: the associations, in units.
        n: how many rows count.
        solve: ``(pairs, start, found so far) -> found``.
        judge: ``(lower, upper) -> int``, 0 to go on with new lists.
        limits: with the length of the lists and of the blocks.
        W0: where to start; the first lists are those of its strongest competitors, of the Hebbian rule's if it is 0.

    Returns:
        What was found, and the pairs that its multipliers belong to.
    """
    p, d = a.x.shape
    zero, none = jnp.zeros((d, d), a.x.dtype), jnp.zeros((), jnp.int32)
    W0 = zero if W0 is None else W0
    top, block = limits.top, limits.block
    if top is None:
        pairs = all_pairs(a, n)
        return solve(pairs, W0, Solved(zero, jnp.zeros(pairs.mask.shape, zero.dtype), zero, none, none)), pairs

    def looked_at(W, kept=None):
        gaps, following = smallest_gaps(a, n, W, top, block, kept)
        size = jnp.linalg.norm(W)
        return safe_divide(d * jnp.min(gaps), size), following

    def step(state):
        pairs = listed_pairs(a, n, state.following)
        found = solve(pairs, state.found.x, state.found)._replace(listed=state.following)
        here, upper = gap_bounds(pairs, found.W, found.multipliers)
        nothing = jnp.full((), -jnp.inf, upper.dtype)
        decided = judge(nothing, upper) != 0  # by the multipliers alone

        def again():
            return looked_at(found.W, _active(found.multipliers, state.following, num_competitors(a)))

        lower, following = jax.lax.cond(decided, lambda: (nothing, state.following), again)
        found = found._replace(lower=lower)
        status = jnp.asarray(judge(lower, upper), jnp.int32)
        # Without a stronger competitor among all pairs new lists pose the same program: the solver is at its limit.
        nothing_new = (judge(here, upper) == 0) & (lower >= here - 1e-3 * jnp.abs(here))
        return _ListState(found, following, state.iter + 1, jnp.where((status == 0) & nothing_new, STALLED, status))

    hebbian = matmul(a.y.T * (jnp.arange(p) < n), a.x)
    first = looked_at(jnp.where(jnp.any(W0 != 0), W0, hebbian))[1]
    start = Solved(zero, jnp.zeros((p, top), zero.dtype), W0, none, none, first, jnp.zeros((), zero.dtype))
    end = iterate(step, lambda state: state, _ListState(start, first, none, none), max_iter=_MAX_LISTS)
    return end.found, listed_pairs(a, n, end.found.listed)


def _active(multipliers, listed, none):
    """Pairs with positive multipliers, the heaviest first: at most 7/8 of a list, the rest is for new competitors."""
    top = multipliers.shape[1]
    weights, place = jax.lax.top_k(multipliers, top - max(1, top // 8))
    return jnp.where(weights > 0, jnp.take_along_axis(listed, place, 1), none)


def reported(
    a: Associations, n: Int[Array, ""], pairs: Pairs, found: Solved, limits: Limits
) -> tuple[Array, Array, Array, Array]:
    """Normalised certificates, and what they prove about all pairs.

    Args:
        a: the associations, in units.
        n: how many rows count.
        pairs: the pairs of the multipliers.
        found: what was found.
        limits: with lists, or without: the pairs are all there are then.

    Returns:
        ``(W, multipliers, lower, upper)``.
    """
    W, multipliers = normalised(found.W, found.multipliers)
    if limits.top is None:
        return W, multipliers, *proven_bounds(pairs, W, multipliers)
    wide = jnp.result_type(float)
    exact, memory = pairs.astype(wide), W.astype(wide)
    _, upper = gap_bounds(exact, memory, multipliers.astype(wide))
    if wide == W.dtype:
        return W, multipliers, *widened(exact, found.lower, upper, W.dtype)
    stored = {name: value.astype(wide) for name, value in numbers(a).items()}
    size = jnp.linalg.norm(memory)

    def again():
        least = jnp.min(smallest_gaps(a._replace(**stored), n, memory, 1, limits.block)[0])
        return safe_divide(len(W) * least, size)

    lower = jax.lax.cond(jnp.isfinite(found.lower), again, lambda: jnp.full((), -jnp.inf, wide))
    return W, multipliers, *widened(exact, lower, upper, W.dtype)


def checked_limits(a: Associations, limits: Limits) -> Limits:
    """Raises `ValueError` for lists or blocks of length < 1.

    Args:
        a: the associations.
        limits: as a caller gave them.

    Returns:
        The same, with lists at most as long as a row has competitors.
    """
    top, block = limits.top, limits.block
    check_integers(1, top=top, block=block)
    return limits if top is None else limits._replace(top=min(top, num_competitors(a)))
