import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.linalg import schatten_direction, schatten_norm, spectral_power
from tests.linalg.spectra import factors, matrix

X = jnp.diag(jnp.array([4.0, 1.0]))


@pytest.mark.parametrize(("q", "norm"), [(1.5, 4.326749), (2 / 3, 6.603661), (0.5, 9.0), (1, 5.0), (float("inf"), 4.0)])
def test_norm_oracles(q, norm):
    np.testing.assert_allclose(schatten_norm(X, q), norm, rtol=1e-6)


@pytest.mark.parametrize(
    ("q", "values"), [(1.5, (0.961500, 0.480750)), (2 / 3, (1.181884, 1.876124)), (0.5, (1.5, 3.0)), (1, (1.0, 1.0))]
)
def test_direction_oracles(q, values):
    np.testing.assert_allclose(schatten_direction(X, q), np.diag(values), rtol=1e-6, atol=1e-7)


@given(
    st.sampled_from([0.5, 2 / 3, 1.0, 1.5, 2.0, 3.0]), st.sampled_from([(4, 7), (7, 4), (2, 3, 5)]), st.integers(0, 4)
)
def test_direction_is_the_gradient_and_pairs_to_the_norm(q, shape, seed):
    with jax.enable_x64(True):
        u, s, v = factors(shape, np.linspace(1, 0.3, min(shape[-2:])), seed)
        x = jnp.asarray(matrix(u, s, v))
        direction = schatten_direction(x, q)
        np.testing.assert_allclose(jnp.sum(direction * x, axis=(-2, -1)), schatten_norm(x, q), rtol=1e-10)
        gradient = jax.grad(lambda y: jnp.sum(schatten_norm(y, q)))(x)
        np.testing.assert_allclose(gradient, direction, atol=1e-9)
        step = 1e-6 * np.random.default_rng(seed).normal(size=shape)
        change = jnp.sum(schatten_norm(x + step, q) - schatten_norm(x - step, q))
        np.testing.assert_allclose(change, 2 * jnp.sum(direction * step), rtol=1e-5, atol=1e-12)


@given(st.sampled_from([0.5, 1.0, 1.5]), st.integers(-30, 30))
def test_direction_has_no_scale_and_norm_has_degree_one(q, exponent):
    u, s, v = factors((4, 7), np.linspace(1, 0.3, 4))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    factor = np.float32(10.0**exponent)
    np.testing.assert_allclose(schatten_direction(x * factor, q), schatten_direction(x, q), atol=1e-5)
    np.testing.assert_allclose(np.float64(schatten_norm(x * factor, q)) / factor, schatten_norm(x, q), rtol=1e-5)


@pytest.mark.parametrize("q", [0.5, 1.5])
def test_power_of_the_spectrum_pairs_to_the_norm(q):
    u, s, v = factors((4, 7), np.linspace(1, 0.3, 4))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    y = spectral_power(x, 1 - q / 2, eps=1e-9, engine="svd")
    np.testing.assert_allclose(jnp.sum(x * y), schatten_norm(x, q) ** q, rtol=1e-5)


@pytest.mark.parametrize("c", [0.2, 0.5, 0.75])
def test_steepest_descent_of_a_norm_only_up_to_one_half(c):
    """Permuting the values of D keeps every unitarily invariant norm: only a decreasing map is then improvable."""
    u, s, v = factors((4, 7), np.linspace(1, 0.3, 4))
    values = s ** (1 - 2 * c)
    direction = np.asarray(spectral_power(jnp.asarray(matrix(u, s, v), jnp.float32), c, eps=1e-9, engine="svd"))
    other = matrix(u, np.sort(values)[::-1], v)
    gain = np.sum((other - direction) * matrix(u, s, v))
    for q in (1, 2, 3, float("inf")):
        norms = [schatten_norm(jnp.asarray(d, jnp.float32), q) for d in (other, direction)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
    assert gain > 0.1 if c > 0.5 else abs(gain) < 1e-5


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0])
def test_zero_rank_one_and_empty_matrices(q):
    assert not np.any(schatten_direction(jnp.zeros((3, 5)), q))
    assert schatten_norm(jnp.zeros((3, 5)), q) == 0
    assert schatten_norm(jnp.zeros((2, 0, 5)), q).shape == (2,)
    one = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(5))
    np.testing.assert_allclose(schatten_direction(one, q), one / jnp.linalg.norm(one), atol=1e-5)
    for x in (jnp.zeros((3, 5)), one):
        assert np.all(np.isfinite(jax.grad(lambda y: schatten_norm(y, q))(x)))


@pytest.mark.parametrize("function", [schatten_norm, schatten_direction])
@pytest.mark.parametrize("q", [0.0, -1.0, float("nan")])
def test_bad_exponents(function, q):
    with pytest.raises(ValueError, match="q is"):
        function(X, q)


def test_direction_of_the_spectral_norm_is_refused():
    with pytest.raises(ValueError, match="finite"):
        schatten_direction(X, float("inf"))
