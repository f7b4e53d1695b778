"""The block forms that only large matrices take, against plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import polar
from jaxspec.linalg.normalisation import hermitian_product
from jaxspec.linalg.qdwh import inverse_factor, lower_gram
from tests.linalg.spectra import errors, factors, matrix

HIGHEST = jax.lax.Precision.HIGHEST


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_hermitian_product_mirrors_its_upper_blocks(dtype):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(517, 40)) + (1j * rng.normal(size=(517, 40)) if dtype == "complex64" else 0)
    a = jnp.asarray(a, dtype)
    out = hermitian_product(a, jnp.conj(a.T), HIGHEST)
    np.testing.assert_allclose(out, np.asarray(a) @ np.conj(a).T, atol=1e-3)


@pytest.mark.parametrize("size", [100, 128, 259])
def test_triangular_inverse_and_its_gram_matrix_by_halves(size):
    lower = np.tril(np.random.default_rng(0).normal(size=(2, size, size))) * 0.02 + np.eye(size)
    inverse = inverse_factor(jnp.asarray(lower, jnp.float32), HIGHEST)
    np.testing.assert_allclose(inverse, np.linalg.inv(lower), atol=1e-5)
    expected = np.swapaxes(lower, -1, -2) @ lower
    np.testing.assert_allclose(lower_gram(jnp.asarray(lower, jnp.float32), HIGHEST), expected, atol=1e-4)
    stacked = jnp.asarray(lower, jnp.float32).reshape(2 * size, size)
    np.testing.assert_allclose(lower_gram(stacked, HIGHEST, 2), expected.sum(0), atol=1e-4)


def test_gram_iteration_is_harmless_on_singular_matrices():
    for rank in (1, 5):
        u, s, v = factors((40, 160), (np.arange(40) < rank) * 1.0)
        x = jnp.asarray(matrix(u, s, v), jnp.float32)
        for schedule in ("jordan", "optimal"):
            plain, gram = (
                polar(x, engine="newton_schulz", schedule=schedule, lower=1e-2, tol=1e-2, gram=g) for g in (False, True)
            )
            assert np.linalg.norm(np.asarray(plain) - np.asarray(gram), 2) < 2e-2


def test_float32_polar_factor_of_a_large_matrix_by_blocks():
    u, s, v = factors((520, 1600), np.geomspace(1, 1e-2, 520))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    for engine in ("newton_schulz", "qdwh"):
        out = polar(x, engine=engine, tol=1e-2, lower=0.95e-2, scale="spectral")
        assert max(errors(out, u, s, v, np.ones(520))) < 1e-2
