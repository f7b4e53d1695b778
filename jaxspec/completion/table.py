"""The front door for labelled tables: a DataFrame with gaps in, a completed one with a report per group out."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxspec.checks import warn_caller
from jaxspec.completion.cross_validation import choose_groups, cv_lambda
from jaxspec.completion.group_aware import Game, game
from jaxspec.completion.group_layout import Groups, layout
from jaxspec.completion.group_reports import group_errors, group_ranks
from jaxspec.completion.groups import make_groups
from jaxspec.completion.result import CompletionResult
from jaxspec.optional import require


class TableFit(NamedTuple):
    """Result of `fit_table`.

    Attributes:
        table: DataFrame with the given columns, gaps filled, observed entries as they were.
        fitted: DataFrame of the fit at all entries, the observed ones included (smoothed).
        report: DataFrame, one row per group: attribute, rows, share observed, weight lambda_g, rank of the fit
            (missing for a group that was left out, whose weight is 0), root mean square residual on the observed
            entries, in the units of the standardised columns.
        result: of `game`, on the standardised columns, with its certificate.
        groups: of the rows, with the factors in use.
        lam: in use, in units of `game_weights`.
        hold_out_error: root mean square error on held-out entries, in the same units (1: no better than the column
            means); NaN if lam was given.
        location: what was subtracted from each column, (d,).
        spread: what each column was divided by, (d,).
    """

    table: Any
    fitted: Any
    report: Any
    result: CompletionResult
    groups: Groups
    lam: float
    hold_out_error: float
    location: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]


def fit_table(
    frame: Any,
    columns: Sequence[Any],
    groups: Sequence[Any],
    *,
    lam: float | None = None,
    key: PRNGKeyArray | None = None,
    choose: bool = True,
    everyone: float | None = None,
    min_size: int = 2,
    standardise: bool = True,
    splits: int = 3,
    tol: float = 1e-4,
    max_iter: int = 2000,
) -> TableFit:
    """Completes the numeric columns of a table whose rows carry labels, by `game`, and says what each group did.

    Args:
        frame: pandas DataFrame, one row per unit.
        columns: names of the numeric columns to complete; missing: NaN.
        groups: names of the columns of labels, each of whose levels is a group; missing label: in no group of it.
        lam: weight in units of `game_weights` and of the standardised columns; None: chosen by hold-out.
        key: randomness of the hold-out; None: ``jax.random.key(0)``.
        choose: whether the hold-out also chooses which columns of labels to use, and the weight of a group of all rows
            (2^Q candidates for Q columns); only without ``lam``.
        everyone: factor of a group of all rows, where nothing is chosen; None: such a group of factor 1 only if some
            row has no label at all.
        min_size: smaller groups are left out.
        standardise: whether to subtract each column's mean and divide by its standard deviation (observed entries)
            first. The penalty shrinks towards 0, which without it is a strong statement. A row without an observed
            entry gets the means of the columns (0 without this), and a warning.
        splits: number of random hold-outs.
        tol: relative duality gap of the final fit.
        max_iter: iterations of each fit at most.

    Returns:
        The completed table, the report and the fit. Warns where the hold-out chose a lam at the end of its list
        (`cv_lambda`).

    Raises:
        ImportError: without pandas.
        ValueError: for unknown columns, no columns, or bad values.
        TypeError: for a column that is not numeric.

    Example:
        >>> import numpy as np, pandas as pd
        >>> frame = pd.DataFrame({"sex": ["f", "m"] * 10, **{c: np.arange(20.0) for c in "xyz"}})
        >>> frame.loc[16, "x"] = np.nan
        >>> fit = fit_table(frame, ["x", "y", "z"], ["sex"], lam=0.001)
        >>> 15 < float(fit.table.loc[16, "x"]) < 17
        True
    """
    pd = require("pandas", "fit_table", "tables")
    _check_columns(frame, columns, groups)
    values = frame[list(columns)].to_numpy(dtype=float, na_value=np.nan)
    location, spread = _scales(values, standardise)
    Y, W = jnp.asarray((values - location) / spread), np.isfinite(values)
    labels = frame[list(groups)]
    if everyone is None and not (choose and lam is None) and bool(labels.isna().all(axis=1).any()):
        everyone = 1.0
    of_rows = make_groups(labels, len(frame), min_size=min_size, everyone=everyone)
    key = jax.random.key(0) if key is None else key
    _warn_of_empty(W, columns, standardise)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* without an observed entry")
        of_rows, lam, error = _chosen(Y, W, of_rows, lam, key, choose=choose, splits=splits)
        result = game(Y, W, of_rows, lam, tol=tol, max_iter=max_iter)
    fitted = np.asarray(result.M, float) * spread + location
    return TableFit(
        table=pd.DataFrame(np.where(W, values, fitted), index=frame.index, columns=list(columns)),
        fitted=pd.DataFrame(fitted, index=frame.index, columns=list(columns)),
        report=pd.DataFrame(_report(Y, W, of_rows, result)).astype({"rank": "Int64"}),
        result=result,
        groups=of_rows,
        lam=lam,
        hold_out_error=error,
        location=location,
        spread=spread,
    )


def _check_columns(frame: Any, columns: Sequence[Any], groups: Sequence[Any]) -> None:
    if not len(columns):
        raise ValueError("columns is empty; expected at least one column")
    for argument, names in (("columns", columns), ("groups", groups)):
        unknown = [name for name in names if name not in frame.columns]
        if unknown:
            raise ValueError(f"{argument} has {unknown[0]!r}; expected columns of frame")
    for name in columns:
        if frame[name].dtype.kind not in "biuf":
            raise TypeError(f"column {name!r} has dtype {frame[name].dtype}; expected numbers")
        if np.isinf(frame[name].to_numpy(dtype=float, na_value=np.nan)).any():
            raise ValueError(f"column {name!r} has an infinite value; expected finite or missing ones")


def _warn_of_empty(W: np.ndarray, columns: Sequence[Any], standardise: bool) -> None:
    rows, empty = np.flatnonzero(~W.any(axis=1)), np.flatnonzero(~W.any(axis=0))
    if rows.size:
        filled = "the means of the columns" if standardise else "zeros"
        warn_caller(f"frame has rows without an observed entry, at {rows.tolist()}: they are completed by {filled}")
    if empty.size:
        names = [columns[j] for j in empty]
        warn_caller(f"frame has columns without an observed entry, {names}: they are completed by zeros")


def _scales(values: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    seen = np.isfinite(values)
    count = np.maximum(seen.sum(axis=0), 1)
    if not standardise:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    mean = np.where(seen, values, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(seen, values - mean, 0) ** 2).sum(axis=0) / count)
    return mean, np.where(spread > 0, spread, 1)


def _chosen(
    Y: Array, W: np.ndarray, groups: Groups, lam: float | None, key: PRNGKeyArray, *, choose: bool, splits: int
) -> tuple[Groups, float, float]:
    if lam is not None:
        return groups, float(lam), float("nan")
    if not choose:
        choice = cv_lambda(Game(groups), Y, W, None, key, splits=splits)
        return groups, float(choice.lam), float(choice.hold_out_error)
    choice = choose_groups(Y, W, groups, None, key, splits=splits)
    return choice.groups, float(choice.lam), float(choice.hold_out_error)


def _report(Y: Array, W: np.ndarray, groups: Groups, result: CompletionResult) -> dict[str, Any]:
    errors = group_errors(result.M, jnp.where(W, Y, 0), groups, W)
    sizes = np.array([rows.size for rows in groups.rows])
    return {
        "group": groups.names,
        "attribute": groups.attributes,
        "rows": sizes,
        "observed": np.asarray(errors.count) / np.maximum(sizes * W.shape[1], 1),
        "lambda": np.asarray(result.lam),
        "rank": np.where(np.asarray(result.lam) > 0, group_ranks(result.M, layout(groups)), np.nan),
        "residual": np.asarray(errors.rmse),
    }
