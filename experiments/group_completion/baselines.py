"""Generic imputers beside GAME: group dummies, nearest neighbours, chained regressions, column means.

Caution: the levels have zero mean here, which handicaps everything that uses labels through means (dummies,
regressions) by construction; these margins say little about real side information. The regressions and dummies see the
labels as indicator columns. Nearest neighbours and regressions run at default-like settings while soft-impute,
separate completion and GAME have lambda tuned: the comparison favours the latter.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge

from experiments._sweep import sweep
from experiments.group_completion._tables import (
    Comparison,
    Design,
    Table,
    draws,
    factors_of,
    layouts,
    one_lambda,
    paths,
    standard_error,
)
from experiments.group_completion.sweep import REGIME
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, GREY, subplots
from jaxspec.completion import SoftImpute

SOURCE = "specification, section 6"
OURS = ("soft-impute", "separate", "GAME, first attribute", "GAME")
PEERS = ("dummies + soft-impute", "column mean", "nearest neighbours", "chained Bayesian ridge", "chained extra-trees")
DUMMY_RIDGE = 1.0  # observations' worth of shrinkage of the effect of a level


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 5000  # first seed
    seeds: int = 6
    rows: int = 120
    columns: int = 40
    density: float = 0.4  # mean share observed
    neighbours: int = 5
    trees: int = 10
    rounds: int = 3  # of the chained regressions
    tol: float = 1e-3  # relative duality gap of each solve


PRESETS = {"quick": Config(), "full": Config(seeds=20, rows=1000, columns=100, trees=50, rounds=10)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        methods: names, shape (9,).
        nrmse: on unobserved entries against the noiseless table, shape (9, S) for S seeds.
    """

    methods: Any
    nrmse: Any


def run(config: Config, progress: Progress) -> Result:
    """Completes every table by every method."""
    design = Design(config.rows, config.columns)
    comparison = Comparison(config.tol, design.levels, 1 + design.rank)
    factors = np.stack([factors_of(design, attributes=names) for names in ("A", "AB")])
    seeds = jnp.arange(config.seed, config.seed + config.seeds)
    with jax.enable_x64(True):
        tables = draws(config.seeds, config.seed, design, REGIME, config.density)
        repeated = jnp.broadcast_to(jnp.asarray(factors), (config.seeds, *factors.shape))
        ours = sweep(comparison, seeds, tables, layouts(tables), repeated).nrmse.T
        dummies = sweep(Dummies(config.tol, design.levels), seeds, tables)
        host = jax.tree.map(np.asarray, tables)
        peers = [_nrmse(dummies, host)]
        for name in progress.track("imputers", PEERS[1:]):
            completed = [
                _impute(name, config, design, jax.tree.map(lambda x, s=s: x[s], host)) for s in range(len(seeds))
            ]
            peers.append(_nrmse(np.stack(completed), host))
    return Result(np.asarray(OURS + PEERS), np.concatenate([ours, np.stack(peers)]))


@dataclass(frozen=True)
class Dummies:
    """Effects of the levels on every column by ridge regression, then soft-impute of what is left; equal by value.

    Attributes:
        tol: relative duality gap.
        levels: of each attribute.
    """

    tol: float
    levels: tuple[int, ...]

    def __call__(self, seed: Array, table: Table) -> Array:
        """The completion."""
        X = indicators(table.labels, self.levels).astype(table.data.dtype)
        seen = table.mask.astype(X.dtype)
        gram = jnp.einsum("ip,ij,iq->jpq", X, seen, X) + DUMMY_RIDGE * jnp.eye(X.shape[1])
        effects = jax.vmap(partial(jax.scipy.linalg.solve, assume_a="pos"))(gram, (X.T @ (seen * table.data)).T)
        means = X @ effects.T
        rest = paths(SoftImpute(tol=self.tol), table.data - means, table.mask, jax.random.key(seed))
        return means + one_lambda(rest).M


def indicators(labels: Any, levels: tuple[int, ...]) -> Any:
    """One column per level of every attribute."""
    return jnp.concatenate([labels[:, q, None] == jnp.arange(count) for q, count in enumerate(levels)], axis=1)


def _impute(name: str, config: Config, design: Design, table: Table) -> np.ndarray:
    holes = np.where(table.mask, table.data, np.nan)
    means = np.nan_to_num(np.nanmean(holes, axis=0))
    if name == "column mean":
        return np.where(table.mask, table.data, means)
    if name == "nearest neighbours":
        return KNNImputer(n_neighbors=config.neighbours, keep_empty_features=True).fit_transform(holes)
    if name == "chained Bayesian ridge":
        model = BayesianRidge()
    else:
        model = ExtraTreesRegressor(config.trees, random_state=config.seed)
    chained = IterativeImputer(model, max_iter=config.rounds, random_state=config.seed, keep_empty_features=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        known = np.asarray(indicators(jnp.asarray(table.labels), design.levels), float)
        return chained.fit_transform(np.concatenate([holes, known], axis=1))[:, : holes.shape[1]]


def _nrmse(completed: np.ndarray, tables: Table) -> np.ndarray:
    missing = ~tables.mask
    error = np.sum(missing * (completed - tables.truth) ** 2, axis=(1, 2))
    return np.sqrt(error / np.sum(missing * tables.truth**2, axis=(1, 2)))


def claims(result: Result) -> list[Claim]:
    """GAME against every imputer."""
    own = dict(zip(map(str, result.methods), result.nrmse, strict=True))
    rows = []
    for name in ("soft-impute", *PEERS):
        statement = f"GAME predicts unobserved entries better than {name} (zero-mean levels: see the caution)"
        wins = np.mean(own["GAME"] < own[name])
        rows.append(Claim.at_least(statement, SOURCE, wins, 5 / 6, quantity="share of seeds"))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Errors of all methods."""
    figure, axes = subplots(size=(6.5, 3.4))
    order = np.argsort(result.nrmse.mean(axis=-1))
    colors = [BLUE if str(result.methods[m]) in OURS else GREY for m in order]
    values = result.nrmse[order]
    axes[0, 0].barh(np.arange(len(order)), values.mean(-1), xerr=standard_error(values), color=colors)
    axes[0, 0].set_yticks(np.arange(len(order)), [str(result.methods[m]) for m in order], fontsize=8.5)
    axes[0, 0].set_xlabel("nRMSE on unobserved entries")
    axes[0, 0].invert_yaxis()
    return {"Imputers on entries missing by level and block of columns, mean over seeds with standard errors": figure}
