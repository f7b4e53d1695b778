"""How the error falls with the size of the panel, beside the paper's rate, and a bound that holds for every row.

The rate ``sqrt(1/n + n/m^2)`` is an upper bound: for n > m the estimator behaves like ``1/sqrt(n) + 1/sqrt(m)``, which
is smaller. What must hold is that error over rate stays bounded, not that the error has the rate's slope.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.panel_effects._panels import Design, Panel, draw, row_errors
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, COLORS, GREY, MARKERS, ORANGE, subplots
from jaxspec.completion.panel import PanelFit, row_scaled_spectral, rowwise_bound, rowwise_bound_shape
from jaxspec.linalg import ordered

METRIC = "arXiv 2605.30319, main theorem (metric: largest root mean square error of a row)"
OURS = "specification, experiments E1 and E5 (beyond the paper)"
METHODS = ("one-step", "refine 2")
FAMILIES = ("n = m", "m fixed, n grows", "m = 4 n", "n = 4 m")
RANK, SIGMA = 2, 0.5
WEAK, STRONG = (0.35, 0.65), (0.15, 0.85)


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    seed: int = 100
    seeds: int = 3  # panels per size
    square: tuple[int, ...] = (100, 200, 400)  # n = m
    periods: int = 100  # m of the tall family
    tall: tuple[int, ...] = (200, 400, 800)  # n of the tall family, after n = m
    long: tuple[int, ...] = ()  # shorter side of panels of the other two families
    bound_shapes: tuple[tuple[int, int], ...] = ((60, 60), (200, 100), (100, 400))
    bound_seeds: int = 2


PRESETS = {
    "quick": Config(),
    "full": Config(
        seeds=4,
        square=(100, 200, 400, 800, 1600, 3200),
        tall=(200, 400, 800, 1600, 3200),
        long=(50, 100, 200, 400, 800),
        bound_seeds=8,
    ),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        family: index into the families of every size, shape (P,).
        units: n, shape (P,).
        periods: m, shape (P,).
        largest: largest row error of the effect matrix, shape (P, 2, S) for one-step and refined.
        rms: its root mean square error, shape (P, 2, S).
        rate: the paper's rate without constants, shape (P,).
        valid: share of rows under our bound, one entry an arm of a panel, shape (B,).
        loose: largest bound over largest error, shape (B,).
        spectral: largest bound over twice the norm of the perturbation, shape (B,).
    """

    family: Any
    units: Any
    periods: Any
    largest: Any
    rms: Any
    rate: Any
    valid: Any
    loose: Any
    spectral: Any


def run(config: Config, progress: Progress) -> Result:
    """Every size, then the bound."""
    sizes = list(_sizes(config))
    shapes = sorted({(n, m) for _, n, m in sizes})
    with jax.enable_x64(True), progress.stage("sizes", total=len(shapes) + len(config.bound_shapes)):
        found = {}
        for shape in shapes:
            found[shape] = _errors(config, shape)
            progress.advance(message=f"{shape[0]} x {shape[1]}")
        bounds = []
        for shape in config.bound_shapes:
            bounds.append(_bounds(config, shape))
            progress.advance(message=f"bound, {shape[0]} x {shape[1]}")
    family, units, periods = (np.asarray(column) for column in zip(*sizes, strict=True))
    errors = np.stack([found[n, m] for _, n, m in sizes])
    rate = np.asarray(rowwise_bound_shape(units, periods))
    return Result(family, units, periods, *np.moveaxis(errors, -1, 0), rate, *np.concatenate(bounds, axis=1))


def _sizes(config: Config):
    """Family, n and m of every point."""
    yield from ((0, n, n) for n in config.square)
    yield from ((1, n, config.periods) for n in (config.periods, *config.tall))
    yield from ((2, n, 4 * n) for n in config.long)
    yield from ((3, 4 * m, m) for m in config.long)


def _errors(config: Config, shape: tuple[int, int]) -> np.ndarray:
    """Largest and root mean square error, shape (2 methods, S, 2)."""
    design = Design(shape, rank=RANK, sigma=SIGMA, low=WEAK[0], high=WEAK[1])

    def one(key: jax.Array) -> jax.Array:
        panel = draw(key, design)
        first = row_scaled_spectral(panel.Y, panel.D, rank=RANK, validate=False)
        # Factorisations of one program must not run at once on a CPU: the second fit waits for the first.
        Y = ordered(panel.Y, first.tau)
        second = row_scaled_spectral(Y, panel.D, rank=RANK, refine=2, validate=False)
        rows = [row_errors(fit.effect, panel) for fit in (first, second)]
        return jnp.stack([jnp.stack([jnp.max(r), jnp.sqrt(jnp.mean(r**2))]) for r in rows])

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), shape[0] * 10000 + shape[1]), config.seeds)
    return np.moveaxis(sweep(one, keys), 0, 1)


def _bounds(config: Config, shape: tuple[int, int]) -> np.ndarray:
    """Validity, looseness and comparison with Eckart-Young for both designs, overlaps and arms, shape (3, B)."""

    def one(key: jax.Array, within: jax.Array, ends: jax.Array) -> jax.Array:
        panel = draw(key, Design(shape, RANK, SIGMA, within, ends[0], ends[1]))
        fit = row_scaled_spectral(panel.Y, panel.D, rank=RANK, validate=False)
        untreated = _one_bound(panel.A0, fit.A0, _scaled(panel, fit, 0))
        treated = _one_bound(panel.A1, fit.A1, ordered(_scaled(panel, fit, 1), untreated))
        return jnp.stack([untreated, treated], axis=1)

    cases = [(within, ends, seed) for within in (0, 1) for ends in (WEAK, STRONG) for seed in range(config.bound_seeds)]
    within, ends, seeds = (np.asarray(column) for column in zip(*cases, strict=True))
    keys = jax.vmap(jax.random.key)(config.seed + 7919 * (1 + seeds) + shape[0])
    return np.concatenate(sweep(one, keys, within == 1, ends), axis=1)


def _scaled(panel: Panel, fit: PanelFit, arm: int) -> jax.Array:
    """The row-scaled matrix of an arm; every SVD that follows waits for the fit."""
    return jnp.where(bool(arm) == panel.D, ordered(panel.Y, fit.tau), 0) / fit.propensity[arm][:, None]


def _one_bound(A: jax.Array, estimate: jax.Array, X: jax.Array) -> jax.Array:
    bound = rowwise_bound(ordered(A, X), X - A, RANK)
    error = jnp.linalg.norm(estimate - A, axis=1)
    largest = jnp.max(bound.bound)
    return jnp.stack([jnp.mean(bound.bound >= error), largest / jnp.max(error), largest / bound.spectral])


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of log y on log x, least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def claims(result: Result) -> list[Claim]:
    """Bounded error over rate, the slope on square panels, and the bound on every row."""
    largest, rms = result.largest.mean(axis=-1), result.rms.mean(axis=-1)
    over = largest[:, 0] / result.rate
    square, tall = result.family == 0, result.family == 1
    grown = [float(np.max(over[chosen] / over[chosen][0])) for chosen in (square, tall)]
    rows = [
        Claim.close_to(
            "On square panels the root mean square error of the one-step estimator falls like n^(-1/2)",
            OURS,
            slope(result.units[square], rms[square, 0]),
            -0.51,
            0.09,
            quantity="slope",
        ),
        Claim.at_most("Error over the rate stays bounded", METRIC, over, 10.0, quantity="largest row error / rate"),
        Claim.at_most(
            "It does not grow with the number of units",
            METRIC,
            grown,
            1.25,
            quantity="largest ratio / ratio at the smallest panel",
        ),
        Claim.close_to(
            "The rate is attained when only units are added (its slope tends to +1/2)",
            "the rate, read as more than an upper bound",
            slope(result.units[tall], largest[tall, 0]),
            slope(result.units[tall], result.rate[tall]),
            0.1,
            quantity="slope of the largest row error, m fixed",
            known_not_to_hold="the rate is an upper bound: the estimator behaves like 1/sqrt(n) + 1/sqrt(m)",
        ),
        Claim.at_most(
            "Two sweeps of refinement lower the largest row error at every size",
            OURS,
            largest[:, 1] / largest[:, 0],
            1.0,
            quantity="refined / one-step",
        ),
    ]
    return rows + _bound_claims(result)


def _bound_claims(result: Result) -> list[Claim]:
    return [
        Claim.at_least("Our bound holds for every row of every arm", OURS, result.valid, 1.0, quantity="share of rows"),
        Claim.at_most(
            "Its largest value is below twice the norm of the perturbation (no theorem)",
            OURS,
            result.spectral,
            1.0,
            quantity="bound / Eckart-Young",
        ),
        Claim.at_most(
            "It is within a factor of 5 of the largest error", OURS, result.loose, 5.0, quantity="bound / error"
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Errors against the rate, and how loose the bound is."""
    shown = [family for family in range(len(FAMILIES)) if np.any(result.family == family)]
    figure, axes = subplots(1, len(shown), size=(3.8, 3.4), sharey=True)
    for axis, family in zip(axes[0], shown, strict=True):
        at = result.family == family
        n = result.units[at]
        for index, (name, color) in enumerate(zip(METHODS, (BLUE, ORANGE), strict=True)):
            for values, style, kind in ((result.largest, "-", "largest row"), (result.rms, ":", "rms")):
                axis.loglog(n, values[at, index].mean(axis=-1), style, color=color, marker=MARKERS[index])
                axis.plot([], [], style, color=color, label=f"{name}, {kind}")
        axis.loglog(n, 10 * result.rate[at], "--", color=GREY, label="10 × rate")
        axis.set(title=FAMILIES[family], xlabel="units n")
    axes[0, 0].set_ylabel("error of the effect matrix")
    axes[0, 0].legend(fontsize=7)
    bounds, (row,) = subplots(1, 1, size=(4.6, 3.4))
    row[0].hist(result.loose, bins=12, color=COLORS[0])
    row[0].set(xlabel="largest bound / largest error of an arm", ylabel="arms")
    return {
        "Error against the number of units, with ten times the paper's rate": figure,
        "How much larger the bound on the rows is than their errors": bounds,
    }
