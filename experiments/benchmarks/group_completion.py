"""Completion of tables with labelled rows: soft-impute against NumPy, GAME against conic solvers, and how GAME grows.

Everybody solves the same convex program in double precision; the quality is how far the objective is above the optimum,
taken from a run of ours to a duality gap of 1e-9. fancyimpute's soft-impute does not run with current scikit-learn.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.frame import Contestant, Row, at_most, faster, in_double
from experiments.benchmarks.growth import growth_row
from experiments.benchmarks.peers import soft_impute_path as numpy_soft_impute_path
from experiments.group_completion._tables import GRID, Design, draws, row_groups
from jaxspec.completion import Game, Groups, SoftImpute, cv_lambda, game, game_weights, soft_impute_path
from jaxspec.completion.groups import lambda_max

DENSITY = 0.4
TOL = 1e-5  # relative excess of the objective that everybody is to reach
ITERATIONS = 20  # of the growth rows
KAPPA = 0.45  # lambda_g over game_weights: where the hold-out error is least


def soft_path_row(rows: int, columns: int) -> Row:
    """A path of 9 lambdas by soft-impute."""
    Y, W, _ = _table(Design(rows, columns))
    with jax.enable_x64(True):
        lams = lambda_max(Y, W) * jnp.asarray(GRID)
        best = np.asarray(soft_impute_path(Y, W, lams, tol=1e-9, max_iter=5000).objective)
    data, mask, grid = np.asarray(Y), np.asarray(W) > 0, np.asarray(lams)

    def excess(objectives: Any) -> dict[str, float]:
        return {"largest relative excess": float(np.max(np.asarray(objectives) / best - 1))}

    ours = Contestant(
        in_double(partial(soft_impute_path, Y, W, lams, tol=TOL)),
        f"soft_impute_path, relative duality gap {TOL:g}",
        quality=lambda result: excess(result.objective),
    )
    peers = {
        "numpy": Contestant(
            partial(numpy_soft_impute_path, data, mask, grid, best * (1 + TOL)),
            f"soft-impute by Gram matrices, told the optimum and stopped {TOL:g} above it",
            quality=lambda result: excess(result.objectives) | {"iterations": result.iterations},
        )
    }
    return Row(f"Soft-impute path, {rows}×{columns}, 9 lambdas", ours, peers, "path", (at_most("numpy", 1.0),))


def conic_row(rows: int, columns: int, solvers: tuple[str, ...], most_rounds: int | None = None) -> Row:
    """One GAME program with 5 groups, against CVXPY."""
    Y, W, groups = _table(Design(rows, columns))
    with jax.enable_x64(True):
        lam = KAPPA * game_weights(W, groups)
        best = float(game(Y, W, groups, lam, tol=1e-9, max_iter=5000).objective)

    def excess(objective: Any) -> dict[str, float]:
        return {"relative excess": float(objective) / best - 1}

    ours = Contestant(
        in_double(partial(game, Y, W, groups, lam, tol=TOL)),
        f"game, relative duality gap {TOL:g}",
        quality=lambda result: excess(result.objective) | {"iterations": int(result.iterations)},
    )
    data, mask, weights = (np.asarray(x) for x in (Y, W, lam))
    peers = {
        solver.lower(): Contestant(
            partial(_conic, data, mask, groups, weights, solver),
            f"cvxpy, {solver} at its default tolerances, building of the program included",
            quality=lambda M: excess(_objective(M, data, mask, groups, weights)),
        )
        for solver in solvers
    }
    aims = tuple(faster(name, 50) for name in peers)
    return Row(f"GAME, {rows}×{columns}, 5 overlapping groups", ours, peers, "solve", aims, most_rounds)


def choice_row(rows: int, columns: int) -> Row:
    """Choice of lambda by hold-out: GAME over soft-impute."""
    Y, W, groups = _table(Design(rows, columns))
    key = jax.random.key(0)

    def contestant(solver: Any, name: str) -> Contestant:
        with jax.enable_x64(True):
            lams = solver.lambda_max(Y, W) * jnp.asarray(GRID)
        return Contestant(
            in_double(partial(cv_lambda, solver, Y, W, lams, key)),
            f"cv_lambda({name}), 9 lambdas, one hold-out, relative duality gap 1e-3",
            quality=lambda choice: {"held-out error": float(choice.hold_out_error)},
        )

    with jax.enable_x64(True):
        ours = contestant(Game(groups, tol=1e-3), "Game")
        peers = {"soft_impute": contestant(SoftImpute(tol=1e-3), "SoftImpute")}
    measured = f"Whole choice of lambda, {rows}×{columns}, 5 groups, against our own soft-impute"
    return Row(measured, ours, peers, "choice", (at_most("soft_impute", 5.0),))


def growth_of_game(designs: tuple[Design, ...], sizes: tuple[int, ...], what: str) -> Row:
    """Time of a fixed number of iterations at several sizes, and the exponent fitted to it."""

    def solve(Y: jax.Array, W: jax.Array, groups: Groups, lam: np.ndarray) -> Any:
        options = {"tol": 0.0, "max_iter": ITERATIONS, "check_every": ITERATIONS, "validate": False}
        return game(Y, W, groups, lam, **options)

    calls = []
    for Y, W, groups in map(_table, designs):
        with jax.enable_x64(True):
            lam = KAPPA * game_weights(W, groups)
        calls.append(in_double(partial(solve, Y, W, groups, lam)))
    return growth_row(f"Growth of GAME with the {what}", f"game, {ITERATIONS} iterations", sizes, calls)


def _table(design: Design) -> tuple[jax.Array, jax.Array, Groups]:
    with jax.enable_x64(True):
        table = jax.tree.map(lambda leaf: leaf[0], draws(1, 0, design, "MCAR", DENSITY))
        return jnp.where(table.mask, table.data, 0), table.mask.astype(float), row_groups(np.asarray(table.labels))


def _conic(data: np.ndarray, mask: np.ndarray, groups: Groups, lam: np.ndarray, solver: str) -> np.ndarray:
    M = cvxpy.Variable(data.shape)
    penalty = sum(weight * cvxpy.normNuc(M[rows, :]) for rows, weight in zip(groups.rows, lam, strict=True))
    loss = 0.5 * cvxpy.sum_squares(cvxpy.multiply(mask, data - M))
    cvxpy.Problem(cvxpy.Minimize(loss + penalty)).solve(solver=solver)
    return np.asarray(M.value)


def _objective(M: np.ndarray, data: np.ndarray, mask: np.ndarray, groups: Groups, lam: np.ndarray) -> float:
    nuclear = [np.linalg.norm(M[rows], "nuc") for rows in groups.rows]
    return float(0.5 * np.sum((mask * (data - M)) ** 2) + np.dot(lam, nuclear))


def _growth(name: str, sizes: tuple[int, ...]) -> Callable[[], Row]:
    make = {
        "rows": lambda size: Design(size, 40),
        "columns": lambda size: Design(600, size),
        "groups": lambda size: Design(4000, 40, (size - 2, 2)),
    }[name]
    return partial(growth_of_game, tuple(make(size) for size in sizes), sizes, name)


ROWS: dict[str, Callable[[], Row]] = {
    "soft_path_120x40": partial(soft_path_row, 120, 40),
    "soft_path_1000x200": partial(soft_path_row, 1000, 200),
    "game_60x20": partial(conic_row, 60, 20, ("CLARABEL", "SCS")),
    "game_120x40": partial(conic_row, 120, 40, ("SCS",)),
    "game_120x40_interior_point": partial(conic_row, 120, 40, ("CLARABEL",), most_rounds=1),
    "choice_120x40": partial(choice_row, 120, 40),
    "choice_1000x100": partial(choice_row, 1000, 100),
    "growth_rows": _growth("rows", (600, 1200, 2400, 4800)),
    "growth_columns": _growth("columns", (20, 40, 80, 160)),
    "growth_groups": _growth("groups", (5, 10, 20)),
}
