"""Soft-impute on observed entries in coordinates against the dense one."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import coordinates, soft_impute, soft_impute_sparse, sparse_table
from jaxspec.completion.sparse import sparse_lambda_max

RNG = np.random.default_rng(0)
N, D, K = 30, 20, 12
Y = RNG.standard_normal((N, 3)) @ RNG.standard_normal((3, D)) + 0.1 * RNG.standard_normal((N, D))
W = (RNG.random((N, D)) < 0.5) * (1 + RNG.random((N, D)))
ROWS, COLUMNS = np.nonzero(W)


def table(scale=1.0):
    return sparse_table(ROWS, COLUMNS, scale * Y[ROWS, COLUMNS], (N, D), W[ROWS, COLUMNS])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_optimum_is_that_of_the_dense_form(monkeypatch, ridge):
    monkeypatch.setattr(coordinates, "_CHUNK", 64)
    result = soft_impute_sparse(table(), 3.0, max_rank=K, ridge=ridge, tol=1e-8, max_iter=500)
    dense = soft_impute(Y, W, 3.0, ridge=ridge, tol=1e-9)
    assert bool(result.converged)
    assert not bool(result.capped)
    assert float(result.objective) == pytest.approx(float(dense.objective), rel=1e-8)
    np.testing.assert_allclose((result.U * result.s) @ result.V.T, dense.M, atol=1e-4)
    np.testing.assert_allclose(result.at(ROWS, COLUMNS), dense.M[ROWS, COLUMNS], atol=1e-4)
    np.testing.assert_allclose(result.V.T @ result.V, np.eye(K), atol=1e-10)
    assert -1e-10 <= float(result.gap) <= 1e-8 * float(result.objective)


def test_warm_start_and_units():
    first = soft_impute_sparse(table(), 3.0, max_rank=K)
    again = soft_impute_sparse(table(), 3.0, max_rank=K, init=first)
    assert int(again.iterations) <= 5 < int(first.iterations)
    big = soft_impute_sparse(table(2.0**60), 3.0 * 2.0**60, max_rank=K)
    np.testing.assert_allclose(big.s / 2.0**60, first.s, rtol=1e-4, atol=1e-3)
    assert float(sparse_lambda_max(table())) == pytest.approx(np.linalg.norm(W * Y, 2), rel=1e-3)


def test_capped_rank_and_failure_are_said():
    result = soft_impute_sparse(table(), 0.05, max_rank=K)
    assert bool(result.capped)
    assert int(result.rank) == K
    assert not bool(result.converged)
    assert float(result.relative_gap) > 0.05


def test_entries_given_twice_are_averaged_and_order_does_not_matter():
    twice = sparse_table([1, 0, 1], [2, 1, 2], [4.0, 5.0, 1.0], (2, 3), [1.0, 1.0, 2.0])
    keep = np.asarray(twice.weights) > 0
    assert np.asarray(twice.rows)[keep].tolist() == [0, 1]
    assert np.asarray(twice.columns)[keep].tolist() == [1, 2]
    np.testing.assert_allclose(np.asarray(twice.values)[keep], [5.0, 2.0])
    np.testing.assert_allclose(np.asarray(twice.weights)[keep], [1.0, 3.0])
    unseen = sparse_table([0], [0], [np.nan], (2, 3), [0.0])
    assert bool(jnp.isfinite(unseen.values).all())


def test_nothing_observed_gives_zeros():
    nothing = sparse_table(ROWS, COLUMNS, np.full(len(ROWS), np.nan), (N, D), np.zeros(len(ROWS)))
    result = soft_impute_sparse(nothing, 1.0, max_rank=K)
    assert int(result.status) == 4
    assert float(jnp.abs(result.s).max()) == 0
    assert bool(jnp.isfinite(result.U).all())


def _empty():
    none = np.zeros(0, int)
    return sparse_table(none, none, np.zeros(0), (3, 4))


BAD = {
    "range": (lambda: sparse_table([3], [0], [1.0], (3, 2)), "rows run from 3 to 3; expected 0 to 2"),
    "negative": (lambda: sparse_table([0], [-1], [1.0], (3, 2)), "columns run from -1 to -1; expected 0 to 1"),
    "length": (lambda: sparse_table([0], [0, 1], [1.0], (3, 2)), "columns has shape"),
    "nan": (lambda: sparse_table([0], [0], [np.nan], (3, 2)), "values has entries that are not finite"),
    "weights": (
        lambda: sparse_table([0], [0], [1.0], (3, 2), [-1.0]),
        "weights .*-1.0.*; expected finite numbers >= 0",
    ),
    "rank": (lambda: soft_impute_sparse(_empty(), 1.0, max_rank=9), r"max_rank is 9; expected an integer in \[1, 3\]"),
    "lam": (lambda: soft_impute_sparse(_empty(), -1.0, max_rank=1), "lam is -1.0; expected a finite number >= 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_start_of_another_shape_is_refused():
    first = soft_impute_sparse(table(), 3.0, max_rank=K)
    with pytest.raises(ValueError, match="init has factors of shapes"):
        soft_impute_sparse(table(), 1.0, max_rank=1, init=first)
    with pytest.raises(TypeError, match="rows has dtype float64; expected integers"):
        sparse_table([0.5], [0], [1.0], (3, 2))
