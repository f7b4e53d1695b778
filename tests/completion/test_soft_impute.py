"""Soft-impute: an oracle, closed forms, properties, certificates, transformations and odd tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import debias, soft_impute, soft_impute_path
from jaxspec.completion.groups import lambda_max
from jaxspec.linalg import singular_values

ROW, COLUMN = np.indices((15, 10))
Y = np.sin(0.7 * ROW + 0.3 * COLUMN) + 0.2 * np.cos(ROW * COLUMN)
W = ((3 * ROW + 7 * COLUMN) % 5 < 3).astype(float)
ONES = np.ones_like(Y)
EXACT = {"tol": 1e-12}


def shrunk(x, threshold, ridge=0.0):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (u * (np.maximum(s - threshold, 0) / (1 + ridge))) @ vt


@pytest.mark.usefixtures("x64")
def test_optimum_is_that_of_two_conic_solvers():
    result = soft_impute(Y, W, 1.0, tol=1e-8)
    assert bool(result.converged)
    assert float(result.objective) == pytest.approx(11.666129, rel=1e-6)
    assert float(jnp.linalg.norm(result.M)) == pytest.approx(6.70975, abs=1e-4)
    assert 0 <= float(result.gap) <= 1e-8 * float(result.objective)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("lam", "ridge"), [(0.0, 0.0), (0.7, 0.0), (0.7, 0.5), (100.0, 0.1)])
def test_full_table_is_one_thresholding(lam, ridge):
    result = soft_impute(Y, ONES, lam, ridge=ridge, **EXACT)
    np.testing.assert_allclose(result.M, shrunk(Y, lam, ridge), atol=1e-6)
    assert int(result.status) == 1


@pytest.mark.usefixtures("x64")
def test_optimality_conditions_hold_with_weights_and_ridge():
    weights, ridge, lam = W * (1 + ROW % 3), 0.2, 0.8
    result = soft_impute(Y, weights, lam, ridge=ridge, **EXACT)
    V = weights * (Y - np.asarray(result.M)) - ridge * np.asarray(result.M)
    assert np.linalg.norm(V, 2) == pytest.approx(lam, rel=1e-5)
    assert np.sum(V * result.M) == pytest.approx(lam * np.linalg.norm(result.M, "nuc"), rel=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4, 1e-6])
def test_gap_is_a_bound_wherever_the_run_stops(tol):
    best = float(soft_impute(Y, W, 0.1, **EXACT).objective)
    result = soft_impute(Y, W, 0.1, tol=tol)
    assert float(result.gap) >= -1e-12
    assert -1e-10 <= float(result.objective) - best <= float(result.gap) + 1e-10
    assert float(result.relative_gap) <= tol


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [2.0**-60, -(2.0**60)])
def test_units_of_data_and_weights_change_nothing(scale):
    result = soft_impute(Y, W, 0.5)
    np.testing.assert_array_equal(soft_impute(scale * Y, W, abs(scale) * 0.5).M, scale * result.M)
    np.testing.assert_array_equal(soft_impute(Y, abs(scale) * W, abs(scale) * 0.5).M, result.M)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_extreme_units_in_single_precision(scale):
    result = soft_impute(np.asarray(scale * Y, np.float32), W, scale)
    assert bool(result.converged)
    np.testing.assert_allclose(result.M / scale, soft_impute(np.asarray(Y, np.float32), W, 1.0).M, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_rows_and_columns_may_be_permuted_and_rotated():
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(15), rng.permutation(10)
    M = soft_impute(Y, W, 0.5, **EXACT).M
    permuted = soft_impute(Y[rows][:, columns], W[rows][:, columns], 0.5, **EXACT).M
    np.testing.assert_allclose(permuted, M[rows][:, columns], atol=1e-5)
    rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    rotated = soft_impute(Y @ rotation, ONES, 0.5, **EXACT).M
    np.testing.assert_allclose(rotated, soft_impute(Y, ONES, 0.5, **EXACT).M @ rotation, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_lambda_max_is_where_the_completion_vanishes():
    top = lambda_max(Y, W)
    assert float(jnp.abs(soft_impute(Y, W, 1.0001 * top).M).max()) == 0
    assert float(jnp.abs(soft_impute(Y, W, 0.99 * top, **EXACT).M).max()) > 1e-3


@pytest.mark.usefixtures("x64")
def test_path_gives_the_single_solutions_and_starts_warm():
    lams = lambda_max(Y, W) * np.geomspace(1, 0.03, 6)
    path = soft_impute_path(Y, W, lams, tol=1e-9)
    single = [soft_impute(Y, W, lam, tol=1e-9) for lam in lams]
    np.testing.assert_allclose(path.objective, [float(one.objective) for one in single], rtol=2e-9)
    np.testing.assert_array_equal(path.lam, lams)
    assert bool(path.converged.all())
    assert int(path.iterations.sum()) <= sum(int(one.iterations) for one in single)
    again = soft_impute(Y, W, lams[-1], tol=1e-9, init=single[-1])
    assert int(again.iterations) <= 10


@pytest.mark.usefixtures("x64")
def test_acceleration_only_changes_the_speed():
    plain, fast = (soft_impute(Y, W, 0.3, tol=1e-6, accelerate=flag) for flag in (False, True))
    assert float(plain.objective) == pytest.approx(float(fast.objective), rel=1e-6)
    assert int(fast.iterations) < int(plain.iterations)


@pytest.mark.usefixtures("x64")
def test_run_that_is_too_short_says_so():
    result = soft_impute(Y, W, 0.05, max_iter=3)
    assert int(result.status) == 0
    assert not bool(result.converged)
    assert int(result.iterations) == 3
    floor = soft_impute(Y, W, 1.0, tol=0.0)
    assert int(floor.status) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.int32])
def test_result_has_the_precision_of_the_data(dtype):
    data = np.asarray(np.round(8 * Y), dtype)
    result = soft_impute(data, W.astype(bool), 2.0)
    assert result.M.dtype == (jnp.float32 if dtype is np.int32 else data.dtype)
    assert result.state.M.dtype == jnp.float32
    assert bool(result.converged)


def test_missing_values_are_never_read_and_leave_finite_gradients():
    data = jnp.asarray(np.where(W > 0, Y, np.nan), jnp.float32)
    result = soft_impute(data, None, 0.5)
    np.testing.assert_array_equal(result.M, soft_impute(np.asarray(Y, np.float32), W, 0.5).M)

    def total(data):
        return soft_impute(data, W, 0.5, loop="scan", max_iter=20, check_every=20, validate=False).M.sum()

    slope = jax.jit(jax.grad(total))(data)
    assert bool(jnp.isfinite(slope).all())
    assert bool((slope[W == 0] == 0).all())
    assert float(jnp.abs(slope).max()) > 0.1


def test_batches_are_solved_under_vmap_and_jit_and_bad_values_are_refused_when_they_run():
    run = jax.jit(jax.vmap(lambda y, w, lam: soft_impute(y, w, lam).M))
    data, weights, lams = jnp.asarray(np.stack([Y, 2 * Y]), jnp.float32), np.stack([W, W]), jnp.array([0.5, 0.7])
    batched = run(data, weights, lams)
    for k in range(2):
        np.testing.assert_allclose(batched[k], soft_impute(data[k], W, lams[k]).M, atol=1e-4)
    for bad in ((data.at[0, 0, 0].set(jnp.nan), weights, lams), (data, -weights, lams), (data, weights, -lams)):
        with pytest.raises(Exception, match=r"; expected finite numbers|; expected a finite number"):
            jax.block_until_ready(run(*bad))


@pytest.mark.usefixtures("x64")
def test_debias_is_least_squares_on_the_kept_vectors():
    u, _, vt = np.linalg.svd(np.asarray(soft_impute(Y, W, 0.5).M), full_matrices=False)
    U, V, root = u[:, :3], vt[:3].T, np.sqrt(W * (1 + ROW % 2))
    design = (root[..., None] * np.einsum("ik,jk->ijk", U, V)).reshape(-1, 3)
    b = np.linalg.lstsq(design, (root * Y).ravel(), rcond=None)[0]
    expected = (U * b) @ V.T
    np.testing.assert_allclose(debias(np.where(W > 0, Y, np.nan), root**2, U, V), expected, atol=1e-12)
    twice = debias(Y, root**2, np.hstack([U, U]), np.hstack([V, V]))  # least norm: each copy takes half
    np.testing.assert_allclose(twice, expected, atol=1e-12)
    np.testing.assert_array_equal(debias(Y, W, U[:, :0], V[:, :0]), 0 * Y)


def test_tables_that_hold_little():
    with pytest.warns(UserWarning, match="no entry is observed"):
        empty = soft_impute(Y, 0 * W, 0.1, init=ONES)
    assert int(empty.status) == 4
    np.testing.assert_array_equal(empty.M, 0 * Y)
    holed = np.where((ROW == 2) | (COLUMN == 3), 0, W)
    with pytest.warns(UserWarning, match="without an observed entry"):
        result = soft_impute(Y, holed, 0.1)
    np.testing.assert_allclose(result.M[2], np.zeros(10), atol=2e-6)
    np.testing.assert_allclose(result.M[:, 3], np.zeros(15), atol=2e-6)
    constant = soft_impute(3 * ONES, W, 0.1)
    assert bool(constant.converged)
    assert int(jnp.sum(singular_values(constant.M) > 1e-2)) == 1
    column = soft_impute(Y[:, :1], np.ones((15, 1)), 0.5, max_iter=10)
    np.testing.assert_allclose(column.M, shrunk(Y[:, :1], 0.5), atol=1e-5)


BAD = {
    "nan": (
        lambda: soft_impute(np.where(ROW == 0, np.nan, Y), ONES, 1.0),
        r"Y holds \S+ at \[0, 0\] \(10 such entries\); expected finite numbers where observed",
    ),
    "inf": (
        lambda: soft_impute(np.where(ROW == 0, np.inf, Y), ONES, 1.0),
        r"Y holds \S+ at \[0, 0\] \(10 such entries\); expected finite numbers where observed",
    ),
    "negative weight": (lambda: soft_impute(Y, -W, 1.0), r"W holds -1.0 at .*; expected finite numbers >= 0"),
    "nan weight": (lambda: soft_impute(Y, W * np.nan, 1.0), r"W holds nan at .*; expected finite numbers >= 0"),
    "shape": (lambda: soft_impute(Y, W[:3], 1.0), r"W has shape \(3, 10\); expected that of Y, \(15, 10\)"),
    "vector": (lambda: soft_impute(Y[0], None, 1.0), r"Y has shape \(10,\); expected a matrix"),
    "lam": (lambda: soft_impute(Y, W, -1.0), "lam is -1.0; expected a finite number >= 0"),
    "lam nan": (lambda: soft_impute(Y, W, np.nan), "lam is nan; expected a finite number >= 0"),
    "lams": (lambda: soft_impute(Y, W, [1.0, 2.0]), r"lam has shape \(2,\); expected a number"),
    "path": (lambda: soft_impute_path(Y, W, [1.0, -2.0]), r"lams holds -\d.0 at .*; expected finite numbers >= 0"),
    "path number": (lambda: soft_impute_path(Y, W, 1.0), "lams has shape .*; expected one axis, at least one"),
    "ridge": (lambda: soft_impute(Y, W, 1.0, ridge=-1.0), "ridge is -1.0; expected a finite number >= 0"),
    "tol": (lambda: soft_impute(Y, W, 1.0, tol=np.nan), "tol is nan; expected a finite number >= 0"),
    "init": (lambda: soft_impute(Y, W, 1.0, init=Y[:2]), r"init has shape .*; expected that of Y, \(15, 10\)"),
    "max_iter": (lambda: soft_impute(Y, W, 1.0, max_iter=-1), "max_iter is -1; expected an integer >= 0"),
    "debias": (lambda: debias(Y, W, ONES[:, :2], ONES[:4, :2]), r"U and V have shapes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_second_run_with_new_numbers_compiles_nothing(compilations):
    data = np.asarray(Y, np.float32)
    soft_impute(data, W, 0.5, init=soft_impute(data, W, 1.0, ridge=0.1))

    def again():
        return soft_impute(2 * data, 1 - W, 0.7, init=soft_impute(data, W, 2.0, tol=1e-4), ridge=0.3).M

    assert compilations(again) == []
