"""Joint choice of lambda, attributes and the weight of a group of all rows by cross-validation.

Nobody tells a user which groups are useless. `choose_groups` looks at held-out entries; its choice is compared with
GAME on all attributes and with the candidate that would have been best. Held-out entries are missing at random among
the observed ones, the unobserved ones are not: the choice is made for another distribution than the one it is judged
on.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.group_completion._tables import Comparison, Design, Table, draws, factors_of, layouts, row_groups
from experiments.group_completion.sweep import REGIME, SETTINGS
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.completion import choose_groups, game

SOURCE = "specification, section 6: choose by cross-validation"
ELSEWHERE = (
    "1% worse: on held-out entries, which are missing at random, the second attribute earns nothing; on the unobserved "
    "ones, which are missing by level and block, it does"
)


@dataclass(frozen=True)
class Config:
    """Settings of the choice."""

    seed: int = 4900  # first seed
    seeds: int = 3
    rows: int = 120
    columns: int = 40
    settings: tuple[str, ...] = ("base", "second attribute irrelevant")
    everyone: tuple[float, ...] = (0.0, 0.5)  # factors of the group of all rows to try
    splits: int = 2
    tol: float = 1e-2  # relative duality gap of each solve


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=20, rows=4000, columns=400, everyone=(0.0, 0.25, 0.5, 1.0), splits=3),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        settings: names, shape (K,).
        candidates: sets of groups, shape (C,).
        nrmse: of every candidate with its best lambda, shape (K, C, S) for S seeds.
        chosen_nrmse: of the chosen groups and lambda, shape (K, S).
        chosen: number of the chosen candidate, shape (K, S).
        uses_second: whether the second attribute was chosen, shape (K, S).
    """

    settings: Any
    candidates: Any
    nrmse: Any
    chosen_nrmse: Any
    chosen: Any
    uses_second: Any


def run(config: Config, progress: Progress) -> Result:
    """Chooses, and fits every candidate for comparison."""
    with jax.enable_x64(True):
        cells = [_measure(config, name, progress) for name in progress.track("settings", config.settings)]
    candidates = [name for name, *_ in _candidates(config)]
    columns = [np.stack(column) for column in zip(*cells, strict=True)]
    return Result(np.asarray(config.settings), np.asarray(candidates), *columns)


def _candidates(config: Config) -> list[tuple[str, str, float]]:
    """Name, attributes and factor of the group of all rows; the first attribute alone comes first."""
    pairs = [(attributes, factor) for attributes in ("A", "B", "AB", "") for factor in config.everyone]
    kept = [(attributes, factor) for attributes, factor in pairs if attributes or factor > 0]
    # Without attributes the weight of the only group is absorbed by lambda.
    alone = [pair for pair in kept if not pair[0]][:1]
    kept = [pair for pair in kept if pair[0]] + alone
    return [(" + ".join([*attributes, *([f"{f:g} all rows"] if f else [])]), attributes, f) for attributes, f in kept]


def _measure(config: Config, name: str, progress: Progress) -> tuple[np.ndarray, ...]:
    setting = SETTINGS[name]
    design = Design(config.rows, config.columns, setting.levels, (1.0, setting.second), setting.rank)
    tables = draws(config.seeds, config.seed, design, REGIME, setting.density)
    comparison = Comparison(config.tol, design.levels, 1 + design.rank)
    candidates = _candidates(config)
    factors = np.stack([factors_of(design, attributes=a, everyone=f) for _, a, f in candidates])
    repeated = jnp.broadcast_to(jnp.asarray(factors), (config.seeds, *factors.shape))
    seeds = jnp.arange(config.seed, config.seed + config.seeds)
    every = sweep(comparison, seeds, tables, layouts(tables, 1.0), repeated).nrmse.T[2:]
    errors, chosen, second = [], [], []
    with progress.stage("choices", total=config.seeds):
        for s in range(config.seeds):
            table = jax.tree.map(lambda leaf, s=s: leaf[s], tables)
            used, factor, error = _chosen(config, table, comparison, config.seed + s)
            known = [
                sorted(attributes) == sorted(used) and (not used or f == factor) for _, attributes, f in candidates
            ]
            errors.append(error)
            chosen.append(known.index(True))
            second.append("B" in used)
            progress.advance()
    return every, np.asarray(errors), np.asarray(chosen), np.asarray(second)


def _chosen(config: Config, table: Table, comparison: Comparison, seed: int) -> tuple[str, float, float]:
    groups = row_groups(np.asarray(table.labels), 1.0)
    Y = jnp.where(table.mask, table.data, 0)
    choice = choose_groups(
        Y,
        table.mask,
        groups,
        None,
        jax.random.key(seed),
        everyone=config.everyone,
        splits=config.splits,
        tol=config.tol,
    )
    fit = game(Y, table.mask, choice.groups, choice.lam, tol=config.tol, validate=False)
    used = {a for a, f in zip(choice.groups.attributes, choice.groups.factors, strict=True) if f > 0 and len(a) == 1}
    (layout_of_one,) = [jax.tree.map(lambda leaf: leaf[0], layouts(jax.tree.map(lambda leaf: leaf[None], table), 1.0))]
    nrmse = float(comparison.errors(fit.M, table, layout_of_one)[0])
    return "".join(sorted(used)), float(choice.groups.factors[-1]), nrmse


def claims(result: Result) -> list[Claim]:
    """The choice against GAME on all attributes, and against the best candidate."""
    rows = []
    everything = [str(name) for name in result.candidates].index("A + B")
    first = [str(name) for name in result.candidates].index("A")
    for setting, values, own in zip(result.settings, result.nrmse, result.chosen_nrmse, strict=True):
        best = values.mean(axis=-1).min()
        statement = f"The choice by cross-validation is within 2% of the best candidate in hindsight ({setting})"
        rows.append(Claim.at_most(statement, SOURCE, own.mean() / best, 1.02, quantity="ratio of mean nRMSE"))
        statement = f"The choice predicts at least as well as GAME on all attributes ({setting})"
        ratio = own.mean() / values[everything].mean()
        reason = ELSEWHERE if setting == "base" else ""
        rows.append(
            Claim.at_most(statement, SOURCE, ratio, 1.0, quantity="ratio of mean nRMSE", known_not_to_hold=reason)
        )
        if setting == "second attribute irrelevant":
            statement = "The choice loses at most 1% to GAME that is told which attribute matters"
            ratio = own.mean() / values[first].mean()
            rows.append(Claim.at_most(statement, SOURCE, ratio, 1.01, quantity="ratio of mean nRMSE"))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Errors of all candidates, and of the choice."""
    figure, axes = subplots(1, len(result.settings), size=(4.6, 3.2), sharey=True)
    for axis, setting, values, own in zip(axes[0], result.settings, result.nrmse, result.chosen_nrmse, strict=True):
        places = np.arange(len(values))
        axis.plot(places, values, ".", color=COLORS[6])
        axis.plot(places, values.mean(axis=-1), "o", color=COLORS[0], label="candidates: mean, seeds")
        axis.axhline(own.mean(), color=COLORS[3], ls="--", label="chosen by cross-validation")
        axis.set_xticks(places, [str(name) for name in result.candidates], rotation=40, ha="right", fontsize=8)
        axis.set_title(str(setting))
    axes[0, 0].set_ylabel("nRMSE")
    axes[0, 0].legend(fontsize=8)
    return {"Choice of the groups by cross-validation": figure}
