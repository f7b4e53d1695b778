"""One figure per question: who responds, what happened around the start, how one unit did without treatment."""

from typing import Any

import numpy as np

from jaxspec.completion.panel.placebo import PlaceboInTime
from jaxspec.completion.panel.result import PanelData, PanelEffects
from jaxspec.optional import require


def plot_unit_effects(effects: PanelEffects, *, units: Any = None, ax: Any = None) -> Any:
    """Effects of the units in ascending order, with their intervals; units that are not identified are left out.

    Args:
        effects: to draw.
        units: labels of all units; None: none.
        ax: matplotlib axes; None: new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: for a wrong number of labels.
    """
    ax = _axes("plot_unit_effects", ax)
    tau, low, high = (np.asarray(x, float) for x in (effects.tau, effects.ci_low, effects.ci_high))
    if units is not None and len(units) != tau.size:
        raise ValueError(f"units has {len(units)} labels; expected {tau.size}, one per unit")
    order = np.argsort(tau)[: int(np.isfinite(tau).sum())]
    place = np.arange(order.size)
    ax.vlines(place, _finite(low[order], tau[order]), _finite(high[order], tau[order]), color="0.7", linewidth=1)
    ax.plot(place, tau[order], ".", color="C0")
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.axhline(float(effects.ate), color="C1", linewidth=0.8, linestyle="--", label="mean")
    if units is not None:
        ax.set_xticks(place, [str(units[i]) for i in order], rotation=90)
    ax.set(xlabel="units, sorted", ylabel="effect")
    ax.legend(frameon=False)
    return ax


def plot_event_study(
    effects: PanelEffects, *, placebo: PlaceboInTime | None = None, width: float = 1.96, ax: Any = None
) -> Any:
    """Mean gap between outcomes and the untreated fit by periods since the first treatment.

    Args:
        effects: to draw; lags without cells are left out.
        placebo: held-out effects before treatment, drawn beside the in-sample ones, which are shrunk towards 0.
        width: half length of the bars, in standard errors.
        ax: matplotlib axes; None: new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    ax = _axes("plot_event_study", ax)
    lags, mean, error = (np.asarray(x, float) for x in (effects.lags, effects.event_study, effects.event_se))
    error = np.nan_to_num(error)
    for part, label, color in ((lags >= 0, "treated", "C0"), (lags < 0, "before (in sample)", "0.6")):
        here = part & np.isfinite(mean)
        ax.errorbar(lags[here], mean[here], width * error[here], fmt=".", color=color, label=label)
    if placebo is not None:
        held, spread = np.asarray(placebo.effect, float), np.nan_to_num(np.asarray(placebo.se, float))
        ax.errorbar(
            np.arange(-held.size, 0) + 0.2,
            held,
            width * spread,
            fmt="s",
            color="C1",
            markersize=4,
            label="before (held out)",
        )
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.axvline(-0.5, color="0.3", linewidth=0.8, linestyle=":")
    ax.set(xlabel="periods since first treatment", ylabel="outcome minus untreated fit")
    ax.legend(frameon=False)
    return ax


def plot_gap(effects: PanelEffects, data: PanelData, unit: Any, *, ax: Any = None) -> Any:
    """Outcomes of one unit beside its fit without treatment, treated periods shaded.

    Args:
        effects: of the panel.
        data: the panel.
        unit: its label in ``data.units``.
        ax: matplotlib axes; None: new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: for an unknown unit, or a panel of another shape.
    """
    ax = _axes("plot_gap", ax)
    if data.Y.shape != effects.fit.A0.shape:
        raise ValueError(f"data has shape {data.Y.shape}; expected that of the effects, {effects.fit.A0.shape}")
    rows = np.flatnonzero(np.asarray(data.units) == unit)
    if not rows.size:
        raise ValueError(f"unit is {unit!r}; expected one of data.units")
    row, times = int(rows[0]), np.asarray(data.times)
    observed = np.asarray(data.observed)[row]
    place = np.arange(times.size)
    for j in np.flatnonzero(np.asarray(data.D)[row]):
        ax.axvspan(j - 0.5, j + 0.5, color="0.92", linewidth=0)
    ax.plot(place, np.where(observed, np.asarray(data.Y, float)[row], np.nan), ".-", color="k", label=str(unit))
    ax.plot(place, np.asarray(effects.fit.A0, float)[row], "--", color="C0", label="without treatment (fit)")
    shown = place[:: max(1, times.size // 8)]
    ax.set_xticks(shown, [str(times[j]) for j in shown])
    ax.set(xlabel="period", ylabel="outcome")
    ax.legend(frameon=False)
    return ax


def _axes(caller: str, ax: Any) -> Any:
    plt = require("matplotlib.pyplot", caller)
    return plt.subplots()[1] if ax is None else ax


def _finite(ends: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Ends of intervals that can be drawn: one that is infinite or missing is drawn as its centre."""
    return np.where(np.isfinite(ends), ends, centre)
