"""How often 95% intervals hold the truth: laws of the errors, shapes, missing outcomes, serial correlation, averages.

Intervals of units are Student's and assume errors independent over time unless told otherwise. What is measured and not
promised, averages over small panels with weak overlap first of all, is on the page as measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.panel_effects._panels import Design, Panel, autoregressive, draw
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, ORANGE, subplots
from jaxspec.completion.panel import panel_effects, permutation_intervals
from jaxspec.linalg import ordered

OURS = "specification, experiment E4 (beyond the paper)"
LAWS = ("Gaussian", "uniform", "Student t, df 3", "20% missing")
LOW, HIGH, LEAST_TERCILE = 0.92, 0.97, 0.90
NORMAL_QUANTILE = 1.959964
RANK = 2
Shape = tuple[int, int, float, float]


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    seed: int = 300
    intervals: int = 1500  # at least, for every setting
    side: int = 100  # n = m where the law of the errors varies, propensities .35 to .65
    shapes: tuple[Shape, ...] = ((40, 40, 0.35, 0.65), (44, 210, 0.35, 0.65), (200, 200, 0.15, 0.85))
    uneven: tuple[int, int] = (150, 120)  # shape of the panel whose units have different errors
    averages: tuple[Shape, ...] = ((40, 80, 0.15, 0.85),)
    draws: int = 100  # panels for the averages
    small: Shape = (24, 24, 0.15, 0.85)  # of the permutation intervals
    correlation: float = 0.5  # of neighbouring errors in AR(1)
    spell: int = 10  # periods that share a treatment status beside AR(1) errors
    sigma: float = 0.5  # standard deviation of the errors
    refine: int = 3


PRESETS = {
    "quick": Config(),
    "full": Config(
        intervals=15000, averages=((60, 60, 0.35, 0.65), (40, 80, 0.15, 0.85), (80, 40, 0.15, 0.85)), draws=1000
    ),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        settings: names of the settings with an interval for each unit, shape (K,).
        coverage: share of intervals that hold the effect, shape (K,).
        ratio: root mean square error over root mean square standard error, shape (K,).
        count: intervals, shape (K,).
        terciles: coverage by noise tercile, pooled variance and the default, shape (2, 3).
        averages: names of the settings of averages, shape (L,).
        average_coverage: of normal intervals for ATE and ATT, shape (L, 2).
        average_spread: standard deviation of error over standard error, shape (L, 2).
        panels: behind each average.
        small: coverage in the small panel: Student, permutations, shape (2,).
        small_width: median width of these intervals, shape (2,).
    """

    settings: Any
    coverage: Any
    ratio: Any
    count: Any
    terciles: Any
    averages: Any
    average_coverage: Any
    average_spread: Any
    panels: Any
    small: Any
    small_width: Any


def run(config: Config, progress: Progress) -> Result:
    """One compiled program for each shape."""
    stages = 4 + len(config.shapes) + len(config.averages)
    with jax.enable_x64(True), progress.stage("shapes", total=stages):
        rows = _laws(config)
        progress.advance(message="laws of the errors")
        rows |= _correlated(config)
        progress.advance(message="blocks over time")
        for n, m, low, high in config.shapes:
            design = Design((n, m), RANK, config.sigma, low=low, high=high)
            effects = sweep(_fitted(config, design), _keys(config, n))
            rows[f"{n} x {m}, {low:g}-{high:g}"] = _covered(*effects)
            progress.advance(message=f"{n} x {m}")
        pooled, terciles = _uneven(config)
        rows |= pooled
        progress.advance(message="uneven errors")
        averages = []
        for shape in config.averages:
            averages.append(_averages(config, shape))
            progress.advance(message=f"averages, {shape[0]} x {shape[1]}")
        small = _small(config)
        progress.advance(message="permutations")
    coverage, ratio, count = np.asarray(list(rows.values())).T
    names = [f"{n} x {m}, {low:g}-{high:g}" for n, m, low, high in config.averages]
    found = np.asarray(averages)
    return Result(
        np.asarray(list(rows)), coverage, ratio, count, terciles, np.asarray(names), found[:, 0], found[:, 1],
        config.draws, *small
    )  # fmt: skip


def _keys(config: Config, units: int, salt: int = 0) -> jax.Array:
    """Enough panels for the intervals asked for."""
    root = jax.random.fold_in(jax.random.key(config.seed), 1000 * units + salt)
    return jax.random.split(root, -(-config.intervals // units))


def _fitted(config: Config, design: Design, **options: Any) -> Callable[[jax.Array], tuple]:
    """Key -> error and standard error of every unit, and whether its interval holds the truth."""

    def one(key: jax.Array) -> tuple:
        return _intervals(config, draw(key, design), **options)

    return one


def _intervals(config: Config, panel: Panel, **options: Any) -> tuple[jax.Array, ...]:
    found = panel_effects(
        panel.Y, panel.D, rank=RANK, refine=config.refine, start="one_step", validate=False, **options
    )
    inside = (found.ci_low <= panel.tau) & (panel.tau <= found.ci_high)
    return found.tau - panel.tau, found.se, inside


def _covered(error: np.ndarray, se: np.ndarray, inside: np.ndarray) -> tuple[float, float, int]:
    """Of the units that have both arms: spells of treatment may leave a few without one, and those have no effect."""
    known = np.isfinite(error)
    ratio = np.sqrt((error[known] ** 2).mean() / (se[known] ** 2).mean())
    return float(inside[known].mean()), float(ratio), int(known.sum())


def _laws(config: Config) -> dict[str, tuple]:
    """All laws of the errors in one batch."""
    shape = (config.side, config.side)
    keys = _keys(config, config.side)
    batch = jnp.concatenate([keys] * len(LAWS))
    law = jnp.repeat(jnp.arange(len(LAWS)), len(keys))

    def one(key: jax.Array, law: jax.Array) -> tuple:
        key = jax.random.fold_in(key, law)
        drawn, hidden = jax.random.split(jax.random.fold_in(key, 1))
        branches = [
            lambda k: jax.random.normal(k, shape),
            lambda k: jax.random.uniform(k, shape, minval=-(3**0.5), maxval=3**0.5),
            lambda k: jax.random.t(k, 3.0, shape) / 3**0.5,
            lambda k: jax.random.normal(k, shape),
        ]
        panel = draw(key, Design(shape, RANK, config.sigma), lax.switch(law, branches, drawn))
        observed = jax.random.bernoulli(hidden, jnp.where(law == 3, 0.8, 1.0), shape)
        return _intervals(config, panel, observed=observed)

    found = sweep(one, batch, law)
    return {name: _covered(*(x[law == index] for x in found)) for index, name in enumerate(LAWS)}


def _correlated(config: Config) -> dict[str, tuple]:
    """AR(1) errors under a treatment that comes in spells: over scattered cells the correlation would cancel."""
    shape = (config.side, config.side)
    design = Design(shape, RANK, config.sigma, spell=config.spell)

    def one(key: jax.Array) -> tuple:
        panel = draw(key, design, autoregressive(jax.random.fold_in(key, 1), shape, config.correlation))
        first = _intervals(config, panel)
        return first, _intervals(config, panel._replace(Y=ordered(panel.Y, first[0])), cov="block")

    both = sweep(one, _keys(config, config.side, 1))
    names = "AR(1) errors, treatment in spells", "the same, cov='block'"
    return {name: _covered(*found) for name, found in zip(names, both, strict=True)}


def _uneven(config: Config) -> tuple[dict[str, tuple], np.ndarray]:
    """Errors of size ``sigma (1/2 + i/n)`` in unit i."""
    n, _ = config.uneven
    size = 0.5 + jnp.arange(n)[:, None] / n

    def one(key: jax.Array) -> tuple:
        errors = size * jax.random.normal(jax.random.fold_in(key, 1), config.uneven)
        panel = draw(key, Design(config.uneven, RANK, config.sigma, low=0.3, high=0.7), errors)
        first = _intervals(config, panel, se="homoskedastic")
        second = _intervals(config, panel._replace(Y=ordered(panel.Y, first[0])))
        return first, second

    both = sweep(one, _keys(config, n))
    terciles = np.asarray([[part.mean() for part in np.array_split(found[2], 3, axis=1)] for found in both])
    names = "uneven errors, pooled variance", "uneven errors"
    return {name: _covered(*found) for name, found in zip(names, both, strict=True)}, terciles


def _averages(config: Config, shape: Shape) -> tuple[list[float], list[float]]:
    n, m, low, high = shape
    design = Design((n, m), RANK, config.sigma, low=low, high=high)

    def one(key: jax.Array) -> jax.Array:
        panel = draw(key, design)
        found = panel_effects(panel.Y, panel.D, rank=RANK, refine=config.refine, start="one_step", validate=False)
        treated = jnp.sum(jnp.where(panel.D, panel.A1 - panel.A0, 0)) / jnp.sum(panel.D)
        z = jnp.stack([(found.ate - jnp.mean(panel.tau)) / found.ate_se, (found.att - treated) / found.att_se])
        return z

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 77 + 1000 * n + m), config.draws)
    z = sweep(one, keys)
    return (np.abs(z) <= NORMAL_QUANTILE).mean(axis=0).tolist(), z.std(axis=0).tolist()


def _small(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Student's intervals and those by permutations in a small panel; the effects do not vary over time."""
    n, m, low, high = config.small

    def one(key: jax.Array) -> tuple:
        panel = draw(key, Design((n, m), RANK, config.sigma, low=low, high=high))
        found = panel_effects(panel.Y, panel.D, rank=RANK, refine=config.refine, start="one_step", validate=False)
        shifted = permutation_intervals(found.fit, panel.Y, panel.D)
        lows, highs = jnp.stack([found.ci_low, shifted.low]), jnp.stack([found.ci_high, shifted.high])
        known = jnp.isfinite(found.tau)
        return (lows <= panel.tau) & (panel.tau <= highs), highs - lows, known

    inside, width, known = sweep(one, _keys(config, n, 2))
    both = [(inside[:, k][known].mean(), np.median(width[:, k][known])) for k in (0, 1)]
    return tuple(np.asarray(both).T)


def claims(result: Result) -> list[Claim]:
    """Each setting's coverage against .92 to .97, and what is known to fall outside."""
    of = {str(name): (value, ratio) for name, value, ratio in zip(*result[:3], strict=True)}
    rows = []
    for name, (value, ratio) in of.items():
        reason = ""
        if name.startswith("AR(1)"):
            reason = f"errors are correlated over time and the standard errors assume they are not (ratio {ratio:.2f})"
        rows.append(_within(f"95% intervals of units: {name}", value, reason))
    statement = "Units with much and with little noise are covered alike"
    pooled = "a pooled variance is too large for quiet units and too small for loud ones"
    rows += [
        Claim.at_least(statement, OURS, result.terciles[1], LEAST_TERCILE, quantity="coverage by noise tercile"),
        Claim.at_least(
            f"{statement}, with se='homoskedastic'",
            OURS,
            result.terciles[0],
            LEAST_TERCILE,
            quantity="coverage by noise tercile",
            known_not_to_hold=pooled,
        ),
    ]
    return rows + _of_averages(result)


def _within(statement: str, value: Any, reason: str = "") -> Claim:
    half = (HIGH - LOW) / 2 + 1e-9
    return Claim.close_to(statement, OURS, value, LOW + half, half, quantity="coverage", known_not_to_hold=reason)


def _of_averages(result: Result) -> list[Claim]:
    rows = []
    for name, coverage, spread in zip(result.averages, result.average_coverage, result.average_spread, strict=True):
        reason = (
            f"weak overlap biases averages; their standard errors are right (sd of z {spread[0]:.2f}, {spread[1]:.2f})"
        )
        for what, value in zip(("ATE", "ATT"), coverage, strict=True):
            rows.append(_within(f"95% intervals of the {what} by normal quantiles: {name}", value, reason))
    for kind, value, width in zip(("Student's", "permutation"), result.small, result.small_width, strict=True):
        statement = f"95% intervals of units, small panel, weak overlap: {kind} (median width {width:.2f})"
        rows.append(_within(statement, value))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Coverage of every setting, and by noise tercile."""
    figure, (row,) = subplots(1, 2, size=(5.4, 3.8), width_ratios=(2, 1))
    place = np.arange(len(result.settings))
    error = 2 * np.sqrt(0.95 * 0.05 / result.count)
    row[0].errorbar(result.coverage, place, xerr=error, fmt="o", color=BLUE)
    row[0].axvspan(LOW, HIGH, color="#EEEEEE", zorder=0)
    row[0].set(yticks=place, yticklabels=result.settings, xlabel="coverage of 95% intervals, ± 2 standard errors")
    for values, name, color in zip(result.terciles, ("pooled variance", "own variance"), (ORANGE, BLUE), strict=True):
        row[1].plot(range(3), values, "o-", color=color, label=name)
    row[1].set(xticks=range(3), xticklabels=("quiet", "middle", "loud"), xlabel="units by noise", ylim=(0.8, 1.0))
    row[1].axhline(0.95, color="black", lw=0.8)
    row[1].legend()
    return {"Coverage by setting, and by noise tercile": figure}
