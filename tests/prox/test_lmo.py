import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxspec.prox import lmo_schatten

EXPONENTS = [1, 1.1, 2, 10, np.inf]


def schatten(x, p):
    return np.linalg.norm(np.linalg.svd(np.asarray(x, np.float64), compute_uv=False), p)


def dual(p):
    return np.inf if p == 1 else 1.0 if np.isinf(p) else p / (p - 1)


@given(
    st.sampled_from(EXPONENTS),
    st.sampled_from([(3, 6), (6, 3), (1, 5)]),
    st.integers(-30, 30),
    st.integers(0, 3),
)
def test_minimum_is_minus_radius_times_the_dual_norm_and_feasible(p, shape, exponent, seed):
    x = np.random.default_rng(seed).normal(size=shape)
    s = lmo_schatten(jnp.asarray(x * 10.0**exponent, jnp.float32), 2.5, p)
    assert schatten(s, p) <= 2.5 * (1 + 1e-5)
    assert np.sum(x * np.asarray(s, np.float64)) == pytest.approx(-2.5 * schatten(x, dual(p)), rel=1e-5)


@pytest.mark.parametrize("p", EXPONENTS)
def test_special_matrices_and_radii(p):
    assert not np.any(lmo_schatten(jnp.zeros((2, 3, 4)), 1.0, p))
    assert not np.any(lmo_schatten(jnp.ones((3, 4)), 0.0, p))
    # At rank one every ball has the same minimiser.
    np.testing.assert_allclose(lmo_schatten(2 * jnp.ones((2, 2)), 1.0, p), -0.5 * np.ones((2, 2)), atol=1e-6)


def test_radii_broadcast_over_the_batch():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    out = lmo_schatten(x, np.array([1.0, 2.0]), 1)
    np.testing.assert_allclose(out[1], lmo_schatten(x[1], 2.0, 1), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda a, r: lmo_schatten(a, r, 1))(x, jnp.array([1.0, 2.0])), out, atol=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, np.inf])
def test_derivatives(x64, p):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    check_grads(jax.jit(lambda x, r: lmo_schatten(x, r, p)), (x, jnp.asarray(1.5)), order=1, rtol=1e-5, atol=1e-5)


def test_bad_arguments_are_named():
    for p in (0.5, np.nan):
        with pytest.raises(ValueError, match="p is"):
            lmo_schatten(jnp.ones((2, 2)), 1.0, p)
    with pytest.raises(ValueError, match="radius is -1"):
        lmo_schatten(jnp.ones((2, 2)), -1.0, 1)
