r"""Bounds on the margin that a memory and a multiplier prove, and the data in the form in which solvers take them.

For ``||W||_F = d`` the largest margin is ``kappa* = max_W d min M / ||W||_F = min_lambda d ||A^T lambda||_F / sum
lambda`` over multipliers ``lambda >= 0``, A^T the adjoint of ``W -> M``: any W bounds it from below, any lambda from
above (Gordan, Farkas).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxspec.checks import check_numbers, finite, is_concrete, warn_caller
from jaxspec.linalg.scaling import power_of_two_scale, safe_divide
from jaxspec.memory.associations import Associations, numbers, promoted
from jaxspec.memory.pairs import Pairs

# How the solvers of this package end, beside the statuses of `jaxspec.solvers`, which are below 5.
FEASIBLE, INFEASIBLE, SOLVED, STATIONARY = 5, 6, 7, 8


class Units(NamedTuple):
    """How prepared data relate to the caller's.

    Attributes:
        x: power of two that the keys were divided by.
        y: that of values and competitors.
        sound: whether all numbers were finite.
    """

    x: Float[Array, ""]
    y: Float[Array, ""]
    sound: Bool[Array, ""]

    def bounds(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Bounds in the caller's units; infinite where the data were not finite.

        Args:
            lower: of the prepared data.
            upper: of the prepared data.

        Returns:
            ``(lower, upper)``.
        """
        return (
            jnp.where(self.sound, lower * self.x * self.y, -jnp.inf),
            jnp.where(self.sound, upper * self.x * self.y, jnp.inf),
        )


def checked_problem(
    a: Associations, n: Int[Array, ""] | int | None, **at_least_zero: Float[Array, ""] | float
) -> tuple[Associations, Int[Array, ""], list[Float[Array, ""]]]:
    """Arguments of a solver, known to be good as far as their values are known.

    Args:
        a: the associations. Under a trace numbers that are not finite pass; `in_units` marks them.
        n: how many leading rows count; None: all.
        at_least_zero: tolerances.

    Returns:
        The associations in one floating dtype, n, and the tolerances in that dtype.

    Warns:
        UserWarning: two of the n values are known to be equal.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, n or a tolerance out of range.
    """
    a = promoted(a)
    for name, value in numbers(a).items():
        if not isinstance(value, jax.core.Tracer):
            finite(name, value)
    p = len(a.x)
    least = min(2, p)
    if n is not None and is_concrete(n) and not (jnp.ndim(n) == 0 and least <= float(n) <= p):
        raise ValueError(f"n is {n}; expected an integer in [{least}, {p}]")
    check_numbers(0, **at_least_zero)
    tolerances = [jnp.asarray(value, a.x.dtype) for value in at_least_zero.values()]
    n = jnp.asarray(p if n is None else n, jnp.int32)
    _warn_of_equal_values(a, n)
    return a, n, tolerances


def _warn_of_equal_values(a, n):
    """Where two of the n leading values compete and are known to be equal; silent where they are traced."""
    if a.competitors is not None or a.right is not None or not is_concrete(a.y, n):
        return
    values = np.asarray(a.y)[: int(n)] + 0  # of -0 and 0 one
    if len({row.tobytes() for row in values}) < len(values):
        warn_caller(
            "two keys have the same value, which no memory ranks above itself: not all pairs can be recalled; "
            "with_answers gives keys with a common answer rows that do not compete"
        )


def checked_start(W0: Float[Array, "d d"] | None, a: Associations) -> Float[Array, "d d"]:
    """Memory to start from, of largest entry 1 and in the dtype of the associations.

    Args:
        W0: the memory, or None.
        a: the associations, in one floating dtype.

    Returns:
        The memory; 0 for None, and under a trace where a number is not finite.

    Raises:
        ValueError: a shape that does not fit, or numbers that are not finite.
    """
    d = a.x.shape[1]
    if W0 is None:
        return jnp.zeros((d, d), a.x.dtype)
    if jnp.shape(W0) != (d, d):
        raise ValueError(f"W0 has shape {jnp.shape(W0)}; expected {(d, d)}, as the keys have d = {d}")
    if not isinstance(W0, jax.core.Tracer):
        W0 = finite("W0", jnp.asarray(W0))
    W0 = jnp.asarray(W0, a.x.dtype)
    W0 = jnp.where(jnp.all(jnp.isfinite(W0)), W0, 0)
    largest = jnp.max(jnp.abs(W0))
    return W0 / jnp.where(largest > 0, largest, 1)


def in_units(a: Associations) -> tuple[Associations, Units]:
    """Keys and values of mean square norm near 1: squares neither overflow nor vanish, a tolerance has one meaning.

    Args:
        a: the associations, in one floating dtype.

    Returns:
        The associations, zeros if any number is not finite, and their units.
    """
    arrays = numbers(a)
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in arrays.values()]))
    arrays = {name: jnp.where(sound, value, 0) for name, value in arrays.items()}
    x, unit_x = _unit(arrays["x"])
    y, unit_y = _unit(arrays["y"])
    arrays |= {"x": x, "y": y}
    if "competitors" in arrays:
        arrays["competitors"] = arrays["competitors"] / unit_y
    return a._replace(**arrays), Units(unit_x, unit_y, sound)


def _unit(v):
    first = power_of_two_scale(v, axis=None)
    v = v / first
    norm = jnp.sqrt(2 * jnp.mean(jnp.sum(v * v, -1)))  # the power nearest on a logarithmic scale, not the next
    second = power_of_two_scale(norm, axis=None)
    return v / second, first * second


def gap_bounds(pairs: Pairs, W: Float[Array, "d d"], multipliers: Float[Array, "p k"]) -> tuple[Array, Array]:
    """What W and the multipliers prove about the largest margin, as computed.

    Args:
        pairs: the pairs.
        W: any memory.
        multipliers: >= 0, 0 on pairs that do not count.

    Returns:
        ``(d min M / ||W||_F, d ||A^T lambda||_F / sum lambda)``; 0 for W = 0, infinity for multipliers 0.
    """
    d = W.shape[0]
    least = jnp.min(jnp.where(pairs.mask, pairs.gaps(W), jnp.inf))
    size, total = jnp.linalg.norm(W), jnp.sum(multipliers)
    lower = safe_divide(d * least, size)
    pulled = jnp.linalg.norm(pairs.adjoint(multipliers))
    return lower, safe_divide(d * pulled, total, jnp.inf)


def proven_bounds(pairs: Pairs, W: Float[Array, "d d"], multipliers: Float[Array, "p k"]) -> tuple[Array, Array]:
    """`gap_bounds` recomputed in float64 where x64 is on and widened by a bound on the rounding: then they are proofs.

    Without x64 they are as computed, but for a lower bound within rounding, which becomes 0.

    Args:
        pairs: the pairs.
        W: any memory.
        multipliers: >= 0, 0 on pairs that do not count.

    Returns:
        ``(lower, upper)``, in the dtype of W.
    """
    wide = jnp.result_type(float)
    exact = pairs.astype(wide)
    lower, upper = gap_bounds(exact, W.astype(wide), multipliers.astype(wide))
    return widened(exact, lower, upper, W.dtype)


def widened(pairs: Pairs, lower: Array, upper: Array, dtype: Any) -> tuple[Array, Array]:
    """Bounds computed from these pairs, made safe against rounding as `proven_bounds` says.

    Args:
        pairs: in the dtype of the computation.
        lower: as computed.
        upper: as computed.
        dtype: of the results.

    Returns:
        ``(lower, upper)``.
    """
    eps = jnp.finfo(lower.dtype).eps
    if lower.dtype == jnp.float64:
        p, d = pairs.x.shape
        largest = _largest_norm(pairs.x) * (_largest_norm(pairs.y) + _largest_norm(pairs.others))
        # |fl(u.v) - u.v| <= k eps/2 |u||v| for k terms: gaps have 2 d + 2, the adjoint p + k + d of size |z||x|.
        lower = lower - (2 * d + 2) * eps * d * largest
        upper = upper + (p + pairs.mask.shape[1] + d + 2) * eps * d * largest
        narrow = jnp.finfo(dtype).eps  # rounding to the caller's dtype goes outwards
        lower, upper = lower - narrow * jnp.abs(lower), upper + narrow * upper
    lower = jnp.where(lower > 16 * eps, lower, jnp.minimum(lower, 0))
    return lower.astype(dtype), upper.astype(dtype)


def _largest_norm(v):
    return jnp.sqrt(jnp.max(jnp.sum(v * v, -1)))
