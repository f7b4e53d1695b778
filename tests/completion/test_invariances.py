"""What may not change the completion: units, the order of modes and indices, the basis of a mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.completion import blocks, complete_tensor

SHAPE = (4, 4, 4)
WEIGHTS = np.array([0.5, 0.3, 0.2])


def problem(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE), rng.random(SHAPE) < 0.65


def solve(tensor, mask, lam=None, weights=WEIGHTS, tol=1e-10, **options):
    return complete_tensor(
        tensor,
        mask,
        lam=lam,
        weights=jnp.asarray(weights),
        tol=tol,
        max_iter=3000,
        svt="gram",
        history=False,
        **options,
    )


@pytest.fixture(params=[None, 0.3], ids=["exact", "noisy"])
def lam(request, x64):
    """Both problems, in double precision."""
    return request.param


@given(power=st.integers(-300, 300), seed=st.integers(0, 3))
def test_power_of_two_units_change_no_bit_of_the_exact_completion(power, seed):
    with jax.enable_x64(True):
        tensor, mask = problem(seed)
        one, other = solve(tensor, mask), solve(np.ldexp(tensor, power), mask)
        assert int(one.info.iterations) == int(other.info.iterations)
        np.testing.assert_array_equal(np.ldexp(np.asarray(one.tensor), power), other.tensor)
        for a, b in zip(one.duals, other.duals, strict=True):
            np.testing.assert_array_equal(a, b)


@given(power=st.integers(-100, 100), seed=st.integers(0, 3))
def test_power_of_two_units_change_no_bit_in_float32(power, seed):
    tensor, mask = problem(seed)
    tensor = tensor.astype(np.float32)
    one, other = solve(tensor, mask, tol=1e-5), solve(np.ldexp(tensor, power), mask, tol=1e-5)
    assert other.tensor.dtype == jnp.float32
    np.testing.assert_array_equal(np.ldexp(np.asarray(one.tensor), power), other.tensor)


@given(factor=st.floats(1e-30, 1e30), seed=st.integers(0, 3))
def test_data_and_lam_in_other_units_scale_the_noisy_completion(factor, seed):
    with jax.enable_x64(True):
        tensor, mask = problem(seed)
        one, other = solve(tensor, mask, 0.3), solve(factor * tensor, mask, factor * 0.3)
        np.testing.assert_allclose(np.asarray(other.tensor) / factor, one.tensor, atol=1e-6 * np.abs(tensor).max())
        value, scaled = float(one.info.objective), float(other.info.objective)
        assert scaled / factor**2 == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1)])
def test_order_of_the_modes_with_their_weights_does_not_matter(lam, order):
    tensor, mask = problem(0)
    one = solve(tensor, mask, lam)
    other = solve(tensor.transpose(order), mask.transpose(order), lam, WEIGHTS[list(order)])
    np.testing.assert_allclose(other.tensor, np.asarray(one.tensor).transpose(order), atol=1e-8)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_order_of_the_indices_of_a_mode_does_not_matter(lam, mode):
    tensor, mask = problem(1)
    order = np.random.default_rng(0).permutation(4)
    one = solve(tensor, mask, lam)
    other = solve(np.take(tensor, order, mode), np.take(mask, order, mode), lam)
    np.testing.assert_allclose(other.tensor, np.take(np.asarray(one.tensor), order, mode), atol=1e-8)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_orthogonal_change_of_basis_of_a_mode_turns_a_fully_observed_solution(x64, mode):
    tensor, _ = problem(2)
    everything = np.ones(SHAPE, bool)
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0]
    rotate = lambda x: np.moveaxis(np.tensordot(rotation, np.asarray(x), (1, mode)), 0, mode)  # noqa: E731
    one, other = solve(tensor, everything, 0.5), solve(rotate(tensor), everything, 0.5)
    np.testing.assert_allclose(other.tensor, rotate(one.tensor), atol=1e-8)


def test_observed_entries_of_the_exact_completion_are_the_data_bitwise(x64):
    tensor, mask = problem(4)
    tensor = tensor * 10.0 ** np.random.default_rng(5).uniform(-12, 12, SHAPE)
    result = solve(tensor, mask, tol=1e-3)
    np.testing.assert_array_equal(np.asarray(result.tensor)[mask], tensor[mask])


def test_what_stands_in_unobserved_places_is_never_read(lam):
    tensor, mask = problem(6)
    reference = solve(np.where(mask, tensor, 0), mask, lam, tol=1e-5)
    for junk in (np.nan, np.inf, -1e300):
        result = solve(np.where(mask, tensor, junk), mask, lam, tol=1e-5)
        np.testing.assert_array_equal(result.tensor, reference.tensor)


def test_weight_zero_per_entry_is_the_same_as_not_observed(x64):
    tensor, mask = problem(7)
    by_weight = solve(tensor, np.ones(SHAPE, bool), 0.3, obs_weights=mask.astype(float))
    np.testing.assert_allclose(by_weight.tensor, solve(tensor, mask, 0.3).tensor, atol=1e-8)


def test_unfolding_of_weight_zero_is_the_same_as_none(x64):
    tensor, mask = problem(8)
    dropped = solve(tensor, mask, weights=[0.5, 0.5, 0.0])
    assert dropped.duals[0].shape == (2, 4, 16)
    two = complete_tensor(
        tensor, mask, regularizer=blocks.unfoldings(SHAPE, [0.5, 0.5], [(0,), (1,)]), tol=1e-10, max_iter=3000
    )
    np.testing.assert_allclose(dropped.tensor, two.tensor, atol=1e-8)
