import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxspec.linalg import polar, spectral_power
from jaxspec.linalg.spectral_power import _run
from tests.linalg.spectra import factors, geometric, matrix

SHAPES = [(5, 9), (9, 5), (6, 6), (2, 4, 7)]
ENGINES = ["svd", "newton_schulz", "recombine", "qdwh", "rational_gram", "rational_qr", "rational_polar"]
OPTIONS = {"tol": 1e-2, "lower": 2e-2}


def draw(shape, seed):
    u, s, v = factors(shape, geometric(min(shape[-2:]), 8), seed)
    return jnp.asarray(matrix(u, s, v), jnp.float32)


def power(x, engine, **keywords):
    c = 0.5 if engine in ("newton_schulz", "qdwh") else 0.75
    floor = {"eps": 0.02} if engine != "newton_schulz" else {}
    return spectral_power(x, c, engine=engine, **(OPTIONS | floor | keywords)), 1 - 2 * c


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=8)
@given(st.sampled_from(SHAPES), st.integers(0, 3))
def test_map_commutes_with_orthogonal_factors(engine, shape, seed):
    x = draw(shape, seed)
    rng = np.random.default_rng(seed)
    left = jnp.asarray(np.linalg.qr(rng.normal(size=(shape[-2],) * 2))[0], jnp.float32)
    right = jnp.asarray(np.linalg.qr(rng.normal(size=(shape[-1],) * 2))[0], jnp.float32)
    np.testing.assert_allclose(power(left @ x @ right, engine)[0], left @ power(x, engine)[0] @ right, atol=2e-4)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=6)
@given(st.sampled_from(SHAPES), st.integers(0, 3))
def test_map_commutes_with_transposition(engine, shape, seed):
    x = draw(shape, seed)
    np.testing.assert_allclose(power(x.mT, engine)[0], power(x, engine)[0].mT, atol=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=10)
@given(st.sampled_from(SHAPES), st.integers(-30, 30), st.integers(0, 3))
def test_map_is_homogeneous_from_1e_minus_30_to_1e30(engine, shape, exponent, seed):
    x = draw(shape, seed)
    factor = 10.0**exponent
    reference, degree = power(x, engine)
    out = np.asarray(power(x * np.float32(factor), engine)[0], np.float64) / factor**degree
    np.testing.assert_allclose(out, reference, atol=3e-4 * np.abs(reference).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_vmap_and_jit_equal_a_loop(engine):
    x = jnp.stack([draw((5, 9), seed) for seed in range(3)])

    def one(y):
        return power(y, engine)[0]

    loop = jnp.stack([one(y) for y in x])
    for out in (one(x), jax.vmap(one)(x), jax.jit(one)(x)):
        np.testing.assert_allclose(out, loop, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_rank_one_and_empty_matrices(engine):
    zero = power(jnp.zeros((2, 5, 9)), engine)[0]
    assert not np.any(zero)
    one = power(jnp.outer(jnp.arange(1.0, 6.0), jnp.ones(9)), engine)[0]
    assert np.all(np.isfinite(one))
    assert np.linalg.matrix_rank(np.asarray(one, np.float64), tol=1e-3 * np.linalg.norm(one)) == 1
    for shape in ((0, 5), (5, 0), (0, 4, 4)):
        assert power(jnp.zeros(shape), engine)[0].shape == shape


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_non_finite_entries_spoil_their_own_matrix_only(engine, value):
    x = jnp.stack([draw((5, 9), seed) for seed in range(3)]).at[1, 2, 3].set(value)
    out = power(x, engine)[0]
    assert not np.all(np.isfinite(out[1]))
    np.testing.assert_allclose(out[::2], power(x[::2], engine)[0], atol=1e-6)


@pytest.mark.parametrize("engine", ["svd", "newton_schulz", "qdwh"])
def test_complex_matrices_by_conjugation(engine):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 9)) + 1j * rng.normal(size=(5, 9))
    for y in (x, x.T):
        u, _, vh = np.linalg.svd(y, full_matrices=False)
        out = polar(jnp.asarray(y, jnp.complex64), engine=engine, lower=1e-2)
        np.testing.assert_allclose(out, u @ vh, atol=2e-3)


def test_composition_with_its_transpose_is_a_power_of_the_gram_matrix():
    x = draw((5, 9), 0)
    gram = np.asarray(x @ x.T, np.float64)
    values, vectors = np.linalg.eigh(gram)
    for c in (0.2, 0.5, 0.8):
        out = spectral_power(x, c, eps=1e-9, engine="svd")
        np.testing.assert_allclose(out @ out.T, (vectors * values ** (1 - 2 * c)) @ vectors.T, rtol=1e-3, atol=1e-5)


def test_zero_exponent_is_the_identity():
    x = draw((5, 9), 0)
    for engine in ENGINES:
        assert spectral_power(x, 0.0, engine=engine) is x


def test_new_numbers_do_not_compile_again():
    for engine in ("svd", "qdwh", "newton_schulz"):
        spectral_power(draw((5, 9), 0), 0.5, engine=engine, eps=0.1)
        before = _run._cache_size()
        for eps in (0.2, 0.3):
            spectral_power(draw((5, 9), 1), 0.5, engine=engine, eps=jnp.asarray(eps, jnp.float32))
        spectral_power(draw((5, 9), 2), 0.5, engine=engine, eps=jnp.asarray(0.4, jnp.float32))
        assert _run._cache_size() <= before + 1, engine
    spectral_power(draw((5, 9), 0), 0.3, engine="svd", eps=0.1)
    before = _run._cache_size()
    spectral_power(draw((5, 9), 0), 0.4, engine="svd", eps=0.3)
    spectral_power(draw((5, 9), 3), 0.75, engine="recombine", eps=0.1, tol=5e-2)
    spectral_power(draw((5, 9), 4), 0.75, engine="recombine", eps=0.1, tol=5e-2)
    assert _run._cache_size() == before + 1


def test_floor_and_exponent_may_be_one_per_matrix():
    x = jnp.stack([draw((5, 9), seed) for seed in range(2)])
    eps, c = jnp.array([0.1, 0.5]), jnp.array([0.3, 0.7])
    out = spectral_power(x, c, eps=eps, engine="svd")
    for k in range(2):
        np.testing.assert_allclose(
            out[k], spectral_power(x[k], float(c[k]), eps=float(eps[k]), engine="svd"), atol=1e-6
        )
    for engine in ("qdwh", "newton_schulz"):
        out = polar(x, eps=eps, engine=engine)
        for k in range(2):
            np.testing.assert_allclose(out[k], polar(x[k], eps=float(eps[k]), engine=engine), atol=2e-3)
