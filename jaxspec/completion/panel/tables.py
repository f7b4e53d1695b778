"""Long tables, one row per unit and period: into matrices, and effects back into tables."""

from typing import Any

import numpy as np

from jaxspec.completion.panel.result import PanelData, PanelEffects
from jaxspec.optional import require


def from_long(df: Any, unit: Any, time: Any, outcome: Any, treatment: Any) -> PanelData:
    """Matrices of units by periods from a long table; pairs that the table lacks are not observed.

    Args:
        df: pandas DataFrame, one row per unit and period, in any order.
        unit: name of the column of units.
        time: name of the column of periods, which sort into their order.
        outcome: name of the column of outcomes; missing allowed.
        treatment: name of the column of the treatment, 0 and 1 or boolean; missing allowed.

    Returns:
        The panel: ``row_scaled_spectral(data.Y, data.D, observed=data.observed)``. A missing treatment counts as
        untreated in ``D``, but its cell as not observed.

    Raises:
        ImportError: without pandas.
        ValueError: for unknown columns, a missing unit or period, a pair that occurs twice, a treatment that is not
            binary, an infinite outcome, or no rows.
        TypeError: for an outcome that is not numeric.

    Example:
        >>> import pandas as pd
        >>> df = pd.DataFrame({"who": ["a", "a", "b"], "year": [1, 2, 1], "y": [1.0, 2.0, 3.0], "d": [0, 1, 0]})
        >>> from_long(df, "who", "year", "y", "d").Y
        array([[ 1.,  2.],
               [ 3., nan]])
    """
    pd = require("pandas", "from_long", "tables")
    for argument, name in (("unit", unit), ("time", time), ("outcome", outcome), ("treatment", treatment)):
        if name not in df.columns:
            raise ValueError(f"{argument} is {name!r}; expected a column of df")
    if not len(df):
        raise ValueError("df has no rows; expected at least one")
    for argument, name in (("unit", unit), ("time", time)):
        if df[name].isna().any():
            raise ValueError(f"{argument} {name!r} has {int(df[name].isna().sum())} missing entries; expected none")
    twice = df.duplicated([unit, time])
    if twice.any():
        first = df.loc[twice, [unit, time]].iloc[0]
        raise ValueError(
            f"unit and time have {int(twice.sum())} duplicates, the first {(first[unit], first[time])}; "
            "expected that they identify a row"
        )
    values, treated = _numbers(df, outcome), _treatment(df, treatment)
    rows, units = pd.factorize(df[unit], sort=True)
    columns, times = pd.factorize(df[time], sort=True)
    shape = len(units), len(times)
    Y, D = np.full(shape, np.nan), np.full(shape, np.nan)
    Y[rows, columns], D[rows, columns] = values, treated
    observed = ~np.isnan(Y) & ~np.isnan(D)
    return PanelData(Y, D == 1, observed, np.asarray(units), np.asarray(times))


def _numbers(df: Any, outcome: Any) -> np.ndarray:
    if df[outcome].dtype.kind not in "biuf":
        raise TypeError(f"outcome {outcome!r} has dtype {df[outcome].dtype}; expected numbers")
    values = df[outcome].to_numpy(dtype=float, na_value=np.nan)
    if np.isinf(values).any():
        raise ValueError(f"outcome {outcome!r} has an infinite value; expected finite or missing ones")
    return values


def _treatment(df: Any, treatment: Any) -> np.ndarray:
    if df[treatment].dtype.kind not in "biuf":
        raise ValueError(f"treatment {treatment!r} has dtype {df[treatment].dtype}; expected booleans, or 0 and 1")
    values = df[treatment].to_numpy(dtype=float, na_value=np.nan)
    bad = ~np.isnan(values) & (values != 0) & (values != 1)
    if bad.any():
        raise ValueError(f"treatment {treatment!r} holds {values[bad][0]}; expected booleans, or 0 and 1")
    return values


def to_long(effects: PanelEffects, data: PanelData | None = None) -> Any:
    """Outcomes with and without treatment and their difference, one row per unit and period.

    Args:
        effects: of a panel.
        data: the panel, for labels and outcomes; None: numbers from 0.

    Returns:
        DataFrame with the columns unit, time, untreated, treated, effect; with ``data`` also outcome, treatment and
        observed.

    Raises:
        ImportError: without pandas.
        ValueError: for a panel of another shape.
    """
    pd = require("pandas", "to_long", "tables")
    n, m = effects.fit.A0.shape
    units, times = _labels(effects, data)
    flat = lambda x: np.asarray(x).reshape(-1)  # noqa: E731
    columns = {"unit": np.repeat(units, m), "time": np.tile(times, n)}
    if data is not None:
        columns |= {name: flat(x) for name, x in zip(("outcome", "treatment", "observed"), data[:3], strict=True)}
    columns |= {"untreated": flat(effects.fit.A0), "treated": flat(effects.fit.A1), "effect": flat(effects.fit.effect)}
    return pd.DataFrame(columns)


def to_units(effects: PanelEffects, data: PanelData | None = None) -> Any:
    """Effect, standard error and interval of each unit, one row per unit.

    Args:
        effects: of a panel.
        data: the panel, for labels; None: numbers from 0.

    Returns:
        DataFrame indexed by unit with the columns effect, se, df, ci_low, ci_high, row_rmse, identified.

    Raises:
        ImportError: without pandas.
        ValueError: for a panel of another shape.
    """
    pd = require("pandas", "to_units", "tables")
    units, _ = _labels(effects, data)
    columns = {
        "effect": effects.tau,
        "se": effects.se,
        "df": effects.df,
        "ci_low": effects.ci_low,
        "ci_high": effects.ci_high,
        "row_rmse": effects.fit.row_rmse,
        "identified": effects.fit.identified,
    }
    index = pd.Index(units, name="unit")
    return pd.DataFrame({name: np.asarray(value) for name, value in columns.items()}, index=index)


def _labels(effects: PanelEffects, data: PanelData | None) -> tuple[np.ndarray, np.ndarray]:
    shape = effects.fit.A0.shape
    if data is None:
        return np.arange(shape[0]), np.arange(shape[1])
    if data.Y.shape != shape:
        raise ValueError(f"data has shape {data.Y.shape}; expected that of the effects, {shape}")
    return np.asarray(data.units), np.asarray(data.times)
