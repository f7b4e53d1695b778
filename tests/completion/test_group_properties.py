"""Properties of GAME and soft-impute on drawn problems: one shape, so that each solver compiles once."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxspec.completion import game, make_groups, soft_impute

ROWS, COLUMNS, SIZES = 10, 6, (7, 5, 5, 1)
TOL = 1e-9
pytestmark = pytest.mark.usefixtures("x64")


class Drawn:
    """A table, weights, groups of `SIZES` rows (overlapping, one of a single row) and their lambdas."""

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        spectrum = 10.0 ** rng.uniform(-3, 0, COLUMNS)
        self.Y = rng.standard_normal((ROWS, COLUMNS)) @ np.diag(spectrum) @ rng.standard_normal((COLUMNS, COLUMNS))
        self.W = (rng.random((ROWS, COLUMNS)) < 0.6) * rng.choice([1.0, 2.0], (ROWS, COLUMNS))
        self.rows = [rng.permutation(ROWS)[:size] for size in SIZES]
        self.lam = 10.0 ** rng.uniform(-2, 0, len(SIZES)) * np.linalg.norm(self.Y) / 3


def solved(Y, W, rows, lam, ridge=0.1):
    """GAME with a ridge: the minimiser is unique, and a gap of g leaves it within sqrt(2 g / ridge)."""
    return game(Y, W, make_groups(rows, len(Y)), lam, ridge=ridge, tol=TOL, max_iter=4000, validate=False)


def bound(result, scale=1.0):
    """Largest distance of two solutions with these gaps, times two for rounding."""
    return 4 * np.sqrt(2 * max(float(result.gap), TOL * float(result.objective)) / 0.1) * scale + 1e-12


drawn = st.integers(0, 2**31 - 1).map(Drawn)


@settings(max_examples=15)
@given(drawn, st.sampled_from([-1e6, 1e-6, 1.0]))
def test_game_moves_with_rows_groups_signs_and_units(problem, unit):
    Y, W, rows, lam = problem.Y, problem.W, problem.rows, problem.lam
    result = solved(Y, W, rows, lam)
    assert float(result.gap) >= -1e-12 * float(result.objective)
    order = problem.rng.permutation(ROWS)
    place = np.argsort(order)
    columns, shuffle = problem.rng.permutation(COLUMNS), [0, 2, 1, 3]
    moved = solved(
        unit * Y[order][:, columns],
        W[order][:, columns],
        [place[rows[g]] for g in shuffle],
        abs(unit) * lam[shuffle],
    )
    np.testing.assert_allclose(moved.M, unit * result.M[order][:, columns], atol=bound(result, abs(unit)))


@settings(max_examples=10)
@given(drawn)
def test_duplicate_groups_are_one_and_a_group_of_weight_zero_is_none(problem):
    Y, W, rows, lam = problem.Y, problem.W, problem.rows, problem.lam
    twice = [rows[0], rows[1], rows[1], rows[3]]
    split = solved(Y, W, twice, lam)
    one = solved(Y, W, [rows[0], rows[1], rows[2], rows[3]], [lam[0], lam[1] + lam[2], 0.0, lam[3]])
    np.testing.assert_allclose(split.M, one.M, atol=bound(split))


@settings(max_examples=10)
@given(drawn)
def test_padding_and_bucketing_change_nothing(problem):
    Y, W, rows, lam = problem.Y, problem.W, problem.rows, problem.lam
    result = solved(Y, W, rows, lam)
    groups = make_groups(rows, ROWS, pad_ratio=10.0)
    padded = game(Y, W, groups, lam, ridge=0.1, tol=TOL, max_iter=4000, validate=False)
    np.testing.assert_allclose(padded.M, result.M, atol=bound(result))


@settings(max_examples=10)
@given(drawn, st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_gap_bounds_the_distance_from_the_optimum(problem, tol):
    Y, W, rows, lam = problem.Y, problem.W, problem.rows, problem.lam
    best = solved(Y, W, rows, lam)
    rough = game(Y, W, make_groups(rows, ROWS), lam, ridge=0.1, tol=tol, max_iter=4000, validate=False)
    slack = 1e-12 * float(best.objective)
    assert -slack <= float(rough.gap)
    assert float(rough.objective) - float(best.objective) <= float(rough.gap) + slack
    assert float(best.objective) - float(best.gap) <= float(rough.objective) + slack


@settings(max_examples=15)
@given(drawn, st.sampled_from([-1e6, 1e-6, 1.0]))
def test_soft_impute_moves_with_the_table_and_is_game_with_one_group(problem, unit):
    Y, W, lam = problem.Y, problem.W, float(problem.lam[0])
    options = {"ridge": 0.1, "tol": TOL, "max_iter": 4000, "validate": False}
    result = soft_impute(Y, W, lam, **options)
    assert float(result.gap) >= -1e-12 * float(result.objective)
    order, columns = problem.rng.permutation(ROWS), problem.rng.permutation(COLUMNS)
    moved = soft_impute(unit * Y[order][:, columns], W[order][:, columns], abs(unit) * lam, **options)
    np.testing.assert_allclose(moved.M, unit * result.M[order][:, columns], atol=bound(result, abs(unit)))
    one = game(Y, W, make_groups([range(ROWS)], ROWS), lam * jnp.ones(1), **options)
    np.testing.assert_allclose(one.M, result.M, atol=bound(result))
    rotation = np.linalg.qr(problem.rng.standard_normal((COLUMNS, COLUMNS)))[0]
    ones = np.ones_like(W)
    full = soft_impute(Y, ones, lam, **options)
    turned = soft_impute(Y @ rotation, ones, lam, **options)
    np.testing.assert_allclose(turned.M, full.M @ rotation, atol=bound(full))
