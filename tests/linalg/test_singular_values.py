from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxspec.linalg import singular_values, spectral_norm

SHAPES = [(4, 4), (3, 6), (6, 3), (1, 5), (2, 3, 4)]


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("engine", ["svd", "qr"])
@given(st.sampled_from(SHAPES), st.integers(-29, 29), st.integers(0, 5))
def test_values_and_norm_match_float64_at_every_scale(engine, shape, exponent, seed):
    x = jnp.asarray(random(shape, seed) * 10.0**exponent, jnp.float32)
    exact = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
    np.testing.assert_allclose(
        np.asarray(singular_values(x, engine=engine), np.float64) / exact[..., :1], exact / exact[..., :1], atol=1e-6
    )
    np.testing.assert_allclose(np.asarray(spectral_norm(x), np.float64) / exact[..., 0], 1, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_match_finite_differences(x64, shape):
    x = jnp.asarray(random(shape))
    for engine in ("svd", "qr"):
        check_grads(jax.jit(partial(singular_values, engine=engine)), (x,), order=1, rtol=1e-6, atol=1e-6)
    check_grads(jax.jit(spectral_norm), (x,), order=1, rtol=1e-6, atol=1e-6)


def test_complex_values_norm_and_derivatives(x64):
    x = random((3, 5)) + 1j * random((3, 5), 1)
    np.testing.assert_allclose(singular_values(jnp.asarray(x)), np.linalg.svd(x, compute_uv=False), rtol=1e-12)
    np.testing.assert_allclose(spectral_norm(jnp.asarray(x)), np.linalg.norm(x, 2), rtol=1e-12)

    def both(real, imaginary):
        return singular_values(real + 1j * imaginary), spectral_norm(real + 1j * imaginary)

    check_grads(jax.jit(both), (jnp.asarray(x.real), jnp.asarray(x.imag)), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("x", [np.zeros((3, 4)), np.eye(4), np.ones((4, 2)), np.diag([2.0, 2.0, 0.0])])
def test_derivatives_stay_finite_at_repeated_and_zero_values(x):
    x = jnp.asarray(x, jnp.float32)
    weights = jnp.arange(1.0, 1 + min(x.shape))
    gradient = jax.jit(jax.grad(lambda x: singular_values(x) @ weights + spectral_norm(x)))(x)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_the_norm_of_the_zero_matrix_has_zero_derivative():
    assert not np.any(jax.grad(spectral_norm)(jnp.zeros((2, 3))))


def test_empty_half_precision_and_batches():
    assert singular_values(jnp.zeros((2, 0, 3))).shape == (2, 0)
    assert spectral_norm(jnp.zeros((2, 0, 3))).tolist() == [0.0, 0.0]
    x = jnp.asarray(random((2, 3, 4)), jnp.bfloat16)
    assert singular_values(x).dtype == spectral_norm(x).dtype == jnp.bfloat16
    y = jnp.asarray(random((2, 3, 4)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(spectral_norm)(y), spectral_norm(y), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(singular_values)(y), jnp.stack([singular_values(a) for a in y]), rtol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises((ValueError, TypeError), match="'gram'"):
        singular_values(jnp.eye(2), engine="gram")
    with pytest.raises(TypeError):
        spectral_norm(jnp.eye(2, dtype=jnp.int32))
