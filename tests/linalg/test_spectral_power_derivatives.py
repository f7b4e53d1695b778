import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import spectral_power
from tests.linalg.spectra import factors, matrix

ENGINES = ["svd", "newton_schulz", "recombine", "qdwh", "rational_gram", "rational_qr", "rational_polar"]
SPECTRA = {
    "distinct": np.linspace(1, 0.3, 5),
    "equal": np.ones(5),
    "rank one": np.array([1.0, 0, 0, 0, 0]),
    "zero": np.zeros(5),
}


def loss(engine):
    c = 0.5 if engine in ("newton_schulz", "qdwh") else 0.7
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(5, 8)))

    def value(x):
        return jnp.sum(weights * spectral_power(x, c, eps=0.1, engine=engine, tol=1e-2, lower=2e-2))

    return value


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("engine", ENGINES)
def test_forward_and_reverse_are_finite_and_agree(x64, engine, spectrum):
    u, s, v = factors((5, 8), SPECTRA[spectrum])
    x = jnp.asarray(matrix(u, s, v))
    direction = jnp.asarray(np.random.default_rng(2).normal(size=x.shape))
    value = loss(engine)
    gradient = jax.grad(value)(x)
    assert np.all(np.isfinite(gradient))
    forward = jax.jvp(value, (x,), (direction,))[1]
    np.testing.assert_allclose(forward, jnp.sum(gradient * direction), rtol=1e-7, atol=1e-9)
    if spectrum != "zero":  # the scale of the zero matrix has no derivative
        step = 1e-5
        difference = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(forward, difference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ["newton_schulz", "recombine", "qdwh", "rational_gram", "rational_polar"])
def test_gradients_are_finite_in_float32_without_a_floor(engine):
    c = 0.5 if engine in ("newton_schulz", "qdwh") else 0.7
    for spectrum in SPECTRA.values():
        u, s, v = factors((5, 8), spectrum)
        x = jnp.asarray(matrix(u, s, v), jnp.float32)
        gradient = jax.grad(lambda y: jnp.sum(spectral_power(y, c, engine=engine, tol=2e-2, lower=2e-2) ** 2))(x)
        assert np.all(np.isfinite(gradient))


def test_floor_is_differentiable():
    u, s, v = factors((5, 8), SPECTRA["distinct"])
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    slope = jax.grad(lambda eps: jnp.sum(spectral_power(x, 0.5, eps=eps, scale=1.0, engine="qdwh") * x))(0.5)
    expected = np.sum(-0.5 * s**2 * (s**2 + 0.25) ** -1.5)
    np.testing.assert_allclose(slope, expected, rtol=1e-3)
