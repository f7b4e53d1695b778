"""Precisions, units and shapes of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import blocks, complete_tensor, game, make_groups, soft_impute

SHAPE = (8, 8, 8)


def low_rank(shape=SHAPE, rank=1, seed=0):
    rng = np.random.default_rng(seed)
    factors = [rng.uniform(0.5, 1.5, (n, rank)) for n in shape]
    return np.einsum(",".join(f"{chr(97 + k)}r" for k in range(len(shape))) + "->" + "abcdefg"[: len(shape)], *factors)


TENSOR = low_rank().astype(np.float32)
MASK = np.random.default_rng(1).random(SHAPE) < 0.6


def complete(tensor, mask=MASK, **options):
    return complete_tensor(tensor, mask, **{"svt": "gram", "history": False, **options})


def error(x, truth):
    x, truth = np.asarray(x, np.float64), np.asarray(truth, np.float64)
    return np.linalg.norm(x / np.abs(truth).max() - truth / np.abs(truth).max()) / np.linalg.norm(
        truth / np.abs(truth).max()
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32_and_cast_back(dtype):
    tensor = jnp.asarray(TENSOR, dtype)
    half, single = complete(tensor), complete(tensor.astype(jnp.float32))
    assert half.tensor.dtype == dtype
    assert half.state.x.dtype == jnp.float32
    np.testing.assert_array_equal(half.tensor, single.tensor.astype(dtype))
    np.testing.assert_array_equal(np.asarray(half.tensor)[MASK], np.asarray(tensor)[MASK])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, bool])
def test_integers_are_promoted_to_float32(dtype):
    tensor = (10 * TENSOR).astype(dtype)
    result = complete(tensor)
    assert result.tensor.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(result.tensor)[MASK], tensor.astype(np.float32)[MASK])
    np.testing.assert_array_equal(result.tensor, complete(tensor.astype(np.float32)).tensor)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("lam", [None, 1e-3])
def test_float32_data_of_any_size_are_completed_as_well(scale, lam):
    tensor = TENSOR * np.float32(scale)
    result = complete(tensor, lam=None if lam is None else lam * scale, certificate=True)
    assert bool(result.info.converged)
    # A scale that is no power of two rounds the data, so where the runs stop may differ: compare them after equal work.
    long = {"tol": 0.0, "max_iter": 200}
    result_long = complete(tensor, lam=None if lam is None else lam * scale, **long)
    unscaled_long = complete(TENSOR, lam=lam, **long)
    assert error(result_long.tensor, tensor) <= 1.1 * error(unscaled_long.tensor, TENSOR) + 1e-6
    assert error(result.tensor, tensor) <= (1e-3 if lam is None else 1e-2)
    assert float(result.info.gap) <= 1e-3


def test_default_tolerance_is_within_reach_of_float32_beside_a_level_and_a_run_that_ends_above_its_own_is_stalled():
    noise = np.random.default_rng(3).standard_normal(SHAPE)
    tensor = (TENSOR + 50 + 0.1 * noise).astype(np.float32)
    result = complete(tensor, svt="auto")
    assert bool(result.info.converged)
    assert not bool(result.info.stalled)
    assert float(jnp.maximum(result.info.primal_residual, result.info.dual_residual)) <= 1e-4
    fine = complete(tensor, svt="auto", tol=1e-9, max_iter=2000)
    assert bool(fine.info.stalled)
    assert int(fine.info.status) == 2
    assert not bool(fine.info.converged)


@pytest.mark.parametrize("single", [True, False])
def test_default_tolerance_of_tables_follows_the_dtype(single):
    with jax.enable_x64(not single):
        table = np.where(MASK[0], TENSOR[0] + 0.1, np.nan).astype(np.float32 if single else np.float64)
        tol = 1e-4 if single else 1e-5
        own = complete_tables(table)
        for result, same in zip(own, complete_tables(table, tol=tol), strict=True):
            assert result.M.dtype == table.dtype
            assert bool(result.converged)
            assert not bool(result.stalled)
            np.testing.assert_array_equal(result.M, same.M)


def test_a_table_whose_gap_is_rounding_above_the_tolerance_is_stalled():
    level = (20 + TENSOR[0] + 0.05 * np.random.default_rng(0).standard_normal(SHAPE[:2])).astype(np.float32)
    stuck = soft_impute(level, MASK[0], 0.1, tol=1e-12, max_iter=400)
    assert int(stuck.status) == 2
    assert bool(stuck.stalled)
    assert not bool(stuck.converged)
    short = soft_impute(level, MASK[0], 0.1, tol=1e-12, max_iter=10)
    assert (int(short.status), bool(short.stalled)) == (0, False)


def complete_tables(table, **options):
    groups = make_groups([range(5), range(3, 8)], 8)
    return soft_impute(table, lam=0.1, **options), game(table, groups=groups, lam=0.02, **options)


def test_float32_data_stay_float32_where_double_precision_is_on(x64):
    for lam in (None, np.float64(1e-3)):
        result = complete(TENSOR, lam=lam, weights=np.array([0.2, 0.3, 0.5]), over_relaxation=np.float64(1.5), tol=1e-4)
        assert result.tensor.dtype == jnp.float32
        assert bool(result.info.converged)


@pytest.mark.parametrize("kind", [bool, int, np.uint8, np.float32, np.float64])
def test_masks_of_zeros_and_ones_of_any_kind_are_the_same(kind):
    np.testing.assert_array_equal(complete(TENSOR, MASK.astype(kind)).tensor, complete(TENSOR, MASK).tensor)


@pytest.mark.filterwarnings("ignore:mode . has slices without an observed entry")
@pytest.mark.parametrize("shape", [(6, 1, 5), (5, 1), (4, 1, 1, 3)], ids=lambda shape: "x".join(map(str, shape)))
def test_dimension_of_size_one_is_allowed(shape):
    tensor = low_rank(shape).astype(np.float32)
    mask = np.ones(shape, bool)
    mask[(0,) * len(shape)] = False
    result = complete(tensor, mask, certificate=True)
    assert bool(result.info.converged)
    assert np.isfinite(np.asarray(result.tensor)).all()
    np.testing.assert_array_equal(np.asarray(result.tensor)[mask], tensor[mask])
    assert float(result.info.gap) <= 1e-3


def test_unfolding_of_one_row_is_the_euclidean_norm(x64):
    tensor, mask = np.random.default_rng(2).standard_normal((1, 3, 4)), np.ones((1, 3, 4), bool)
    shrink = complete(tensor, mask, lam=0.5, regularizer=blocks.unfoldings((1, 3, 4), [1.0], [(0,)]), tol=1e-10)
    norm = np.linalg.norm(tensor)
    np.testing.assert_allclose(shrink.tensor, tensor * (1 - 0.5 / norm), atol=1e-9)


def test_matrix_is_completed(x64):
    truth = low_rank((12, 10), 1)
    mask = np.random.default_rng(3).random(truth.shape) < 0.6
    result = complete_tensor(truth, mask, tol=1e-8, max_iter=2000, truth=truth)
    assert bool(result.info.converged)
    assert error(result.tensor, truth) <= 1e-5


def test_tensor_of_five_modes_is_completed():
    truth = low_rank((3, 3, 3, 3, 3), 1).astype(np.float32)
    mask = np.random.default_rng(4).random(truth.shape) < 0.6
    for regularizer in ("snn", "tt"):
        result = complete(truth, mask, regularizer=regularizer, max_iter=2000)
        assert bool(result.info.converged)
        assert error(result.tensor, truth) <= 1e-2, regularizer


def test_subnormal_and_huge_neighbours_do_not_make_nan():
    tensor = np.where(np.random.default_rng(5).random(SHAPE) < 0.5, np.float32(1e-42), np.float32(3e38))
    result = complete(tensor)
    assert np.isfinite(np.asarray(result.tensor)).all()
    assert np.isfinite(np.asarray(jax.tree.leaves(result.duals)[0])).all()
