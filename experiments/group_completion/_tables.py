"""Synthetic tables with labelled rows, four ways to miss entries, and fits whose lambda is chosen by hold-out.

``M_i = 0.7 shared rank-1 + U_A V_{A,a(i)}^T + 0.5 U_B V_{B,b(i)}^T``, scaled to unit standard deviation. The levels of
an attribute have fixed sizes, proportional to L, ..., 1, and random rows: then all seeds share one compiled program.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from experiments._sweep import sweep
from jaxspec.completion import Game, Groups, SoftImpute, group_sin_theta, make_groups
from jaxspec.completion.cross_validation import Solver
from jaxspec.completion.group_layout import Layout, layout
from jaxspec.completion.hold_out import hide
from jaxspec.completion.metrics import rmse
from jaxspec.solvers.stopping import safe_ratio

SPARSE_BLOCK = 0.1  # density of a level's own block of columns over that of the others
GRID = np.logspace(0, -2, 9)  # lambda over lambda_max
HELD_OUT = 0.15  # share of the observed entries on which lambda is chosen


@dataclass(frozen=True)
class Design:
    """How a synthetic table is made.

    Attributes:
        rows: number of rows.
        columns: number of columns.
        levels: of each attribute.
        strengths: of each attribute's part.
        rank: of the part of each level.
        noise: standard deviation, M has 1.
    """

    rows: int = 120
    columns: int = 40
    levels: tuple[int, ...] = (3, 2)
    strengths: tuple[float, ...] = (1.0, 0.5)
    rank: int = 2
    noise: float = 0.3


class Table(NamedTuple):
    """A table with gaps.

    Attributes:
        truth: without noise, (n, d).
        data: with noise, (n, d).
        mask: True where observed, (n, d).
        labels: level of each row, one column per attribute, (n, attributes).
    """

    truth: Float[Array, "*batch n d"]
    data: Float[Array, "*batch n d"]
    mask: Bool[Array, "*batch n d"]
    labels: Int[Array, "*batch n attributes"]


def level_sizes(rows: int, levels: int) -> np.ndarray:
    """Sizes proportional to L, ..., 1 that add up to the rows."""
    ends = np.cumsum(np.arange(levels, 0, -1)) / (levels * (levels + 1) / 2)
    return np.diff(np.concatenate([[0], np.round(ends * rows)])).astype(int)


class Missingness(NamedTuple):
    """What decides the chance that an entry is observed, besides the density.

    Attributes:
        by_level: whether the levels of the first attribute are observed as 6:3:1 (triangular numbers).
        by_block: whether each of its levels hardly observes a block of columns of its own.
    """

    by_level: bool | Bool[Array, ""]
    by_block: bool | Bool[Array, ""]


MISSINGNESS = {
    "MCAR": Missingness(False, False),
    "group density 6:3:1": Missingness(True, False),
    "group x column block": Missingness(False, True),
    "both": Missingness(True, True),
}


def draw(
    key: PRNGKeyArray,
    design: Design,
    strengths: Float[Array, " attributes"],
    missingness: Missingness,
    density: Float[Array, ""],
) -> Table:
    """One table.

    Args:
        key: randomness; one key gives the same truth and noise whatever is missing.
        design: shapes of the truth.
        strengths: of each attribute's part.
        missingness: what decides the chance of an entry.
        density: mean chance that an entry is observed.

    Returns:
        The table.
    """
    label_key, shared_key, noise_key, mask_key, *keys = jax.random.split(key, 4 + len(design.levels))
    labels = []
    left, right = jax.random.split(shared_key)
    truth = 0.7 * jnp.outer(jax.random.normal(left, (design.rows,)), jax.random.normal(right, (design.columns,)))
    attributes = zip(design.levels, strengths, keys, jax.random.split(label_key, len(keys)), strict=True)
    for levels, strength, part_key, order_key in attributes:
        label = jax.random.permutation(order_key, np.repeat(np.arange(levels), level_sizes(design.rows, levels)))
        left, right = jax.random.split(part_key)
        rows = jax.random.normal(left, (design.rows, design.rank))
        columns = jax.random.normal(right, (levels, design.rank, design.columns))
        truth = truth + strength * jnp.einsum("ik,ikd->id", rows, columns[label])
        labels.append(label)
    truth = truth / jnp.std(truth)
    data = truth + design.noise * jax.random.normal(noise_key, truth.shape)
    chance = _chances(labels[0], design, missingness, density)
    return Table(truth, data, jax.random.uniform(mask_key, truth.shape) < chance, jnp.stack(labels, axis=-1))


def _chances(label: Array, design: Design, missingness: Missingness, density: Array) -> Float[Array, "n d"]:
    levels = design.levels[0]
    triangular = np.asarray([(levels - a) * (levels - a + 1) / 2 for a in range(levels)])
    by_level = jnp.asarray(triangular)[label][:, None]
    own_block = label[:, None] == np.arange(design.columns) * levels // design.columns
    weights = jnp.ones((design.rows, design.columns))
    weights = weights * jnp.where(missingness.by_level, by_level, 1)
    weights = weights * jnp.where(missingness.by_block & own_block, SPARSE_BLOCK, 1)
    return jnp.minimum(density * weights / jnp.mean(weights), 0.95)


@partial(jax.jit, static_argnames="design")
def _drawn(seeds: Array, design: Design, strengths: Array, missingness: Missingness, density: Array) -> Table:
    return jax.vmap(lambda seed: draw(jax.random.key(seed), design, strengths, missingness, density))(seeds)


def draws(seeds: int, first: int, design: Design, regime: str, density: float) -> Table:
    """Tables of several seeds, stacked; one compiled program for all regimes, densities and strengths."""
    if regime not in MISSINGNESS:
        raise ValueError(f"regime is {regime!r}; expected one of {tuple(MISSINGNESS)}")
    shapes = dataclasses.replace(design, strengths=())
    numbers = jnp.asarray(design.strengths, float), jax.tree.map(jnp.asarray, MISSINGNESS[regime])
    return _drawn(jnp.arange(first, first + seeds), shapes, *numbers, jnp.asarray(density, float))


def row_groups(labels: Int[np.ndarray, "n attributes"], everyone: float | None = None) -> Groups:
    """Groups of one table, attributes A, B, ... in order, each level a group; on request a group of all rows."""
    frame = pd.DataFrame({chr(ord("A") + q): column for q, column in enumerate(labels.T)})
    return make_groups(frame, len(frame), everyone=everyone)


def layouts(tables: Table, everyone: float | None = None) -> Layout:
    """Layouts of the groups of stacked tables, stacked: their sizes are equal, so their arrays have equal shapes."""
    each = [layout(row_groups(labels, everyone)) for labels in np.asarray(tables.labels)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


class Paths(NamedTuple):
    """Completions along a path of lambda, and the squared errors by which one of them is chosen.

    Attributes:
        M: fitted to all observed entries, (L, n, d).
        gap: relative duality gaps of these fits, (L,).
        squares: squared errors on the hidden entries of each row, fitted without them, (L, n).
    """

    M: Float[Array, "L n d"]
    gap: Float[Array, " L"]
    squares: Float[Array, "L n"]


class Fit(NamedTuple):
    """A completion whose lambda was chosen by hold-out.

    Attributes:
        M: the completion.
        gap: relative duality gap at which the solver stopped, the largest where there are several.
    """

    M: Float[Array, "n d"]
    gap: Float[Array, ""]


def paths(solver: Solver, data: Float[Array, "n d"], mask: Bool[Array, "n d"], key: PRNGKeyArray) -> Paths:
    """Completions for 9 lambdas, and what they miss of a hidden 15% of the observed entries.

    Args:
        solver: `SoftImpute` or `Game`.
        data: with noise; read where observed.
        mask: True where observed.
        key: randomness of the hold-out.

    Returns:
        The paths.
    """
    Y, hidden = jnp.where(mask, data, 0), hide(mask, HELD_OUT, key)
    lams = solver.lambda_max(Y, mask.astype(Y.dtype)) * GRID.astype(Y.dtype)

    def path(seen: Array) -> tuple[Array, Array]:
        result = solver(Y, seen.astype(Y.dtype), lams)
        return result.M, result.relative_gap

    # One program for the path on 85% and for the one on all observed entries.
    (train, full), gaps = jax.lax.map(path, jnp.stack([mask & ~hidden, mask]))
    return Paths(full, gaps[1], jnp.sum(jnp.where(hidden, (train - Y) ** 2, 0), axis=-1))


def one_lambda(path: Paths) -> Fit:
    """The completion at the lambda that predicts the hidden entries best."""
    best = jnp.argmin(jnp.sum(path.squares, axis=-1))
    return Fit(path.M[best], path.gap[best])


def own_lambda(path: Paths, label: Int[Array, " n"], levels: int) -> Fit:
    """Every level at its own best lambda: without a common group, levels are completions of their own."""
    by_level = jax.vmap(lambda squares: jax.ops.segment_sum(squares, label, levels))(path.squares)
    best = jnp.argmin(by_level, axis=0)
    return Fit(path.M[best[label], jnp.arange(len(label))], jnp.max(path.gap[best]))


class Errors(NamedTuple):
    """Errors of completions: soft-impute, separate completion, then GAME with each set of factors of the groups.

    Attributes:
        nrmse: on the entries that were not observed, against the table without noise, over its norm there.
        sparsest: the same in the rows of the last level of the first attribute.
        sin_theta: of the row spaces, mean over the levels of all attributes.
        gap: relative duality gap at which the solver stopped.
    """

    nrmse: Float[Array, "*batch methods"]
    sparsest: Float[Array, "*batch methods"]
    sin_theta: Float[Array, "*batch methods"]
    gap: Float[Array, "*batch methods"]


@dataclass(frozen=True)
class Comparison:
    """Soft-impute, separate completion and GAME with several sets of groups on one table; equal by value.

    Attributes:
        tol: relative duality gap of each solve.
        levels: of each attribute.
        rank: of the row spaces that are compared.
    """

    tol: float
    levels: tuple[int, ...]
    rank: int

    def __call__(self, seed: Array, table: Table, where: Layout, factors: Float[Array, "variants G"]) -> Errors:
        """Errors of every method; the first set of factors holds the levels of the first attribute alone."""
        key = jax.random.key(seed)
        soft = one_lambda(paths(SoftImpute(tol=self.tol), table.data, table.mask, key))

        def grouped(own: Array) -> tuple[Fit, Fit]:
            solver = Game(eqx.tree_at(lambda w: w.factors, where, own), tol=self.tol)
            path = paths(solver, table.data, table.mask, key)
            return one_lambda(path), own_lambda(path, table.labels[:, 0], self.levels[0])

        game, own = jax.lax.map(grouped, factors)
        parts = jax.tree.map(lambda a, b, c: jnp.concatenate([a[None], b[:1], c]), soft, own, game)
        return Errors(*jax.vmap(lambda M: self.errors(M, table, where))(parts.M), gap=parts.gap)

    def errors(self, M: Float[Array, "n d"], table: Table, where: Layout) -> tuple[Array, Array, Array]:
        """nRMSE, nRMSE in the sparsest level, and sin-Theta of one completion."""
        missing = ~table.mask
        last = missing & (table.labels[:, 0] == self.levels[0] - 1)[:, None]
        zero = jnp.zeros_like(M)
        nrmse = [safe_ratio(rmse(M, table.truth, part), rmse(zero, table.truth, part)) for part in (missing, last)]
        angles = group_sin_theta(M, table.truth, where, self.rank)[: sum(self.levels)]
        return *nrmse, jnp.mean(angles)


def compare(
    seeds: int,
    first: int,
    design: Design,
    regime: str,
    density: float,
    *,
    factors: np.ndarray,
    tol: float,
    everyone: float | None = None,
    compared: int | None = None,
) -> Errors:
    """Soft-impute, separate completion and GAME with several sets of factors on tables of several seeds.

    Args:
        seeds: number of tables.
        first: seed of the first.
        design: of the truth.
        regime: of missingness.
        density: mean share observed.
        factors: of the groups, (variants, G); the first set holds the levels of the first attribute alone.
        tol: relative duality gap of each solve.
        everyone: not None: the groups end with one of all rows.
        compared: rank of the row spaces that sin-Theta compares; None: that of a level's rows.

    Returns:
        Errors of shape (seeds, 2 + variants).
    """
    tables = draws(seeds, first, design, regime, density)
    comparison = Comparison(tol, design.levels, 1 + design.rank if compared is None else compared)
    repeated = jnp.broadcast_to(jnp.asarray(factors, float), (seeds, *np.shape(factors)))
    return sweep(comparison, jnp.arange(first, first + seeds), tables, layouts(tables, everyone), repeated)


def factors_of(design: Design, *, attributes: str, everyone: float | None = None) -> np.ndarray:
    """1 for the levels of the named attributes, 0 for the others; then the factor of the group of all rows, if any."""
    names = [chr(ord("A") + q) for q, levels in enumerate(design.levels) for _ in range(levels)]
    own = [float(name in attributes) for name in names]
    return np.asarray(own if everyone is None else [*own, everyone])


def gain(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean relative reduction of an error over paired seeds, and its standard error."""
    relative = 1 - np.asarray(ours) / np.asarray(theirs)
    return float(relative.mean()), standard_error(relative)


def standard_error(values: np.ndarray, axis: int = -1) -> Any:
    """Of the mean over the seeds; NaN for one seed."""
    count = np.shape(values)[axis]
    return np.std(values, axis=axis, ddof=1) / count**0.5 if count > 1 else np.full(np.mean(values, axis).shape, np.nan)
