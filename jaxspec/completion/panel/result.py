"""What the functions of this package return: fits, effects and labelled panels, as tuples of arrays."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int


class PanelFit(NamedTuple):
    """Result of `row_scaled_spectral`; index 0 of an axis of length 2 is the untreated arm, 1 the treated one.

    Attributes:
        A0: estimate of the outcomes without treatment, (n, m), in the units of Y; NaN for a unit without an untreated
            cell, and 0 (plus what centring took) in a period without one.
        A1: estimate of the outcomes under treatment, (n, m), in the units of Y; NaN for a unit without a treated cell,
            and 0 (plus what centring took) in a period without one.
        effect: ``A1 - A0``, (n, m); NaN in the rows that are not identified.
        tau: effect of each unit, the row means of ``effect``, (n,); NaN where not identified.
        rank: of each arm, (2,).
        singular_values: of the row-scaled matrix X of each arm, descending, in the units of Y, (2, rank_max + 1).
        propensity: estimated (or given) probability of a cell of the arm, (2, n) or (2, n, m).
        identified: whether the unit has a cell in both arms, (n,).
        row_rmse: estimated root mean square error of each row of ``effect``, see `rowwise_error_estimate`, (n,).
        sigma2: residual variance of each arm, in the squared units of Y, (2,). In float32 it overflows or vanishes
            for outcomes beyond 1e19 or below 1e-19; nothing else does.
        rank_path: norm of the residual over that of its sign-flipped copies before each added direction,
            (2, rank_max + 1); NaN after the stop and for other choices of the rank.
        ratio: cells over degrees of freedom of each arm, ``|W(a)| / (r (n + m - r))``, (2,); infinite at rank 0.
        overlap: over identified rows, the share of cells whose row and column hold at least ``max(1, rank)`` cells of
            the arm, (2,). Below 1, ``tau`` extrapolates to cells about which the arm says nothing.
        at_rank_max: whether the choice of the rank ended at its ceiling, (2,).
        iterations: refinement sweeps done.
        converged: whether the sweeps settled: the last one met ``tol``, or without ``tol`` moved each arm by less than
            .01 of its sampling error (``motion``) or by rounding; True for ``refine=0``, which does not iterate.
        change: relative change of each arm's estimate in the last sweep, (2,); NaN without a sweep.
        left: factor of each arm, ``A - offsets = left @ right^T``, (2, n, k), in the units of Y.
        right: the other factor, ``right^T right = m I`` on its first ``rank`` columns, 0 beyond, (2, m, k).
        unit_offset: what centring took from each unit, (2, n).
        time_offset: what it took from each period, (2, m).
        motion: how far the last sweep moved each arm's estimate, in units of the error that noise leaves in it,
            ``||step|| / (sigma2 d n m / |W(a)|)^(1/2)`` with d the degrees of freedom, (2,); NaN without a sweep.
    """

    A0: Float[Array, "n m"]
    A1: Float[Array, "n m"]
    effect: Float[Array, "n m"]
    tau: Float[Array, " n"]
    rank: Int[Array, "2"]
    singular_values: Float[Array, "2 _"]
    propensity: Float[Array, "2 n *m"]
    identified: Bool[Array, " n"]
    row_rmse: Float[Array, " n"]
    sigma2: Float[Array, "2"]
    rank_path: Float[Array, "2 _"]
    ratio: Float[Array, "2"]
    overlap: Float[Array, "2"]
    at_rank_max: Bool[Array, "2"]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    change: Float[Array, "2"]
    left: Float[Array, "2 n k"]
    right: Float[Array, "2 m k"]
    unit_offset: Float[Array, "2 n"]
    time_offset: Float[Array, "2 m"]
    motion: Float[Array, "2"]


class PanelEffects(NamedTuple):
    """Result of `panel_effects`.

    Attributes:
        fit: the fit it rests on, with its warnings as fields.
        tau: effect of each unit, mean over all periods, (n,), in the units of Y; NaN where not identified.
        se: its standard error, (n,); NaN for a fit without refinement, which has no variance formula.
        df: degrees of freedom of its t interval, (n,).
        ci_low: lower end of the interval, (n,).
        ci_high: upper end, (n,).
        ate: weighted mean of ``tau`` over identified units.
        ate_se: its standard error; as in all averages NaN, with a warning, where its computation did not converge.
        att: mean of ``Y - A0`` over the treated observed cells whose row and column have an untreated cell.
        att_se: its standard error.
        event_study: mean of ``Y - A0`` by periods since the unit's first treatment, lags -(m-1)..m-1, (2m-1,). Before
            treatment these are residuals of the fit itself, shrunk towards 0: `placebo_in_time` is the honest check.
        event_se: standard errors, (2m-1,).
        event_count: cells behind each lag, (2m-1,).
        group_effect: weighted mean of ``tau`` over the identified units of each group, (groups,).
        group_se: standard errors, (groups,).
        lags: the lags of the event study, (2m-1,).
    """

    fit: PanelFit
    tau: Float[Array, " n"]
    se: Float[Array, " n"]
    df: Float[Array, " n"]
    ci_low: Float[Array, " n"]
    ci_high: Float[Array, " n"]
    ate: Float[Array, ""]
    ate_se: Float[Array, ""]
    att: Float[Array, ""]
    att_se: Float[Array, ""]
    event_study: Float[Array, " lags"]
    event_se: Float[Array, " lags"]
    event_count: Int[Array, " lags"]
    group_effect: Float[Array, " groups"]
    group_se: Float[Array, " groups"]
    lags: Int[Array, " lags"]


class PanelData(NamedTuple):
    """A long table as matrices, from `from_long`.

    Attributes:
        Y: outcomes, (n, m); NaN where missing.
        D: treatment, (n, m); False where the table says nothing.
        observed: whether both outcome and treatment are there, (n, m).
        units: labels of the rows.
        times: labels of the columns, in their order.
    """

    Y: Float[np.ndarray, "n m"]
    D: Bool[np.ndarray, "n m"]
    observed: Bool[np.ndarray, "n m"]
    units: Any
    times: Any
