"""Four missingness regimes, fixed in advance: GAME against soft-impute and against completing every level by itself.

"Separate" completes each level of the first attribute by itself, at its own lambda; it is told which attribute matters
most. All have lambda chosen by the same hold-out. No regime is left out: the abstract says that groups help most where
entries are missing in a structured way, and the gain under MCAR is what that is compared with.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.group_completion._tables import Design, compare, factors_of, gain, standard_error
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, GREY, ORANGE, SKY, subplots

SOURCE = "specification, section 6"
METHODS = ("soft-impute", "separate", "GAME, first attribute", "GAME")
GAINS = {"MCAR": 0.06, "group density 6:3:1": 0.025, "group x column block": 0.03, "both": 0.01}  # to reach, over soft
SHARE = 5 / 6  # of the seeds in which GAME must win


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 4600  # first seed
    seeds: int = 6
    rows: int = 120
    columns: int = 40
    density: float = 0.4  # mean share observed
    regimes: tuple[str, ...] = tuple(GAINS)
    tol: float = 1e-3  # relative duality gap of each solve


PRESETS = {"quick": Config(), "full": Config(seeds=20, rows=4000, columns=400)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        regimes: names, shape (R,).
        methods: names, shape (4,).
        nrmse: on unobserved entries against the noiseless table, shape (R, 4, S) for S seeds.
        sparsest: the same in the level with the fewest rows, shape (R, 4, S).
        sin_theta: of the row spaces, mean over the levels of both attributes, shape (R, 4, S).
        gap: largest relative duality gap of the final fits, shape (R, 4).
        tol: at which the solves stop.
    """

    regimes: Any
    methods: Any
    nrmse: Any
    sparsest: Any
    sin_theta: Any
    gap: Any
    tol: Any


def run(config: Config, progress: Progress) -> Result:
    """Completes every table by every method."""
    design = Design(config.rows, config.columns)
    factors = np.stack([factors_of(design, attributes=names) for names in ("A", "AB")])
    with jax.enable_x64(True):
        errors = [
            compare(config.seeds, config.seed, design, regime, config.density, factors=factors, tol=config.tol)
            for regime in progress.track("regimes", config.regimes)
        ]
    stacked = {name: np.stack([getattr(each, name).T for each in errors]) for name in errors[0]._fields}
    return Result(
        regimes=np.asarray(config.regimes),
        methods=np.asarray(METHODS),
        nrmse=stacked["nrmse"],
        sparsest=stacked["sparsest"],
        sin_theta=stacked["sin_theta"],
        gap=stacked["gap"].max(axis=-1),
        tol=config.tol,
    )


def claims(result: Result) -> list[Claim]:
    """Wins and gains per regime, and where the gain is largest."""
    rows = []
    for regime, (soft, separate, _, game) in zip(result.regimes, result.nrmse, strict=True):
        for name, peer in (("soft-impute", soft), ("separate completion", separate)):
            statement = f"GAME predicts unobserved entries better than {name} ({regime})"
            share, reason = np.mean(game < peer), NOT_SEPARATE.get(str(regime), "") if peer is separate else ""
            rows.append(
                Claim.at_least(statement, SOURCE, share, SHARE, quantity="share of seeds", known_not_to_hold=reason)
            )
        mean, error = gain(game, separate)
        statement = f"GAME is no worse than separate completion in the mean over seeds ({regime}; s.e. {error:.1%})"
        rows.append(Claim.at_least(statement, "measured here", mean, 0.0, quantity="1 - nRMSE ratio"))
        mean, error = gain(game, soft)
        statement = f"Mean gain of GAME over soft-impute ({regime}; standard error {error:.1%})"
        rows.append(Claim.at_least(statement, SOURCE, mean, GAINS[str(regime)], quantity="1 - nRMSE ratio"))
    statement = "Every solve of the final fits reached its duality gap"
    rows.append(Claim.at_most(statement, SOURCE, result.gap, result.tol, quantity="relative gap"))
    return rows + _structured(result)


def _structured(result: Result) -> list[Claim]:
    """Where groups help most."""
    gains = {
        name: {str(regime): gain(own[3], own[0])[0] for regime, own in zip(result.regimes, values, strict=True)}
        for name, values in (("nRMSE", result.nrmse), ("sin-Theta", result.sin_theta))
    }
    rows = []
    for name, own in gains.items():
        structured = {regime: value for regime, value in own.items() if regime != "MCAR"}
        if "MCAR" not in own or not structured:
            continue
        rows.append(
            Claim.at_least(
                f"GAME is most beneficial under structured missingness: its gain in {name} over soft-impute is larger "
                "there than under MCAR (best structured regime)",
                "abstract",
                max(structured.values()) - own["MCAR"],
                0.0,
                quantity="difference of gains",
                known_not_to_hold=KNOWN[name],
            )
        )
    return rows + _sparsest(result)


NOT_SEPARATE = {
    "MCAR": "against levels with a lambda of their own and the right attribute given it is a tie: 13 of 24 seeds",
    "group density 6:3:1": "better in the mean, but not in five of six seeds: 19 of 24",
    "both": "better in the mean, but not in five of six seeds: 18 of 24",
}
KNOWN = {
    "nRMSE": "the gain is largest where entries are missing at random and smallest in the harshest structured regime",
    "sin-Theta": "the same holds for the row spaces",
}


def _sparsest(result: Result) -> list[Claim]:
    own = {
        str(regime): gain(game, separate)[0]
        for regime, (_, separate, _, game) in zip(result.regimes, result.sparsest, strict=True)
    }
    uneven = [own[name] for name in ("group density 6:3:1", "both") if name in own]
    if "MCAR" not in own or not uneven:
        return []
    statement = "In the sparsest level the gain over separate completion is larger where the levels differ in density"
    return [
        Claim.at_least(
            statement,
            "a hypothesis of the specification, section 6, from other seeds",
            min(uneven) - own["MCAR"],
            0.0,
            quantity="difference of gains from that under MCAR",
            known_not_to_hold="it was picked after seeing other results; on 24 fresh seeds there is no difference",
        )
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Errors of the methods in every regime."""
    figure, axes = subplots(1, 3, size=(4.4, 3.4))
    panels = (("nRMSE", result.nrmse), ("nRMSE, sparsest level", result.sparsest), ("sin-Theta", result.sin_theta))
    places = np.arange(len(result.regimes))
    for axis, (title, values) in zip(axes[0], panels, strict=True):
        for m, (method, color) in enumerate(zip(result.methods, (GREY, ORANGE, SKY, BLUE), strict=True)):
            errors = standard_error(values[:, m])
            axis.bar(places + 0.21 * (m - 1.5), values[:, m].mean(-1), 0.2, yerr=errors, label=str(method), color=color)
        axis.set_xticks(places, [str(name).replace(" ", "\n", 1) for name in result.regimes], fontsize=7.5)
        axis.set_title(title)
    axes[0, 0].legend(fontsize=8, loc="lower right")
    return {"Errors in the four missingness regimes, mean over seeds with standard errors": figure}
