"""Derivatives of the smoothed polar factor: closed form, differences, SciPy, and every order at degenerate spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm, polar, solve_sylvester, sqrtm

from jaxspec.linalg import smoothed_nuclear_norm, smoothed_polar, smoothed_polar_hvp

POINTS = {
    "generic": np.random.default_rng(0).standard_normal((3, 4)),
    "zero": np.zeros((3, 4)),
    "repeated": np.eye(3, 4),
    "rank one": np.ones((3, 4)),
    "tall, rank one": np.ones((4, 3)),
}


def scipy_hvp(p, v, eps):
    """``A dA + dA A = dS``, ``dY = (v - Y dA) A^(-1)`` with SciPy's square root and Sylvester solver."""
    a = sqrtm(p.T @ p + eps**2 * np.eye(p.shape[1])).real
    y = np.linalg.solve(a, p.T).T
    da = solve_sylvester(a, a, v.T @ p + p.T @ v)
    return np.linalg.solve(a, (v - y @ da).T).T


@pytest.mark.parametrize("point", POINTS)
def test_first_derivatives(x64, point):
    p, eps = POINTS[point], 0.4
    rng = np.random.default_rng(1)
    v, w = rng.standard_normal((2, *p.shape))
    closed = smoothed_polar_hvp(jnp.asarray(p), jnp.asarray(v), eps)
    np.testing.assert_allclose(closed, scipy_hvp(p, v, eps), atol=1e-12)
    y, pull = jax.vjp(lambda p: smoothed_polar(p, eps), jnp.asarray(p))
    forward = jax.jvp(lambda p: smoothed_polar(p, eps), (jnp.asarray(p),), (jnp.asarray(v),))[1]
    np.testing.assert_allclose(forward, closed, atol=1e-12)
    np.testing.assert_allclose(pull(jnp.asarray(v))[0], forward, atol=1e-12)  # self-adjoint
    np.testing.assert_allclose(np.sum(w * forward), np.sum(v * pull(jnp.asarray(w))[0]), atol=1e-12)
    np.testing.assert_allclose(jax.grad(smoothed_nuclear_norm)(jnp.asarray(p), eps), y, atol=1e-13)
    step = 1e-6
    floor = [smoothed_polar(jnp.asarray(p), eps + sign * step) for sign in (1, -1)]
    slope = jax.jacfwd(smoothed_polar, 1)(jnp.asarray(p), eps)
    np.testing.assert_allclose(slope, (floor[0] - floor[1]) / (2 * step), atol=1e-8)
    value = [smoothed_nuclear_norm(jnp.asarray(p), eps + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(
        jax.grad(smoothed_nuclear_norm, 1)(jnp.asarray(p), eps), (value[0] - value[1]) / (2 * step), atol=1e-8
    )


def test_the_numbers_of_a_small_matrix(x64):
    p, v = jnp.array([[1.0, 2], [3, 4], [5, 6]]), jnp.array([[1.0, 0], [0, -1], [1, 1]])
    expected = [[0.37302279, -0.18746686], [0.15141148, -0.27203247], [-0.15308442, 0.18887054]]
    np.testing.assert_allclose(smoothed_polar_hvp(p, v, 0.5), expected, atol=1e-8)


@jax.jit
def second(p, u, v):
    """D^2 Y[u, v], by forward over reverse over the closed form's rule."""
    return jax.jvp(lambda p: jax.vjp(lambda q: smoothed_polar(q, 0.6), p)[1](u)[0], (p,), (v,))[1]


@jax.jit
def third(p, u, v, w):
    """D^3 Y[u, v, w]."""
    return jax.jvp(lambda p: second(p, u, v), (p,), (w,))[1]


@jax.jit
def directional(p, u, v):
    return jax.jvp(lambda p: smoothed_polar_hvp(p, u, 0.6), (p,), (v,))[1]


@pytest.mark.parametrize("point", ["zero", "repeated", "rank one"])
def test_third_derivatives_are_finite_and_right(x64, point):
    p = POINTS[point]
    u, v, w = np.random.default_rng(2).standard_normal((3, *p.shape))
    step = 1e-4
    difference = (second(p + step * w, u, v) - second(p - step * w, u, v)) / (2 * step)
    np.testing.assert_allclose(third(p, u, v, w), difference, atol=1e-5)
    assert np.abs(difference).max() > 1e-2
    np.testing.assert_allclose(directional(p, u, v), second(p, u, v), atol=1e-11)


def test_the_spectrum_of_the_derivative_is_bounded(x64):
    p = jnp.asarray(POINTS["generic"])
    eps = 0.4
    hessian = jax.jacfwd(lambda p: smoothed_polar(p, eps))(p).reshape(12, 12)
    values = np.linalg.eigvalsh(hessian)
    largest = np.linalg.norm(p, 2)
    assert values[0] >= eps**2 / (largest**2 + eps**2) ** 1.5 - 1e-12
    assert values[-1] <= 1 / eps + 1e-12


@pytest.mark.parametrize("engine", ["auto", "svd", "gram_eigh", "gram_ns", "aug_ns"])
def test_every_engine_and_a_promise_have_the_same_derivative(x64, engine):
    p = jnp.asarray(POINTS["generic"])
    gradient = jax.grad(lambda p, **options: jnp.sum(smoothed_polar(p, 0.3, **options) ** 3))
    expected = gradient(p, engine="svd")
    np.testing.assert_allclose(gradient(p, engine=engine), expected, atol=1e-11)
    np.testing.assert_allclose(gradient(p, engine="gram_ns", max_cond=50.0), expected, atol=1e-11)


def test_batches_of_derivatives(x64):
    p = jnp.asarray(np.random.default_rng(3).standard_normal((5, 3, 2)))
    total = jax.grad(lambda p: jnp.sum(smoothed_polar(p, 0.3) ** 3))(p)
    each = jax.vmap(jax.grad(lambda p: jnp.sum(smoothed_polar(p, 0.3) ** 3)))(p)
    np.testing.assert_allclose(total, each, atol=1e-13)


@pytest.mark.parametrize("exponent", [-18, 18])
def test_derivatives_at_extreme_scales_in_float32(exponent):
    scale = 10.0**exponent
    p, v = POINTS["generic"].astype(np.float32), np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)
    expected = scipy_hvp(p.astype(float), v.astype(float), 0.4)
    _, tangent = jax.jvp(lambda p: smoothed_polar(p, 0.4 * scale), (jnp.asarray(p * scale),), (jnp.asarray(v * scale),))
    np.testing.assert_allclose(tangent, expected, atol=1e-5)
    closed = smoothed_polar_hvp(jnp.asarray(p * scale), jnp.asarray(v * scale), 0.4 * scale)
    np.testing.assert_allclose(closed, expected, atol=1e-5)
    assert np.all(np.isfinite(jax.grad(lambda p: jnp.sum(smoothed_polar(p, 0.4 * scale)))(jnp.zeros((3, 4)))))


def test_the_limit_of_small_floors_is_the_polar_factor(x64):
    rng = np.random.default_rng(5)
    skew = rng.standard_normal((4, 4))
    u = expm(skew - skew.T)
    p = u @ np.diag([3.0, 2.0, 1.0, 0.5])
    np.testing.assert_allclose(smoothed_polar(jnp.asarray(p), 1e-6), polar(p)[0], atol=1e-11)


def test_directions_of_another_shape_are_refused():
    with pytest.raises((ValueError, TypeError), match=r"'v'|v has shape"):
        smoothed_polar_hvp(jnp.eye(3), jnp.ones((3, 2)), 0.1)
