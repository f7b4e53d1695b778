"""Refits of a panel in which nothing happened: the treatment given to a control, or moved to before it began."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxspec.chance import upper_p_value
from jaxspec.checks import is_concrete, warn_caller
from jaxspec.completion.panel import inputs, warned
from jaxspec.completion.panel.averages import lags_of
from jaxspec.completion.panel.design import influence, make_design
from jaxspec.completion.panel.inputs import Number, Numbers, Rank, Static
from jaxspec.completion.panel.spectral import ArmsFit, fit_arms
from jaxspec.completion.scaled import data_scale


class PlaceboInSpace(NamedTuple):
    """Result of `placebo_in_space`.

    Attributes:
        att_placebo: ATT of each control as if it had been treated, (k,), in the units of Y; NaN where the control has
            no outcome in the treated periods.
        p: ``(1 + #{|att_placebo| >= |att|}) / (k + 1)`` over the k controls with a placebo.
        att: ATT of the treated unit on the same panel.
        rmse: root mean square of the gaps ``Y - A0`` of each control over the treated periods, (k,).
    """

    att_placebo: Float[Array, " k"]
    p: Float[Array, ""]
    att: Float[Array, ""]
    rmse: Float[Array, " k"]


class PlaceboInTime(NamedTuple):
    """Result of `placebo_in_time`.

    Attributes:
        effect: mean over units of ``Y - A0`` at the held-out cells, by periods before the first treatment, from
            ``-periods`` to -1, (periods,), in the units of Y; near 0 if the model holds. NaN without a cell.
        se: standard errors, (periods,); NaN without refinement, or where their computation did not converge.
        count: cells, (periods,).
    """

    effect: Float[Array, " periods"]
    se: Float[Array, " periods"]
    count: Array


def placebo_in_space(
    Y: Any,
    D: Any,
    unit: int,
    controls: Sequence[int] | None = None,
    *,
    rank: Rank = "flip",
    observed: Any = None,
    propensity: Any = "row",
    propensity_rank: int = 2,
    center: str | None = None,
    refine: int | None = None,
    tol: Number | None = None,
    max_refine: int = 200,
    clip: Number = 0.05,
    rank_max: int = 8,
    gap_threshold: Number | None = None,
    key: PRNGKeyArray | None = None,
    sign_block: int = 1,
    start: str = "auto",
) -> PlaceboInSpace:
    """Gives the treatment of one unit to each control in turn, the treated unit left out: a randomisation test.

    Only the untreated arm is fitted. On an accelerator the refits are one batch, on a CPU one compiled loop.

    Args:
        Y: as in `row_scaled_spectral`.
        D: as there.
        unit: row of the treated unit.
        controls: rows that are never treated; None: all such rows. Other rows are left out.
        rank: as there, of the untreated arm.
        observed: as there.
        propensity: as there; known probabilities are not offered: they belong to the true assignment.
        propensity_rank: as there.
        center: as there.
        refine: as there, but None: until settled.
        tol: as there.
        max_refine: as there.
        clip: as there.
        rank_max: as there.
        gap_threshold: as there.
        key: as there.
        sign_block: as there.
        start: as there, but ``"auto"``.

    Returns:
        The placebos and the p-value, which is at least ``1 / (k + 1)``.

    Raises:
        ValueError: for bad input, a unit that is never treated, or a control that is.

    Example:
        >>> import jax.numpy as jnp
        >>> Y = jnp.ones((6, 8)).at[0, 6:].add(5.0)
        >>> D = jnp.zeros((6, 8), bool).at[0, 6:].set(True)
        >>> placebo = placebo_in_space(Y, D, 0, rank=1, refine=20)
        >>> float(placebo.att.round(2)), float(placebo.p.round(3))
        (5.0, 0.167)
    """
    data = inputs.panel(Y, D, observed)
    if not isinstance(propensity, str):
        raise ValueError("propensity is an array; expected 'row' or 'low_rank' for placebos")
    chosen = _controls(np.asarray(data.D), unit, controls)
    rows = np.concatenate([[unit], chosen])
    some = inputs.Panel(data.Y[rows], data.D[rows], data.observed[rows])
    # The treated unit is left out of the placebo panels, which therefore are one row shorter.
    without = inputs.Panel(some.Y[1:], some.D[1:], some.observed[1:])
    static, numbers = inputs.options(
        without,
        rank=rank,
        propensity=propensity,
        propensity_rank=propensity_rank,
        center=center,
        refine=refine,
        tol=tol,
        max_refine=max_refine,
        clip=clip,
        rank_max=rank_max,
        gap_threshold=gap_threshold,
        key=key,
        sign_block=sign_block,
        start=start,
    )
    return _in_space(some, numbers, static)


def _controls(D: np.ndarray, unit: int, controls: Sequence[int] | None) -> np.ndarray:
    n = D.shape[0]
    if isinstance(unit, bool) or not isinstance(unit, int | np.integer) or not 0 <= unit < n:
        raise ValueError(f"unit is {unit!r}; expected a row from 0 to {n - 1}")
    treated = D.any(axis=1)
    if not treated[unit]:
        raise ValueError(f"unit is {unit}, a row that is never treated; expected a treated one")
    chosen = np.flatnonzero(~treated) if controls is None else np.asarray(controls)
    if chosen.ndim != 1 or chosen.size < 2 or chosen.dtype.kind not in "iu":
        raise ValueError(f"controls is {chosen.tolist()}; expected at least two rows")
    if chosen.min() < 0 or chosen.max() >= n or np.unique(chosen).size < chosen.size:
        raise ValueError(f"controls is {chosen.tolist()}; expected different rows from 0 to {n - 1}")
    if treated[chosen].any():
        raise ValueError(f"controls has the treated {chosen[treated[chosen]].tolist()}; expected rows that never are")
    return chosen


@eqx.filter_jit
def _in_space(data: inputs.Panel, numbers: Numbers, static: Static) -> PlaceboInSpace:
    scale = data_scale(data.Y, data.observed)
    Y, observed, pattern = data.Y / scale, data.observed, data.D[0]

    def gaps(Y: Array, observed: Array, row: Array) -> tuple[Array, Array]:
        given = (jnp.arange(len(Y)) == row)[:, None] & pattern
        fitted = fit_arms(Y, observed, (observed & ~given)[None], numbers, scale, static)
        cells = given[row] & observed[row] & jnp.any(fitted.arms.W[0], axis=0)
        cells = cells & jnp.any(fitted.arms.W[0][row])
        gap = jnp.where(cells, Y[row] - fitted.outcomes()[0, row], 0)
        count = jnp.sum(cells)
        mean = jnp.where(count > 0, jnp.sum(gap) / jnp.maximum(count, 1), jnp.nan)
        return mean, jnp.where(count > 0, jnp.sqrt(jnp.sum(gap**2) / jnp.maximum(count, 1)), jnp.nan)

    att, _ = gaps(Y, observed, jnp.array(0))
    one = partial(gaps, Y[1:], observed[1:])
    rows = jnp.arange(len(Y) - 1)
    # One core runs a batch of factorisations no faster than a loop of them, and the loop needs the memory of one fit.
    means, roots = jax.lax.map(one, rows) if jax.default_backend() == "cpu" else jax.vmap(one)(rows)
    p = jnp.where(jnp.isfinite(att), upper_p_value(jnp.abs(means), jnp.abs(att)), jnp.nan)
    return PlaceboInSpace(means * scale, p.astype(Y.dtype), att * scale, roots * scale)


def placebo_in_time(
    Y: Any,
    D: Any,
    periods: int,
    *,
    rank: Rank = "flip",
    observed: Any = None,
    propensity: Any = "row",
    propensity_rank: int = 2,
    center: str | None = None,
    refine: int | None = None,
    tol: Number | None = None,
    max_refine: int = 200,
    clip: Number = 0.05,
    rank_max: int = 8,
    gap_threshold: Number | None = None,
    key: PRNGKeyArray | None = None,
    sign_block: int = 1,
    start: str = "auto",
) -> PlaceboInTime:
    """Hides the last untreated cells before each unit's first treatment and predicts them: effects that must be 0.

    Unlike the early lags of an event study these are out of sample. Only the untreated arm is fitted, once, without the
    hidden cells of all units.

    Args:
        Y: as in `row_scaled_spectral`.
        D: as there.
        periods: before the first treatment, from 1 to m - 1 (static).
        rank: as there, of the untreated arm.
        observed: as there.
        propensity: as there.
        propensity_rank: as there.
        center: as there.
        refine: as there, but None: until settled.
        tol: as there.
        max_refine: as there.
        clip: as there.
        rank_max: as there.
        gap_threshold: as there.
        key: as there.
        sign_block: as there.
        start: as there, but ``"auto"``.

    Returns:
        Effects, their standard errors (errors independent over time; NaN for ``refine=0``) and counts. Warns, where
        nothing is traced, of a refinement that has not settled and of standard errors that were not found.

    Raises:
        ValueError: for bad input, or no treated unit.

    Example:
        >>> import jax.numpy as jnp
        >>> Y = jnp.ones((6, 8)).at[0, 6:].add(5.0)
        >>> D = jnp.zeros((6, 8), bool).at[0, 6:].set(True)
        >>> abs(placebo_in_time(Y, D, 2, rank=1, refine=20).effect).round(2)
        Array([0., 0.], dtype=float32)
    """
    data = inputs.panel(Y, D, observed)
    m = data.Y.shape[1]
    if isinstance(periods, bool) or not isinstance(periods, int) or not 1 <= periods < m:
        raise ValueError(f"periods is {periods!r}; expected an integer in [1, {m - 1}]")
    if is_concrete(data.D) and not bool(jnp.any(data.D)):
        raise ValueError("D has no treated unit; expected one: there is no time before the first treatment")
    static, numbers = inputs.options(
        data,
        rank=rank,
        propensity=propensity,
        propensity_rank=propensity_rank,
        center=center,
        refine=refine,
        tol=tol,
        max_refine=max_refine,
        clip=clip,
        rank_max=rank_max,
        gap_threshold=gap_threshold,
        key=key,
        sign_block=sign_block,
        start=start,
    )
    placebo, sweeps = _in_time(data, numbers, static, periods)
    if static.sweeps != 0:
        texts = warned.of_sweeps(*sweeps, counted=static.sweeps is not None)
        for text in texts + warned.of_errors(placebo, {"effect": "se"}):
            warn_caller(text)
    return placebo


@eqx.filter_jit
def _in_time(
    data: inputs.Panel, numbers: Numbers, static: Static, periods: int
) -> tuple[PlaceboInTime, tuple[Array, ...]]:
    scale = data_scale(data.Y, data.observed)
    Y, lag = data.Y / scale, lags_of(data.D)
    hidden = data.observed & (lag < 0) & (lag >= -periods)
    W = data.observed & ~data.D & ~hidden
    fitted = fit_arms(Y, data.observed, W[None], numbers, scale, static)
    seen = hidden & jnp.any(W, axis=1)[:, None] & jnp.any(W, axis=0)
    means, errors, counts = _hidden_gaps(Y, fitted, seen, lag + periods, center=static.center, periods=periods)
    if static.sweeps == 0:
        errors = jnp.full_like(errors, jnp.nan)
    return PlaceboInTime(means * scale, errors * scale, counts), (fitted.motion, fitted.converged, fitted.iterations)


def _hidden_gaps(
    Y: Array, fitted: ArmsFit, seen: Array, place: Array, *, center: str | None, periods: int
) -> tuple[Array, Array, Array]:
    arm, factors, rank = jax.tree.map(lambda x: x[0], (fitted.arms, fitted.factors, fitted.rank))
    design = make_design(arm, factors, rank, center=center)
    gap = jnp.where(seen, Y - fitted.outcomes()[0], 0)
    sizes = jnp.sqrt(design.variance)[:, None]

    def at(index: Array) -> tuple[Array, Array, Array]:
        cells = seen & (place == index)
        count = jnp.sum(cells)
        L = cells / jnp.maximum(count, 1).astype(Y.dtype)
        # Hidden outcomes bring their own errors, the fitted ones those of their cells.
        psi = L - influence(arm.W.astype(Y.dtype), design, L)
        error = jnp.sqrt(jnp.sum((psi * sizes) ** 2))
        empty = count == 0
        return jnp.where(empty, jnp.nan, jnp.sum(L * gap)), jnp.where(empty, jnp.nan, error), count

    return jax.lax.map(at, jnp.arange(periods))
