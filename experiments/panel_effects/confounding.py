"""What unknown propensities do to the effects of units: bias and error with confounding of units, and within units.

Row scaling removes confounding of units. Where the probability of treatment varies within a unit together with the
outcome, the one-step estimator is as biased as the difference of the row's means: by design, and reported here.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.panel_effects._panels import Design, Panel, draw
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.completion.panel import row_scaled_spectral
from jaxspec.linalg import ordered

PAPER = "arXiv 2605.30319, row scaling"
OURS = "specification, experiments E2 and E3 (beyond the paper)"
DESIGNS = ("units", "within units")
METHODS = ("difference in means", "one global propensity", "one-step", "known propensity", "low-rank", "refine 2")
RANK = 2


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 200
    seeds: int = 10  # panels of each design
    side: int = 200  # units and periods
    sigma: float = 0.5  # standard deviation of the errors
    low: float = 0.15  # smallest probability of treatment
    high: float = 0.85


PRESETS = {"quick": Config(), "full": Config(seeds=40, side=400)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        designs: names, shape (2,).
        methods: names, shape (M,).
        bias: mean error of the effects of units, shape (2, M, S).
        rmse: their root mean square error, shape (2, M, S).
        pairs: true and estimated effects of the first panel, shape (2, 1 + M, n).
    """

    designs: Any
    methods: Any
    bias: Any
    rmse: Any
    pairs: Any


def run(config: Config, progress: Progress) -> Result:
    """All methods on the same panels, one method at a time."""
    within, seeds = np.repeat([False, True], config.seeds), np.tile(np.arange(config.seeds), 2)
    effects = []
    with jax.enable_x64(True), progress.stage("methods", total=1):
        keys = jax.vmap(jax.random.key)(config.seed + seeds)

        def one(key: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array]:
            shape = (config.side, config.side)
            panel = draw(key, Design(shape, RANK, config.sigma, inside, config.low, config.high))
            return panel.tau, estimates(panel)

        truth, effects = sweep(one, keys, within)
        progress.advance()
    error = effects - truth[:, None]
    by_design = lambda x: np.moveaxis(x.reshape(2, config.seeds, -1), 1, 2)  # noqa: E731
    first = np.concatenate([truth[:, None], effects], axis=1)[:: config.seeds]
    return Result(
        np.asarray(DESIGNS),
        np.asarray(METHODS),
        by_design(error.mean(axis=-1)),
        by_design(np.sqrt((error**2).mean(axis=-1))),
        first,
    )


def estimates(panel: Panel) -> jax.Array:
    """Effects of the units by every method, shape (M, n); each fit waits for the one before."""
    W = panel.D.astype(panel.Y.dtype)
    means = [jnp.sum(w * panel.Y, axis=1) / jnp.sum(w, axis=1) for w in (1 - W, W)]
    found = [means[1] - means[0]]
    everywhere = jnp.full_like(panel.Y, jnp.mean(W))
    for propensity, refine in ((everywhere, 0), ("row", 0), (panel.p, 0), ("low_rank", 0), ("row", 2)):
        fit = row_scaled_spectral(
            ordered(panel.Y, found[-1]), panel.D, rank=RANK, propensity=propensity, refine=refine, validate=False
        )
        found.append(fit.tau)
    return jnp.stack(found)


def claims(result: Result) -> list[Claim]:
    """Bias by method and design; the one-step estimator's own bias is on the page."""
    of = {str(name): index for index, name in enumerate(result.methods)}
    bias, rmse = result.bias.mean(axis=-1), np.sqrt((result.rmse**2).mean(axis=-1))
    units, within = ({name: (bias[d, m], rmse[d, m]) for name, m in of.items()} for d in (0, 1))
    naive = within["difference in means"]
    text = "|bias|, mean over panels"
    return [
        Claim.at_most(
            "Row scaling removes confounding of units",
            PAPER,
            abs(units["one-step"][0]),
            0.03,
            quantity=text,
        ),
        Claim.at_most("So does refinement", OURS, abs(units["refine 2"][0]), 0.015, quantity=text),
        Claim.at_least(
            "One propensity for all units leaves a large bias",
            OURS,
            abs(units["one global propensity"][0]),
            0.3,
            quantity=text,
        ),
        Claim.at_most(
            "Within-unit confounding: refinement is not biased", OURS, abs(within["refine 2"][0]), 0.02, quantity=text
        ),
        Claim.at_most(
            "Within-unit confounding: refinement has less than .45 of the error of the difference in means",
            OURS,
            within["refine 2"][1] / naive[1],
            0.45,
            quantity="rmse of tau, refined / naive",
        ),
        Claim.at_most(
            "Within-unit confounding: a low-rank propensity is not biased",
            OURS,
            abs(within["low-rank"][0]),
            0.02,
            quantity=text,
        ),
        *_known(units, within),
    ]


def _known(units: dict, within: dict) -> list[Claim]:
    """What one may read into the estimator and does not hold."""
    return [
        Claim.at_most(
            "Within-unit confounding: row scaling removes it, too",
            "the one-step estimator, read as a cure for all confounding",
            abs(within["one-step"][0]),
            0.02,
            quantity="|bias|, mean over panels",
            known_not_to_hold="row shares know nothing of a propensity that varies within the row: the one-step "
            "estimator has the bias of the row's difference in means",
        ),
        Claim.at_most(
            "Confounding of units: the one-step effects of units beat the row's difference in means",
            "the one-step estimator, read as better for the effects of units",
            units["one-step"][1] / units["difference in means"][1],
            0.98,
            quantity="rmse of tau, one-step / naive",
            known_not_to_hold="with a propensity that is constant within the row the difference in means is unbiased "
            "and as precise; the gain is the recovery of the whole row",
        ),
        Claim.at_most(
            "Confounding of units: knowing the propensities helps",
            "intuition",
            units["known propensity"][1] / units["one-step"][1],
            1.0,
            quantity="rmse of tau, known / row shares",
            known_not_to_hold="the row's own share normalises the row's sum; the known probability does not",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Estimated against true effects, and the errors of all methods."""
    scatter, axes = subplots(2, len(result.methods), size=(2.3, 2.3), sharex=True, sharey=True)
    for row, name, pairs in zip(axes, result.designs, result.pairs, strict=True):
        for axis, method, effects in zip(row, result.methods, pairs[1:], strict=True):
            axis.plot(pairs[0], effects, ".", ms=2)
            axis.plot([-0.5, 1.5], [-0.5, 1.5], color="black", lw=0.8)
            axis.set_title(str(method), fontsize=8)
        row[0].set_ylabel(f"{name}: estimate")
    axes[-1, 0].set_xlabel("true effect")
    bars, (row,) = subplots(1, 2, size=(4.6, 3.2), sharey=True)
    for axis, values, label in zip(row, (result.bias, result.rmse), ("bias", "rmse"), strict=True):
        for d, name in enumerate(result.designs):
            axis.barh(
                np.arange(len(result.methods)) + 0.4 * d, values[d].mean(axis=-1), 0.38, color=COLORS[d], label=name
            )
        axis.set(yticks=np.arange(len(result.methods)) + 0.2, yticklabels=result.methods, xlabel=f"{label} of tau")
    row[0].legend(title="confounding of")
    return {"Estimated against true effects of units, one panel": scatter, "Bias and error of the effects": bars}
