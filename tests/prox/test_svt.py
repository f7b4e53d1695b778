import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxspec.prox import nuclear, nuclear_ridge, project_spectral_ball, svt

ENGINES = ["gram", "qr", "svd", "auto"]
SHAPES = [(5, 5), (3, 8), (8, 3), (1, 6), (2, 3, 4), (2, 4, 3)]
HILBERT = jnp.asarray(1 / (1 + np.arange(4)[:, None] + np.arange(3)), jnp.float32)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def exact_svt(x, threshold):
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return (u * np.maximum(s - np.asarray(threshold, np.float64)[..., None], 0)[..., None, :]) @ vt


@pytest.mark.parametrize("method", ENGINES)
def test_hilbert_oracle(method):
    y, norm = svt(HILBERT, 0.1, method=method, return_norm=True)
    assert float(norm) == pytest.approx(1.395227, abs=2e-6)
    assert float(jnp.linalg.norm(y)) == pytest.approx(1.352608, abs=2e-6)
    assert float(y[0, 0]) == pytest.approx(0.902309, abs=2e-6)


@pytest.mark.parametrize("method", ENGINES)
@given(st.sampled_from(SHAPES), st.integers(-30, 30), st.sampled_from([0.0, 0.05, 0.5, 2.0, 50.0]), st.integers(0, 5))
def test_matches_float64_at_every_scale(method, shape, exponent, threshold, seed):
    scale = 10.0**exponent
    x = random(shape, seed)
    y, norm = svt(jnp.asarray(x * scale, jnp.float32), threshold * scale, method=method, return_norm=True)
    exact = exact_svt(x, threshold)
    np.testing.assert_allclose(np.asarray(y, np.float64) / scale, exact, atol=1e-5)
    nuclear = np.linalg.svd(exact, compute_uv=False).sum(-1)
    # A threshold of 0 keeps the Gram engine's noise at the square root of the precision.
    np.testing.assert_allclose(np.asarray(norm, np.float64) / scale, nuclear, rtol=1e-5, atol=1e-5)


@given(st.sampled_from(SHAPES), st.floats(0.01, 3.0), st.integers(0, 5))
def test_moreau_identity_firm_nonexpansiveness_and_transposition(shape, threshold, seed):
    a, b = (jnp.asarray(random(shape, s), jnp.float32) for s in (seed, seed + 100))
    pa, pb = svt(a, threshold), svt(b, threshold)
    np.testing.assert_allclose(pa + project_spectral_ball(a, threshold), a, atol=1e-5)
    assert float(jnp.sum((pa - pb) ** 2)) <= float(jnp.sum((pa - pb) * (a - b))) + 1e-4
    np.testing.assert_allclose(svt(a.mT, threshold).mT, pa, atol=1e-5)


@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("tall", [False, True])
def test_auto_is_accurate_on_a_spectrum_of_six_decades(ratio, tall):
    u, v = np.linalg.qr(random((64, 64)))[0], np.linalg.qr(random((4096, 64), 1))[0]
    s = np.logspace(0, -6, 64)
    exact = (u * np.maximum(s - ratio, 0)) @ v.T
    x = jnp.asarray((u * s) @ v.T, jnp.float32)
    y = svt(x.T, ratio).T if tall else svt(x, ratio)
    assert np.linalg.norm(np.asarray(y, np.float64) - exact, 2) <= 1e-5


@pytest.mark.parametrize("shape", [(16, 50), (50, 16), (12, 12)])
def test_engines_agree_in_float64(x64, shape):
    x = jnp.asarray(random(shape))
    outs = [svt(x, 0.3, method=method) for method in ENGINES]
    for out in outs:
        np.testing.assert_allclose(out, exact_svt(x, 0.3), atol=1e-10)


def test_thresholds_broadcast_over_the_batch():
    x = jnp.asarray(random((3, 2, 4, 5)), jnp.float32)
    t = np.array([[0.1], [1.0], [10.0]])
    y, norm = svt(x, t, return_norm=True)
    np.testing.assert_allclose(y, exact_svt(x, t), atol=1e-5)
    assert norm.shape == (3, 2)
    mapped = jax.vmap(jax.vmap(svt, (0, None)))(x, jnp.asarray(t[:, 0], jnp.float32))
    np.testing.assert_allclose(mapped, y, atol=1e-5)
    np.testing.assert_allclose(jnp.stack([svt(a, b) for a, b in zip(x, t[:, 0], strict=True)]), y, atol=1e-5)


@pytest.mark.parametrize("method", ENGINES)
def test_zero_rank_one_and_extreme_thresholds(method):
    assert not np.any(svt(jnp.zeros((3, 4)), 0.0, method=method))
    x = jnp.outer(jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(svt(x, 1.0, method=method), 0.8 * x, rtol=1e-6)
    assert not np.any(svt(x, np.inf, method=method))
    np.testing.assert_allclose(svt(x, 0.0, method=method), x, rtol=1e-6, atol=1e-6)
    assert svt(jnp.zeros((0, 4)), 1.0, method=method, return_norm=True)[1].tolist() == 0.0


@pytest.mark.parametrize("method", ["gram", "qr"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (2, 2, 3)])
def test_derivatives_in_matrix_and_threshold(x64, method, shape):
    def run(x, t):
        return svt(x, t, method=method, return_norm=True)

    check_grads(jax.jit(run), (jnp.asarray(random(shape)), jnp.asarray(0.5)), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("x", [np.zeros((3, 4)), np.eye(4), np.ones((4, 2)), np.diag([2.0, 1.0, 0.0])])
def test_gradients_have_no_nan_at_degenerate_matrices(x):
    gradients = jax.jit(jax.grad(lambda x, t: jnp.sum(jnp.sin(svt(x, t))), argnums=(0, 1)))(jnp.asarray(x), 1.0)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)


def test_half_precision_in_and_out():
    x = jnp.asarray(random((3, 5)), jnp.bfloat16)
    y, norm = svt(x, 0.5, return_norm=True)
    assert y.dtype == norm.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), exact_svt(np.asarray(x, np.float64), 0.5), atol=2e-2)


def test_a_second_call_with_new_numbers_compiles_nothing():
    run = jax.jit(lambda x, t: svt(x, t))
    x = jnp.asarray(random((3, 5)), jnp.float32)
    run(x, 0.5)
    run(2 * x, 1.5)
    assert run._cache_size() == 1
    svt(x, 0.25)
    compiled = nuclear._shrink._cache_size()
    svt(3 * x, 0.75)
    assert nuclear._shrink._cache_size() == compiled


@given(st.sampled_from(SHAPES), st.floats(0.0, 2.0), st.floats(0.0, 5.0), st.integers(0, 5))
def test_nuclear_ridge_shrinks_then_scales(shape, threshold, ridge, seed):
    x = jnp.asarray(random(shape, seed), jnp.float32)
    y, norm = nuclear_ridge(x, threshold, ridge, return_norm=True)
    exact = exact_svt(x, threshold) / (1 + ridge)
    np.testing.assert_allclose(y, exact, atol=1e-5)
    np.testing.assert_allclose(norm, np.linalg.svd(exact, compute_uv=False).sum(-1), atol=2e-5)


def test_bad_arguments_are_named():
    x = jnp.ones((2, 3, 4))
    for bad in (-1.0, np.nan, np.array([1.0, -1.0]), jnp.array(-0.5)):
        with pytest.raises(ValueError, match=r"threshold is .*expected a number >= 0"):
            svt(x, bad)
    with pytest.raises(ValueError, match=r"threshold has shape \(3,\).*batch shape \(2,\)"):
        svt(x, np.ones(3))
    with pytest.raises(ValueError, match="ridge is -1"):
        nuclear_ridge(x, 1.0, -1.0)
    for bad in (jnp.ones((2, 2), jnp.int32), jnp.ones((2, 2), jnp.complex64)):
        with pytest.raises(TypeError):
            svt(bad, 1.0)
