"""Starts with a tensor, with duals, with duals made from a low-rank tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import WarmStart, blocks, complete_tensor, dual_from_low_rank
from jaxspec.solvers import NormRatio, Residual

SHAPE = (6, 6, 6)
RANKS = (2, 2, 2)


@pytest.fixture(autouse=True)
def _double(x64):
    """Long tails of iterations need double precision."""


def tucker(shape, rank, seed):
    rng = np.random.default_rng(seed)
    core, factors = rng.standard_normal((rank,) * 3), [rng.standard_normal((n, rank)) for n in shape]
    tensor = np.einsum("abc,ia,jb,kc->ijk", core, *factors)
    return tensor / np.sqrt(np.mean(tensor**2)), rng


def small(seed=0):
    tensor, rng = tucker(SHAPE, 2, seed)
    return tensor + 0.1 * rng.standard_normal(SHAPE), rng.random(SHAPE) < 0.7


def complete(tensor, mask, **options):
    return complete_tensor(tensor, mask, **{"tol": 1e-9, "max_iter": 2000, "svt": "gram", **options})


def test_any_start_ends_at_the_same_solution():
    tensor, mask = small()
    cold = complete(tensor, mask)
    junk = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE))
    duals = tuple(0.1 * jnp.asarray(np.random.default_rng(2).standard_normal(w.shape)) for w in cold.duals)
    for init in (np.asarray(junk), 0.5, WarmStart(junk, duals), WarmStart(junk, "none")):
        warm = complete(tensor, mask, init=init)
        assert bool(warm.info.converged)
        np.testing.assert_allclose(warm.tensor, cold.tensor, atol=1e-6)


@pytest.mark.parametrize("lam", [None, 0.1])
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_solution_with_its_duals_and_penalty_needs_no_more_iterations(lam, scale):
    tensor, mask = small()
    lam = None if lam is None else lam * scale
    first = complete(scale * tensor, mask, lam=lam, tol=1e-10)
    again = complete(scale * tensor, mask, lam=lam, tol=1e-8, init=WarmStart(first.tensor, first.duals), rho=first.rho)
    assert int(first.info.iterations) > 20
    assert int(again.info.iterations) <= 3
    np.testing.assert_allclose(again.tensor, first.tensor, atol=1e-7 * scale)


def test_observed_entries_of_the_start_are_overwritten_by_the_data():
    tensor, mask = small()
    result = complete(tensor, mask, init=np.where(mask, 1e6, 0.0), tol=1e-2)
    np.testing.assert_array_equal(np.asarray(result.tensor)[mask], tensor[mask])


@pytest.mark.parametrize("lam", [None, 0.1])
def test_polar_duals_end_at_the_same_solution(lam):
    tensor, mask = small()
    cold = complete(tensor, mask, lam=lam)
    warm = complete(tensor, mask, lam=lam, init=WarmStart(cold.tensor, "polar"))
    assert bool(warm.info.converged)
    np.testing.assert_allclose(warm.tensor, cold.tensor, atol=1e-6)


def test_polar_duals_of_a_regulariser_without_them_are_refused_by_name():
    tensor, mask = small()
    with pytest.raises(ValueError, match="polar"):
        complete_tensor(tensor, mask, regularizer="tubal", init=WarmStart(jnp.asarray(tensor), "polar"), max_iter=2)


def test_unknown_kind_of_duals_is_refused_by_name():
    tensor, mask = small()
    with pytest.raises((ValueError, TypeError), match="duals"):
        complete_tensor(tensor, mask, init=WarmStart(jnp.asarray(tensor), "polr"), max_iter=2)


def test_default_penalty_is_ten_times_larger_without_duals():
    tensor, mask = small()

    def first_penalty(**options):
        return float(complete(tensor, mask, tol=1e9, **options).rho[0])  # one iteration

    start, cold = jnp.asarray(tensor), first_penalty()
    assert first_penalty(init=start) == pytest.approx(10 * cold)
    assert first_penalty(init=WarmStart(start)) == pytest.approx(10 * cold)
    assert first_penalty(init=WarmStart(start, (jnp.zeros((3, 6, 36)),))) == pytest.approx(cold)
    assert first_penalty(init=WarmStart(start, rho_scale=3.0)) == pytest.approx(3 * cold)
    assert first_penalty(init=WarmStart(start), rho_scale=2.0) == pytest.approx(2 * cold)


def test_first_threshold_is_the_mean_of_the_largest_singular_values():
    tensor, mask = small()
    observed = np.where(mask, tensor, 0)
    largest = max(np.linalg.norm(np.moveaxis(observed, m, 0).reshape(6, -1), 2) for m in range(3))
    rho = float(complete(tensor, mask, tol=1e9).rho[0])  # one iteration
    assert (1 / 3) / rho == pytest.approx(largest, rel=1e-12)


def test_duals_from_a_low_rank_tensor_meet_both_conditions():
    tensor, rng = tucker((20, 20, 20), 2, 5)
    mask = rng.random(tensor.shape) < 0.5
    (duals,) = dual_from_low_rank(jnp.asarray(tensor), jnp.asarray(mask), RANKS, steps=60)
    (block,) = blocks.unfoldings(tensor.shape)
    total = np.asarray(block.scatter(block.data, duals))
    assert np.abs(total[~mask]).max() <= 1e-13
    for mode in range(3):
        matrix = np.moveaxis(tensor, mode, 0).reshape(20, -1)
        u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        inner = u[:, :2].T @ np.asarray(duals)[mode] @ vt[:2].T
        # The other condition holds in the limit of the alternations.
        np.testing.assert_allclose(inner, np.eye(2) / 3, atol=0.02)
        assert np.linalg.norm(np.asarray(duals)[mode], 2) <= 1.05 / 3


def iterations_to(history, level):
    return int(np.argmax(history.trim()["nmse"] <= level)) + 1


def test_duals_from_the_true_ranks_need_fewer_iterations_than_a_cold_start():
    tensor, rng = tucker((20, 20, 20), 2, 6)
    mask = rng.random(tensor.shape) < 0.4
    near = tensor + 1e-2 * rng.standard_normal(tensor.shape)
    low = near
    for mode in range(3):  # the truncated higher-order SVD: what a factorisation method returns
        u = np.linalg.svd(np.moveaxis(near, mode, 0).reshape(20, -1), full_matrices=False)[0][:, :2]
        low = np.moveaxis(np.tensordot(u @ u.T, low, (1, mode)), 0, mode)
    duals = dual_from_low_rank(jnp.asarray(low), jnp.asarray(mask), RANKS)
    options = {"penalty": NormRatio(), "stop": Residual(1e-7), "truth": tensor, "tol": None, "max_iter": 300}
    cold = complete(tensor, mask, **options)
    warm = complete(tensor, mask, init=WarmStart(jnp.asarray(low), duals), **options)
    assert iterations_to(warm.history, 1e-6) < iterations_to(cold.history, 1e-6)
    assert float(warm.history.trim()["nmse"][-1]) <= 1e-10


@pytest.mark.parametrize("ranks", [(2, 2), (0, 2, 2), (2, 2, 7)])
def test_ranks_out_of_range_are_named(ranks):
    with pytest.raises(ValueError, match=r"ranks is .*; expected one rank per mode"):
        dual_from_low_rank(jnp.zeros(SHAPE), jnp.ones(SHAPE, bool), ranks)


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 1), (1, 1)])
def test_weights_out_of_range_are_named(weights):
    with pytest.raises(ValueError, match=r"weights (is|has) .*; expected"):
        dual_from_low_rank(jnp.zeros(SHAPE), jnp.ones(SHAPE, bool), RANKS, weights=weights)


def test_weights_count_up_to_a_factor():
    tensor, mask = small()
    duals = [dual_from_low_rank(jnp.asarray(tensor), jnp.asarray(mask), RANKS, weights=w)[0] for w in ([1, 2, 1], None)]
    scaled = dual_from_low_rank(jnp.asarray(tensor), jnp.asarray(mask), RANKS, weights=[3.0, 6, 3])[0]
    np.testing.assert_allclose(scaled, duals[0], atol=1e-12)
    assert float(jnp.max(jnp.abs(duals[0] - duals[1]))) > 1e-2


def test_second_duals_of_new_numbers_compile_nothing(compilations):
    def run(seed, weights):
        tensor, mask = small(seed)
        return dual_from_low_rank(jnp.asarray(tensor), jnp.asarray(mask), RANKS, weights=weights)

    run(0, [1.0, 2, 3])
    assert compilations(lambda: run(1, [2.0, 1, 4])) == []


def test_starts_are_a_vmap():
    tensor, mask = small()
    starts = jnp.stack([jnp.zeros(SHAPE), jnp.asarray(tensor)])
    run = lambda x: complete(tensor, mask, init=x, tol=1e-4).info.iterations  # noqa: E731
    assert jax.vmap(run)(starts).tolist() == [int(run(x)) for x in starts]


def test_ranks_of_the_result_are_those_of_the_truth_once_recovered():
    tensor, _ = tucker(SHAPE, 2, 7)
    mask = np.random.default_rng(8).random(SHAPE) < 0.8
    result = complete(tensor, mask)
    assert [rank.tolist() for rank in result.ranks] == [[2, 2, 2]]
