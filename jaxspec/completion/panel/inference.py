"""Inference on many units at once, and intervals that do not trust the asymptotics: permutations over time."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_choice, check_integers, check_numbers
from jaxspec.completion.panel import inputs
from jaxspec.completion.panel.result import PanelEffects, PanelFit
from jaxspec.completion.panel.student import outside, two_sided_quantile
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.orthonormal import orthonormal_basis
from jaxspec.linalg.scaling import power_of_two_scale, safe_divide


class UnitTests(NamedTuple):
    """Result of `unit_tests`; NaN for units that are not identified.

    Attributes:
        p_value: two-sided p-value of each unit, (n,).
        adjusted_p_value: q below, (n,): the units with ``q <= rate`` are those found at a false-discovery rate of
            ``rate``.
        low: lower end of bands that hold for all units at once, (n,).
        high: upper end, (n,).
    """

    p_value: Float[Array, " n"]
    adjusted_p_value: Float[Array, " n"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]


def unit_tests(
    effects: PanelEffects, *, null: Any = 0.0, level: float | Float[Array, ""] = 0.95, method: str = "bh"
) -> UnitTests:
    r"""Which units respond: p-values, false-discovery control and simultaneous bands over all units.

    ``q_(k) = min_{l >= k} N c p_(l) / l`` with c = 1 (Benjamini-Hochberg: units independent or positively dependent) or
    ``c = sum_{l <= N} 1 / l`` (Benjamini-Yekutieli: any dependence). Bands are Sidak's, ``level^(1/N)`` for each of N
    units. The units share the noise of the column factors, a part of order 1/n.

    Args:
        effects: with standard errors.
        null: effect to test against, a number or (n,), in the units of Y.
        level: of the bands, in (0, 1).
        method: ``"bh"`` or ``"by"`` (static).

    Returns:
        The tests.

    Raises:
        ValueError: for a level out of range or an unknown method.

    Reference:
        Benjamini, Hochberg, JRSS B 57 (1995); Benjamini, Yekutieli, Ann. Statist. 29 (2001); Sidak, JASA 62 (1967).
    """
    check_choice("method", method, ("bh", "by"))
    check_numbers(0, 1, ends="()", level=level)
    dtype = effects.tau.dtype
    return _tests(effects.tau, effects.se, effects.df, jnp.asarray(null, dtype), jnp.asarray(level, dtype), method)


@eqx.filter_jit
def _tests(tau: Array, se: Array, df: Array, null: Array, level: Array, method: str) -> UnitTests:
    known = jnp.isfinite(tau) & jnp.isfinite(se) & (df >= 1)
    distance = jnp.abs(tau - null)
    # Without noise any distance is certain.
    t = safe_divide(distance, se, jnp.where(distance > 0, jnp.inf, 0))
    t = jnp.where(jnp.isfinite(t), t, jnp.sqrt(jnp.finfo(t.dtype).max) / 8)
    p = jnp.where(known, outside(t, jnp.where(known, df, 1)), jnp.nan)
    count = jnp.sum(known)
    order = jnp.argsort(jnp.where(known, p, jnp.inf))
    places = jnp.arange(1, p.size + 1)
    factor = 1.0 if method == "bh" else jnp.sum(jnp.where(places <= count, 1 / places, 0))
    ranked = jnp.where(known, p, jnp.inf)[order] * count * factor / places
    q = jnp.zeros_like(p).at[order].set(jnp.minimum(jax.lax.cummin(ranked, reverse=True), 1))
    each = level ** (1 / jnp.maximum(count, 1))
    half = jnp.where(se == 0, 0, two_sided_quantile(jnp.full_like(df, each), jnp.where(known, df, 1)) * se)
    low, high = (jnp.where(known, tau + side * half, jnp.nan) for side in (-1, 1))
    return UnitTests(p, jnp.where(known, q, jnp.nan), low, high)


class PermutationIntervals(NamedTuple):
    """Result of `permutation_intervals`; NaN for units without treated and untreated cells.

    Attributes:
        estimate: mean effect on the treated cells of each unit, (n,), in the units of Y.
        p_value: of no effect, (n,).
        low: lower end of the interval, (n,); minus infinity where no number of shifts could reject.
        high: upper end, (n,).
    """

    estimate: Float[Array, " n"]
    p_value: Float[Array, " n"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]


def permutation_intervals(
    fit: PanelFit,
    Y: Any,
    D: Any,
    *,
    observed: Any = None,
    level: float | Float[Array, ""] = 0.95,
    candidates: int = 201,
    width: float | Float[Array, ""] = 8.0,
) -> PermutationIntervals:
    r"""Intervals for the effect on each treated unit from cyclic shifts of residuals: for few cells and odd errors.

    Under "the effect on every treated cell of unit i is theta" the unit's row ``Y_i - theta D_i`` is untreated, and its
    residuals on the untreated arm's time factors are exchangeable under cyclic shifts. The p-value of theta is the
    share of the shifts, itself included, at which ``|sum_j D_ij e_j|`` is no smaller than unshifted; the interval holds
    the candidates with ``p > 1 - level``. It needs more than ``1 / (1 - level)`` observed periods, else it is the whole
    line; serially correlated errors are allowed. Effects that vary over time add to the residuals: the interval then
    covers their mean conservatively.

    Args:
        fit: of these data; only its untreated arm is used.
        Y: as in the fit.
        D: as in the fit.
        observed: as in the fit.
        level: probability of coverage, in (0, 1).
        candidates: effects tried for each unit (static).
        width: the candidates reach so many standard errors of the estimate to both sides.

    Returns:
        The intervals.

    Raises:
        ValueError: for data that do not fit, or a level out of range.

    Reference:
        Chernozhukov, Wuethrich, Zhu, "An exact and robust conformal inference method for counterfactual and synthetic
        controls", JASA 116 (2021).
    """
    data = inputs.panel(Y, D, observed)
    if fit.A0.shape != data.Y.shape:
        raise ValueError(f"Y has shape {data.Y.shape}; expected that of the fit, {fit.A0.shape}")
    check_numbers(0, 1, ends="()", level=level)
    check_integers(3, candidates=candidates)
    dtype = data.Y.dtype
    return _permuted(fit, data, jnp.asarray(level, dtype), jnp.asarray(width, dtype), candidates)


@eqx.filter_jit
def _permuted(fit: PanelFit, data: inputs.Panel, level: Array, width: Array, candidates: int) -> PermutationIntervals:
    scale = power_of_two_scale(data.Y, axis=None)
    # The unit's own level belongs to its residuals' mean, which shifts leave alone: it is fitted with the factors.
    basis = fit.right[0] * (jnp.arange(fit.right.shape[-1]) < fit.rank[0])
    outcomes = data.Y / scale - fit.time_offset[0] / scale - (fit.unit_offset[0] / scale)[:, None]

    def unit(y: Array, d: Array, seen: Array) -> tuple[Array, Array, Array, Array]:
        return _one_unit(jnp.where(seen, y, 0), d & seen, seen, basis, (level, width, candidates))

    found = jax.lax.map(lambda row: unit(*row), (outcomes, data.D, data.observed))
    estimate, p, low, high = found
    return PermutationIntervals(estimate * scale, p, low * scale, high * scale)


def _one_unit(y: Array, d: Array, seen: Array, basis: Array, asked: tuple) -> tuple[Array, Array, Array, Array]:
    level, width, candidates = asked
    m = y.size
    w = seen.astype(y.dtype)
    # Observed periods first, in their order: shifts run over them only.
    order = jnp.argsort(~seen, stable=True)
    count = jnp.sum(seen)
    q, _ = orthonormal_basis(basis * w[:, None])
    free = lambda x: x - matmul(q, matmul(q.T, x))  # noqa: E731
    ry, rd = free(y)[order], free(d.astype(y.dtype))[order]
    treated = (d.astype(y.dtype))[order]
    power = jnp.sum(rd**2)
    estimate = jnp.sum(rd * ry) / jnp.where(power > 0, power, 1)
    spread = jnp.sqrt(jnp.sum((ry - estimate * rd) ** 2) / jnp.maximum(count - 1, 1) / jnp.where(power > 0, power, 1))
    shifts = jnp.arange(m)
    places = (jnp.arange(m)[:, None] + shifts) % jnp.maximum(count, 1)
    inside = (jnp.arange(m) < count).astype(y.dtype)
    moved = lambda x: matmul(treated * inside, x[places])  # noqa: E731
    sy, sd = moved(ry), moved(rd)

    def p_value(theta: Array) -> Array:
        statistic = jnp.abs(sy - theta * sd)
        # Ties are kept against rounding.
        slack = 64 * jnp.finfo(y.dtype).eps * jnp.max(statistic)
        beyond = (statistic >= statistic[0] - slack) & (shifts < count)
        return jnp.sum(beyond) / jnp.maximum(count, 1)

    grid = estimate + width * spread * jnp.linspace(-1, 1, candidates)
    kept = jax.vmap(p_value)(grid) > 1 - level
    known = jnp.any(d) & jnp.any(seen & ~d) & (power > 0)
    blind = 1 / jnp.maximum(count, 1) > 1 - level
    low = jnp.where(kept[0] | blind, -jnp.inf, jnp.min(jnp.where(kept, grid, jnp.inf)))
    high = jnp.where(kept[-1] | blind, jnp.inf, jnp.max(jnp.where(kept, grid, -jnp.inf)))
    values = (estimate, p_value(jnp.zeros_like(estimate)), low, high)
    return tuple(jnp.where(known, value, jnp.nan) for value in values)
