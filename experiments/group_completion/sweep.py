"""What the comparison depends on: density, rank, an attribute that says nothing, and a group of all rows.

Entries are missing by level and block of columns. The settings in which GAME may lose are part of the table: an
attribute that says nothing, against separate completion, which is told the right one; and parts of high rank.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.group_completion._tables import Design, compare, factors_of, standard_error
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots

SOURCE = "specification, section 6"
REGIME = "group x column block"
GLOBAL = 0.5  # factor of the group of all rows, where there is one
METHODS = (
    "soft-impute",
    "separate",
    "GAME, first attribute",
    "GAME",
    "GAME, first attribute and all rows",
    "GAME and all rows",
)
USELESS = (
    "no loss with entries missing by level and block: on 20 seeds 0.634 with the useless groups, 0.636 without, 0.637 "
    "separate (a group of all rows in their place: 0.619); the loss of 4% in the specification is of 3 seeds"
)
INSTEAD = (
    "at rank 1 and density .6 the weaker attribute is worth more than a group of all rows; beside it that one helps"
)


class Setting(NamedTuple):
    """What differs from the base: density 0.4, rank 2, strengths 1 and 0.5 of two attributes.

    Attributes:
        density: mean share observed.
        rank: of the part of each level.
        second: strength of the second attribute.
        levels: of both attributes.
        rows: of the table.
    """

    density: float = 0.4
    rank: int = 2
    second: float = 0.5
    levels: tuple[int, int] = (3, 2)
    rows: int = 120


SETTINGS = {
    "base": Setting(),
    "density .25": Setting(density=0.25),
    "density .6": Setting(density=0.6),
    "rank 1": Setting(rank=1),
    "rank 4": Setting(rank=4),
    "second attribute irrelevant": Setting(second=0.0),
    "levels 5 and 3": Setting(levels=(5, 3), rows=200),
}


@dataclass(frozen=True)
class Config:
    """Settings of the sweep."""

    seed: int = 4800  # first seed
    seeds: int = 3
    columns: int = 40
    enlarged: int = 1  # rows of every setting are multiplied by this
    settings: tuple[str, ...] = tuple(SETTINGS)[:-1]
    tol: float = 1e-2  # relative duality gap of each solve; the errors are right to three digits


PRESETS = {"quick": Config(), "full": Config(seeds=20, columns=400, enlarged=33, settings=tuple(SETTINGS), tol=1e-3)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        settings: names, shape (K,).
        methods: names, shape (6,).
        nrmse: on unobserved entries against the noiseless table, shape (K, 6, S) for S seeds.
    """

    settings: Any
    methods: Any
    nrmse: Any


def run(config: Config, progress: Progress) -> Result:
    """Completes every table by every method."""
    with jax.enable_x64(True):
        nrmse = [measure(config, SETTINGS[name]) for name in progress.track("settings", config.settings)]
    return Result(np.asarray(config.settings), np.asarray(METHODS), np.stack(nrmse))


def measure(config: Config, setting: Setting) -> np.ndarray:
    """NRMSE of every method, shape (6, seeds)."""
    rows = setting.rows * config.enlarged
    design = Design(rows, config.columns, setting.levels, (1.0, setting.second), setting.rank)
    factors = np.stack([factors_of(design, attributes=a, everyone=e) for e in (0.0, GLOBAL) for a in ("A", "AB")])
    return compare(
        config.seeds,
        config.seed,
        design,
        REGIME,
        setting.density,
        factors=factors,
        tol=config.tol,
        everyone=0.0,
        compared=1 + Setting().rank,  # sin-Theta is not shown: one program for tables of every rank
    ).nrmse.T


def claims(result: Result) -> list[Claim]:
    """Where GAME wins, where it loses, and what a group of all rows does."""
    means = {
        str(setting): dict(zip(map(str, result.methods), values.mean(axis=-1), strict=True))
        for setting, values in zip(result.settings, result.nrmse, strict=True)
    }
    rows = []
    for setting, mean in means.items():
        statement = f"GAME predicts better than soft-impute in the mean over seeds ({setting})"
        ratio = mean["GAME"] / mean["soft-impute"]
        rows.append(Claim.at_most(statement, SOURCE, ratio, 1.0, quantity="ratio of mean nRMSE"))
    if "second attribute irrelevant" in means:
        mean = means["second attribute irrelevant"]
        for statement, peer in (
            ("GAME with useless groups loses to separate completion by the attribute that matters", "separate"),
            ("Useless groups cost accuracy: both attributes against the one that matters", "GAME, first attribute"),
        ):
            ratio = mean["GAME"] / mean[peer]
            rows.append(
                Claim.at_least(statement, SOURCE, ratio, 1.0, quantity="ratio of mean nRMSE", known_not_to_hold=USELESS)
            )
    both = [name for name in means if name != "second attribute irrelevant"]
    ratio = [means[name]["GAME, first attribute and all rows"] / means[name]["GAME"] for name in both]
    statement = (
        "A group of all rows instead of the weaker attribute predicts at least as well (one of several variants)"
    )
    rows.append(
        Claim.at_most(statement, SOURCE, ratio, 1.0, quantity="largest ratio of mean nRMSE", known_not_to_hold=INSTEAD)
    )
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """NRMSE of every method in every setting."""
    figure, axes = subplots(size=(9.5, 3.6))
    places, methods = np.arange(len(result.settings)), len(result.methods)
    for m, method in enumerate(result.methods):
        values = result.nrmse[:, m]
        shifted = places + 0.8 * (m - (methods - 1) / 2) / methods
        axes[0, 0].bar(
            shifted, values.mean(-1), 0.75 / methods, yerr=standard_error(values), label=str(method), color=COLORS[m]
        )
    axes[0, 0].set_xticks(places, [str(name).replace(" ", "\n", 1) for name in result.settings], fontsize=8)
    axes[0, 0].set_ylabel("nRMSE")
    axes[0, 0].set_ylim(0.3, None)
    axes[0, 0].legend(fontsize=7.5, ncols=3)
    return {"Sweep over density, rank and attributes, entries missing by level and block of columns": figure}
