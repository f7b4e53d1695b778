import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxspec.linalg import spectral_map

SHAPES = [(4, 4), (3, 5), (5, 3), (2, 2, 3), (1, 4)]
DEGENERATE = {
    "identity": np.eye(4),
    "zero wide": np.zeros((3, 5)),
    "zero tall": np.zeros((5, 3)),
    "rank one": np.ones((3, 5)),
    "pair and zero": np.diag([2.0, 2.0, 1.0, 0.0]),
    "close pair": np.diag([1.0, 1.0 + 1e-10, 0.5]),
}


def coupled(s):
    return s**3 / 3 + s * jnp.sum(s**2, axis=-1, keepdims=True)


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# One compilation a shape.
@jax.jit
def mapped(x):
    return spectral_map(x, coupled)


def soft(s):
    return jnp.maximum(s - 1.0, 0)


@jax.jit
def steep(x):
    """Gradients of maps with a jump or a steep slope at zero."""
    maps = jnp.ones_like, jnp.sqrt, soft
    return [jax.grad(lambda x, f=f: jnp.sum(jnp.sin(spectral_map(x, f))))(x) for f in maps]


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_match_finite_differences_forward_and_reverse(x64, shape):
    check_grads(mapped, (random(shape),), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(DEGENERATE))
def test_derivatives_are_exact_at_repeated_and_zero_singular_values(x64, name):
    x = jnp.asarray(DEGENERATE[name])
    check_grads(mapped, (x,), order=1, rtol=1e-5, atol=1e-5)


@functools.cache
def shrunk_tangents(engine):
    def shrink(x, t):
        return spectral_map(x, lambda s: jnp.maximum(s - t, 0), engine=engine, floor=0.5, return_values=True)

    primals, tangents = (random((3, 5)), jnp.asarray(0.5)), (random((3, 5), 1), jnp.asarray(1.0))
    return jax.jit(lambda: jax.jvp(shrink, primals, tangents)[1])()


@pytest.mark.parametrize("engine", ["gram", "qr", "auto"])
def test_every_engine_has_the_derivative_of_the_svd_engine(x64, engine):
    for ours, reference in zip(shrunk_tangents(engine), shrunk_tangents("svd"), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-12)


def test_derivatives_flow_to_values_the_map_closes_over(x64):
    def run(x, t, powers):
        return spectral_map(x, lambda s: s * jnp.exp(-t[:, None] * s) + powers * s**2, return_values=True)

    check_grads(jax.jit(run), (random((2, 3, 4)), jnp.array([0.1, 0.3]), jnp.array(0.2)), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (3, 3)])
def test_complex_derivatives(x64, shape):
    def run(real, imaginary):
        y = spectral_map(real + 1j * imaginary, coupled)
        return y.real, y.imag

    check_grads(jax.jit(run), (random(shape), random(shape, 1)), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(DEGENERATE))
def test_maps_with_a_jump_or_a_steep_slope_at_zero_have_finite_derivatives(name):
    gradients = steep(jnp.asarray(DEGENERATE[name], jnp.float32))
    assert len(gradients) == 3
    assert np.isfinite(np.asarray(gradients)).all()


def test_derivative_is_scale_free(x64):
    x, direction = random((3, 5)), random((3, 5), 1)

    @jax.jit
    def tangent(scale):
        return jax.jvp(lambda x: spectral_map(x, lambda s: jnp.minimum(s, scale)), (scale * x,), (scale * direction,))[
            1
        ]

    for exponent in (-250, -60, 60, 250):
        np.testing.assert_allclose(tangent(2.0**exponent) / 2.0**exponent, tangent(1.0), rtol=1e-12)


def test_jacobians_and_batched_gradients_agree_with_a_loop(x64):
    x = random((3, 2, 4))

    def loss(x):
        return jnp.sum(spectral_map(x, coupled) ** 2)

    gradient = jax.jit(jax.grad(loss))
    loop = jnp.stack([gradient(a) for a in x])
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(x), loop, rtol=1e-12)
    np.testing.assert_allclose(gradient(x), loop, rtol=1e-12)
    forward = jax.jit(jax.jacfwd(lambda a: spectral_map(a, coupled)))(x[0])
    reverse = jax.jit(jax.jacrev(lambda a: spectral_map(a, coupled)))(x[0])
    np.testing.assert_allclose(forward, reverse, rtol=1e-11, atol=1e-13)
