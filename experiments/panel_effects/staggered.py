"""Staggered adoption: treatment that starts late, stays, and starts earlier for units with other outcomes.

The untreated outcomes of whole blocks are predicted there. A refinement that stops after two sweeps, which is enough
under treatment that switches at random, stops far from where it ends, and no standard error knows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.panel_effects._panels import adopted
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, subplots
from jaxspec.completion.panel import panel_effects
from jaxspec.completion.panel.warned import MOST_MOTION

OURS = "what a user would like"
NORMAL_QUANTILE = 1.959964
LOW, HIGH = 0.92, 0.97
METHODS = ("until settled", "tolerance 1e-7", "2 sweeps", "all periods")
SETTLED, FINISHED, TWO, ALL = range(4)
DESIGNS = ("staggered", "switching")


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    seed: int = 9700
    panels: int = 60  # of each design
    shape: tuple[int, int] = (120, 48)
    sigma: float = 0.5  # standard deviation of the errors
    missing: float = 0.12  # share of the outcomes


PRESETS = {"quick": Config(), "full": Config(panels=600)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        designs: names of the assignments, shape (2,).
        methods: names of the calls, shape (4,).
        error: ATT and ATE less the truth, shape (2, 4, 2, S).
        se: their standard errors, shape (2, 4, 2, S).
        units: coverage of the 95% intervals of units, shape (2, 4).
        rmse: root mean square error of the effects of units, shape (2, 4).
        motion: of the last sweep, in sampling errors, the larger of both arms, shape (2, 4, S).
        sweeps: done, shape (2, 4, S).
        converged: as the fit says, shape (2, 4, S).
    """

    designs: Any
    methods: Any
    error: Any
    se: Any
    units: Any
    rmse: Any
    motion: Any
    sweeps: Any
    converged: Any


def run(config: Config, progress: Progress) -> Result:
    """One program for each call; ATE and units over the periods with both arms, but for the last call."""
    calls = ({}, {"tol": 1e-7, "max_refine": 1000}, {"refine": 2}, {"periods": "all"})
    found = []
    with jax.enable_x64(True), progress.stage("calls", total=len(calls)):
        for options, name in zip(calls, METHODS, strict=True):
            found.append(_measured(config, {"periods": "overlap", **options}))
            progress.advance(message=name)
    arrays = [np.stack(column, axis=1) for column in zip(*found, strict=True)]
    return Result(np.asarray(DESIGNS), np.asarray(METHODS), *arrays)


def _measured(config: Config, options: dict[str, Any]) -> tuple[np.ndarray, ...]:
    def one(key: jax.Array, switching: jax.Array) -> tuple[jax.Array, ...]:
        panel, observed = adopted(key, config.shape, config.sigma, config.missing, switching)
        found = panel_effects(panel.Y, panel.D, observed=observed, validate=False, **options)
        known = jnp.isfinite(found.tau)
        cells = panel.D & observed
        att = jnp.sum(jnp.where(cells, panel.A1 - panel.A0, 0)) / jnp.sum(cells)
        ate = jnp.mean(panel.tau, where=known)
        inside = (found.ci_low <= panel.tau) & (panel.tau <= found.ci_high)
        return (
            jnp.stack([found.att - att, found.ate - ate]),
            jnp.stack([found.att_se, found.ate_se]),
            jnp.mean(inside, where=known),
            jnp.mean((found.tau - panel.tau) ** 2, where=known),
            jnp.max(found.fit.motion),
            found.fit.iterations,
            found.fit.converged,
        )

    keys = jax.random.split(jax.random.key(config.seed), 2 * config.panels)
    values = sweep(one, keys, np.repeat([False, True], config.panels))
    error, se, units, squares, motion, sweeps, converged = (x.reshape(2, config.panels, *x.shape[1:]) for x in values)
    averages = (np.moveaxis(x, 1, -1) for x in (error, se))
    return *averages, units.mean(axis=1), np.sqrt(squares.mean(axis=1)), motion, sweeps, converged


def claims(result: Result) -> list[Claim]:
    """Whether the default ends where a finished fit ends, what two sweeps leave, and what intervals are worth."""
    late, random = (result._replace(**{k: v[i] for k, v in result._asdict().items() if k != "methods"}) for i in (0, 1))
    text = "distance from the fit at tolerance 1e-7 / standard error, 95% of panels"
    rows = []
    for name, part in zip(DESIGNS, (late, random), strict=True):
        apart = np.abs(part.error[SETTLED] - part.error[FINISHED]) / part.se[FINISHED]
        statement = f"The default ends where a finished fit ends: ATT and ATE, {name}"
        rows.append(Claim.at_most(statement, OURS, np.nanquantile(apart, 0.95, axis=1), 0.1, quantity=text))
    return rows + _of_two_sweeps(late, random) + _of_intervals(late)


def _of_two_sweeps(late: Result, random: Result) -> list[Claim]:
    bias = np.abs(late.error.mean(axis=-1))
    quiet = late.converged[TWO] | (late.motion[TWO] <= MOST_MOTION)
    return [
        Claim.at_most("Staggered: the default's ATT is not biased (true ATT about 2)", OURS, bias[SETTLED, 0], 0.1),
        Claim.at_most(
            "Staggered: two sweeps leave no bias in the ATT",
            OURS,
            bias[TWO, 0],
            0.1,
            known_not_to_hold="two sweeps stop far from where the fit ends",
        ),
        Claim.at_most(
            "Staggered: after two sweeps `panel_effects` warns",
            OURS,
            quiet.mean(),
            0.0,
            quantity="share that says nothing",
        ),
        Claim.at_most(
            "Switching at random: the default is as accurate as two sweeps",
            OURS,
            random.rmse[SETTLED] / random.rmse[TWO],
            1.02,
            quantity="rmse of units, default / two sweeps",
        ),
        Claim.at_most(
            "Switching at random: the default's ATT is not biased",
            OURS,
            abs(random.error[SETTLED, 0].mean()),
            0.1,
            known_not_to_hold=(
                f"{np.sum(np.abs(random.error[SETTLED, 0]) > 10)} of {random.error.shape[-1]} panels are off by 20, "
                "the level: sign flips, misled by units with few cells, take an arm for rank 0 (`panel_effects` warns)"
            ),
        ),
        Claim.at_most(
            "Switching at random, panels whose rank is not 0: the default's ATT is not biased",
            OURS,
            abs(random.error[SETTLED, 0][np.abs(random.error[SETTLED, 0]) < 10].mean()),
            0.1,
        ),
        Claim.at_most(
            "Staggered: averages over all periods are not biased",
            OURS,
            bias[ALL, 1],
            0.1,
            quantity="|bias| of the ATE",
            known_not_to_hold="periods without a treated unit count with an outcome of 0: periods='overlap'",
        ),
    ]


def _of_intervals(late: Result) -> list[Claim]:
    half = (HIGH - LOW) / 2 + 1e-9
    rows = [
        Claim.close_to(
            "Staggered: 95% intervals of units", OURS, late.units[SETTLED], LOW + half, half, quantity="coverage"
        )
    ]
    z = late.error[SETTLED] / late.se[SETTLED]
    for what, value in zip(("ATT", "ATE"), z, strict=True):
        covered = np.mean(np.abs(value) <= NORMAL_QUANTILE)
        rows.append(
            Claim.close_to(
                f"Staggered: 95% intervals of the {what} by normal quantiles",
                OURS,
                covered,
                LOW + half,
                half,
                quantity="coverage",
            )
        )
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Errors of the ATT of every panel."""
    figure, axes = subplots(1, 2, size=(5.4, 3.0))
    for axis, name, error in zip(axes[0], DESIGNS, result.error[:, :ALL, 0], strict=True):
        axis.boxplot(list(error), orientation="horizontal", tick_labels=METHODS[:ALL], medianprops={"color": BLUE})
        axis.axvline(0, color="black", lw=0.8)
        axis.set(xlabel=f"ATT less the truth, {name}")
    return {"Error of the ATT by the refinement, one value for each panel": figure}
