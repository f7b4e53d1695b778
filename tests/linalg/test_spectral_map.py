import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.linalg import spectral_map

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 7), (7, 1), (1, 1), (2, 3, 5), (2, 5, 3)]
ENGINES = ["svd", "gram", "qr", "auto"]
EPS = {"float32": 1.2e-7, "float64": 2.3e-16}


def with_spectrum(shape, spectrum, seed):
    """Float64 matrices with the given singular values, and their factors."""
    rng = np.random.default_rng(seed)
    rank = min(shape[-2:])
    u = np.linalg.qr(rng.normal(size=(*shape[:-1], rank)))[0]
    v = np.linalg.qr(rng.normal(size=(*shape[:-2], shape[-1], rank)))[0]
    s = np.broadcast_to(spectrum(rank), (*shape[:-2], rank))
    return u, s, v


SPECTRA = {
    "distinct": lambda r: np.linspace(1, 0.3, r),
    "equal": np.ones,
    "rank one": lambda r: (np.arange(r) == 0) * 1.0,
    "zero": np.zeros,
    "pairs": lambda r: np.repeat(np.linspace(1, 0.4, r), 2)[:r],
}


def soften(s):
    return s / (1 + s)


@pytest.mark.parametrize("engine", ENGINES)
@given(st.sampled_from(SHAPES), st.sampled_from(list(SPECTRA)), st.integers(-20, 20), st.integers(0, 5))
def test_map_acts_on_known_singular_values_at_every_scale(engine, shape, spectrum, exponent, seed):
    u, s, v = with_spectrum(shape, SPECTRA[spectrum], seed)
    scale = 10.0**exponent
    x = jnp.asarray((u * s[..., None, :]) @ np.swapaxes(v, -1, -2) * scale, jnp.float32)
    keep, shift = np.float32(0.25 * scale), np.float32(0.5)
    out = spectral_map(x, lambda s: shift * jnp.maximum(s - keep, 0), engine=engine, floor=keep)
    expected = (u * (0.5 * np.maximum(s - 0.25, 0))[..., None, :]) @ np.swapaxes(v, -1, -2)
    np.testing.assert_allclose(np.asarray(out, np.float64) / scale, expected, atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("exponent", [-30, -25, 25, 30])
def test_map_sees_true_singular_values_at_the_ends_of_float32(engine, exponent):
    u, s, v = with_spectrum((2, 4, 7), SPECTRA["distinct"], 0)
    scale = 10.0**exponent
    x = np.stack([(u * s[..., None, :] @ np.swapaxes(v, -1, -2))[0] * scale, np.ones((4, 7))])
    out, values = spectral_map(
        jnp.asarray(x, jnp.float32), lambda s: 1 / s, engine=engine, rcond=1e-2, return_values=True
    )
    np.testing.assert_allclose(np.asarray(values[0], np.float64) * scale, 1 / s[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(out[0].mT, np.float64) * scale, np.linalg.pinv(x[0] / scale), atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (12, 12)])
def test_engines_agree(x64, dtype, shape):
    u, s, v = with_spectrum(shape, lambda r: np.logspace(0, -1.5, r), 3)
    x = jnp.asarray((u * s) @ v.T, dtype)
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    outs = [spectral_map(x, soften, engine=engine, floor=0.02) for engine in ENGINES]
    for out in outs:
        assert out.dtype == dtype
        np.testing.assert_allclose(out, (u * soften(s)) @ v.T, atol=tolerance)


@pytest.mark.parametrize("shape", [(2, 8, 20), (2, 20, 8)])
@pytest.mark.parametrize("kept", [(1, 1), (2, 2), (2, 3), (8, 0)])
def test_however_many_values_survive_the_image_is_that_of_the_svd(shape, kept):
    u, s, v = with_spectrum(shape, lambda r: np.linspace(1, 0.3, r), 4)
    x = jnp.asarray((u * s[..., None, :]) @ np.swapaxes(v, -1, -2), jnp.float32)
    survive = np.arange(8) < np.asarray(kept)[:, None]
    out = spectral_map(x, lambda s: jnp.where(survive, s, 0), engine="gram")
    expected = (u * (s * survive)[..., None, :]) @ np.swapaxes(v, -1, -2)
    np.testing.assert_allclose(out, expected, atol=4e-6)


def test_identity_and_zero_maps():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    for engine in ENGINES:
        np.testing.assert_allclose(spectral_map(x, lambda s: s, engine=engine), x, atol=5e-6)
        assert not np.any(spectral_map(x, jnp.zeros_like, engine=engine))


def test_map_may_couple_the_singular_values_of_a_matrix():
    u, s, v = with_spectrum((2, 5, 8), SPECTRA["distinct"], 1)
    x = jnp.asarray((u * s[..., None, :]) @ np.swapaxes(v, -1, -2), jnp.float32)
    for engine in ENGINES:
        out = spectral_map(x, lambda s: s / jnp.sum(s, axis=-1, keepdims=True), engine=engine)
        np.testing.assert_allclose(out, x / s.sum(-1)[:, None, None], atol=1e-6)


def test_singular_values_arrive_in_descending_order():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    for engine in ENGINES:
        _, values = spectral_map(x, lambda s: s, engine=engine, return_values=True)
        np.testing.assert_allclose(values, np.linalg.svd(np.asarray(x), compute_uv=False), rtol=1e-5)


def test_values_below_rcond_count_as_zero():
    x = jnp.diag(jnp.array([1.0, 1e-3, 1e-6]))
    out = spectral_map(x, jnp.ones_like, rcond=1e-4)
    np.testing.assert_allclose(out, np.diag([1.0, 1.0, 0.0]), atol=1e-6)
    assert not np.any(spectral_map(jnp.zeros((2, 3)), jnp.ones_like))


@pytest.mark.parametrize(("dtype", "threshold", "decades"), [("float32", 1e-4, 6), ("float64", 1e-9, 12)])
def test_auto_switches_away_from_gram_below_its_accuracy(x64, dtype, threshold, decades):
    u, s, v = with_spectrum((24, 60), lambda r: np.logspace(0, -decades, r), 0)
    x = jnp.asarray((u * s) @ v.T, dtype)
    exact = (u * np.maximum(s - threshold, 0)) @ v.T

    def error(engine):
        out = spectral_map(x, lambda s: jnp.maximum(s - threshold, 0), engine=engine, floor=threshold)
        return np.linalg.norm(np.asarray(out, np.float64) - exact, 2)

    assert error("auto") <= 20 * EPS[dtype]
    assert error("gram") > 50 * EPS[dtype]


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (1, 4)])
@pytest.mark.parametrize("engine", ENGINES)
def test_complex_matrices(shape, engine):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    out = spectral_map(jnp.asarray(x), soften, engine=engine, floor=1.0)
    np.testing.assert_allclose(out, (u * soften(s)) @ vh, atol=3e-6)


def test_half_precision_in_and_out():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.bfloat16)
    out, values = spectral_map(x, lambda s: s, return_values=True)
    assert (out.dtype, values.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(np.asarray(out, np.float32), np.asarray(x, np.float32), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 3), (2, 0, 3)])
@pytest.mark.parametrize("engine", ENGINES)
def test_empty_matrices(shape, engine):
    out, values = spectral_map(jnp.zeros(shape), soften, engine=engine, floor=1.0, return_values=True)
    assert out.shape == shape
    assert values.shape == (*shape[:-2], min(shape[-2:]))


@pytest.mark.parametrize("engine", ENGINES)
def test_vmap_jit_and_loop_agree(engine):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    thresholds = jnp.array([0.1, 0.5, 2.0])

    def shrink(x, threshold):
        return spectral_map(x, lambda s: jnp.maximum(s - threshold, 0), engine=engine, floor=threshold)

    loop = jnp.stack([shrink(a, t) for a, t in zip(x, thresholds, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(shrink))(x, thresholds), loop, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(shrink, (None, 0))(x[0], thresholds)[0], loop[0], atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_non_finite_input_stays_in_its_matrix(engine):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32).at[1, 0, 0].set(jnp.nan)
    out = spectral_map(x, lambda s: jnp.maximum(s - 0.5, 0), engine=engine, floor=0.5)
    assert bool(jnp.all(jnp.isfinite(out[0])))
    assert bool(jnp.any(jnp.isnan(out[1])))


def test_bad_arguments_are_named():
    with pytest.raises((ValueError, TypeError), match="'lu'"):
        spectral_map(jnp.eye(2), soften, engine="lu")
    with pytest.raises(TypeError):
        spectral_map(jnp.eye(2, dtype=jnp.int32), soften)
