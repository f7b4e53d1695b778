"""Real tables whose rows carry labels: do groups help to predict what was held out?

IL-2 responses (tensorly; 50 rows, one per ligand and time that was measured, 96 columns: dose and cell type; labels:
ligand, time) and COVID-19 serology (tensorly; 438 samples, 66 columns: antigen and receptor; label: outcome), both
licensed by the Regents of the University of California under the MIT licence; handwritten digits (scikit-learn, from
the UCI repository, CC BY 4.0; 8 x 8 pixels; label: digit). Columns are standardised with the observed entries.

A random part of the measured entries is hidden for the test. Everything is chosen on the rest; ``everyone`` must hold 0
and 1, which are GAME on all attributes and soft-impute.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer
from tensorly import datasets

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.completion import Game, GroupChoice, Groups, choose_groups, game, make_groups, paired_hold_out
from jaxspec.completion.groups import EVERYONE

SOURCE = "specification, section 6: real data"
METHODS = ("column mean", "nearest neighbours", "soft-impute", "GAME, all attributes", "GAME, chosen groups")


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 5100  # first seed
    seeds: int = 2  # random test sets
    tables: tuple[str, ...] = ("il2", "covid")
    hidden: float = 0.5  # share of the measured entries that is hidden for the test
    everyone: tuple[float, ...] = (0.0, 1.0)  # factors of the group of all rows to try
    splits: int = 1
    tol: float = 1e-2  # relative duality gap of each solve


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=20, tables=("il2", "covid", "digits"), everyone=(0.0, 0.25, 0.5, 1.0), splits=5, tol=1e-3),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        tables: names, shape (T,).
        methods: names, shape (5,).
        rmse: on the hidden entries, in standard deviations of their columns, shape (T, 5, S) for S test sets.
        z: gain of GAME with all attributes over soft-impute in a paired 5-fold test on the observed entries, over its
            standard error, shape (T, S).
        everyone: chosen factor of the group of all rows, shape (T, S).
        attributes: number of attributes that were chosen, shape (T, S).
    """

    tables: Any
    methods: Any
    rmse: Any
    z: Any
    everyone: Any
    attributes: Any


def labelled_table(name: str) -> tuple[np.ndarray, pd.DataFrame]:
    """A table (NaN: not measured) and the labels of its rows.

    Args:
        name: ``il2``, ``covid`` or ``digits``.

    Returns:
        Values and labels.
    """
    if name == "digits":
        digits = load_digits()
        return digits.data[:500], pd.DataFrame({"digit": digits.target[:500]})
    if name == "il2":
        bunch = datasets.load_IL2data()
        ligands, times, *_ = bunch.tensor.shape
        names = [(ligand, time) for ligand in bunch.ticks[0] for time in bunch.ticks[1]]
        values, labels = bunch.tensor.reshape(ligands * times, -1), pd.DataFrame(names, columns=["ligand", "time"])
        measured = np.isfinite(values).any(axis=1)
        return values[measured], labels[measured].reset_index(drop=True)
    if name == "covid":
        bunch = datasets.load_covid19_serology()
        return bunch.tensor.reshape(len(bunch.tensor), -1), pd.DataFrame({"outcome": np.asarray(bunch.ticks[0], str)})
    raise ValueError(f"name is {name!r}; expected il2, covid or digits")


def run(config: Config, progress: Progress) -> Result:
    """Hides, chooses, completes and looks."""
    cells = []
    with jax.enable_x64(True):
        for name in progress.track("tables", config.tables):
            values, labels = labelled_table(name)
            runs = []
            with progress.stage(name, total=config.seeds):
                for s in range(config.seeds):
                    runs.append(_measure(config, values, labels, config.seed + s))
                    progress.advance()
            cells.append([np.stack(column, axis=-1) for column in zip(*runs, strict=True)])
    columns = [np.stack(column) for column in zip(*cells, strict=True)]
    return Result(np.asarray(config.tables), np.asarray(METHODS), *columns)


def _measure(config: Config, values: np.ndarray, labels: pd.DataFrame, seed: int) -> tuple:
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    measured = np.isfinite(values)
    seen = measured & (rng.random(values.shape) >= config.hidden)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, values, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(seen, values - mean, 0) ** 2).sum(axis=0) / count)
    scaled = np.where(measured, (values - mean) / np.where(spread > 0, spread, 1), 0)
    test, Y, W = measured & ~seen, jnp.asarray(np.where(seen, scaled, 0)), jnp.asarray(seen, float)
    groups = make_groups(labels, len(labels), everyone=1.0)
    options = {"everyone": config.everyone, "splits": config.splits, "tol": config.tol}
    choice = choose_groups(Y, W, groups, None, key, **options)
    # Soft-impute is GAME with the group of all rows alone, so that one compiled program serves all of them.
    candidates = [(), 1.0], [tuple(labels.columns), 0.0]
    soft, every = (_candidate(groups, choice, attributes, factor) for attributes, factor in candidates)
    chosen = choice.groups, choice.lam
    fits = [game(Y, W, own, lam, tol=config.tol, validate=False).M for own, lam in (soft, every, chosen)]
    neighbours = KNNImputer(keep_empty_features=True).fit_transform(np.where(seen, scaled, np.nan))
    fits = [np.zeros_like(scaled), neighbours, *fits]
    errors = [np.sqrt(np.mean((np.asarray(fit) - scaled)[test] ** 2)) for fit in fits]
    solvers = [Game(own, tol=config.tol) for own, _ in (every, soft)]
    paired = paired_hold_out(*solvers, Y, W, [every[1], soft[1]], key)
    used = dict(zip(choice.groups.attributes, choice.groups.factors, strict=True))
    attributes = sum(used[name] > 0 for name in labels.columns)
    return np.asarray(errors), float(paired.z), choice.groups.factors[-1], attributes


def _candidate(groups: Groups, choice: GroupChoice, attributes: tuple[str, ...], everyone: float) -> tuple[Groups, Any]:
    """Groups of a candidate, and the lambda that its hold-out curve chooses."""
    place = list(zip(choice.attributes, choice.everyone, strict=True)).index((attributes, everyone))
    factors = [everyone if name == EVERYONE else float(name in attributes) for name in groups.attributes]
    return groups.with_factors(factors), choice.lams[jnp.argmin(choice.errors[place])]


def claims(result: Result) -> list[Claim]:
    """The choice against soft-impute, and whether the paired test foretells the test error."""
    rows = []
    for table, values, z in zip(result.tables, result.rmse, result.z, strict=True):
        mean, _, soft, every, chosen = values
        best = np.minimum(soft.mean(), every.mean())
        statement = f"Chosen groups predict within 2% of the better of soft-impute and GAME on all attributes ({table})"
        rows.append(Claim.at_most(statement, SOURCE, chosen.mean() / best, 1.02, quantity="ratio of mean error"))
        statement = f"Low rank predicts better than column means ({table})"
        rows.append(Claim.at_most(statement, SOURCE, chosen / mean, 1.0, quantity="ratio of errors"))
        agree = np.where(np.abs(z) > 2, np.sign(z) == np.sign(soft - every), True)
        statement = f"Where the paired test on observed entries is beyond 2, the test entries agree ({table})"
        rows.append(Claim.at_least(statement, SOURCE, np.mean(agree), 1.0, quantity="share of test sets"))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Errors on the hidden entries."""
    figure, axes = subplots(1, len(result.tables), size=(4.0, 3.2))
    for axis, table, values, z in zip(axes[0], result.tables, result.rmse, result.z, strict=True):
        axis.plot(np.arange(len(METHODS)), values, ".", color=COLORS[6])
        axis.plot(np.arange(len(METHODS)), values.mean(axis=-1), "o", color=COLORS[0])
        axis.set_xticks(np.arange(len(METHODS)), METHODS, rotation=35, ha="right", fontsize=8)
        axis.set_title(f"{table}: paired z {z.min():.1f} to {z.max():.1f}", fontsize=9)
        axis.set_ylim(0, None)
    axes[0, 0].set_ylabel("error on hidden entries / s.d.")
    return {"Held-out error on measured tables; dots: test sets": figure}
