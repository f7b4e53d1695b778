import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxspec.prox import schatten_threshold, svt

HILBERT = jnp.asarray(1 / (1 + np.arange(4)[:, None] + np.arange(3)), jnp.float32)
ORACLES = [(0.5, 0.323165, 0.948665, 1.40980), (2 / 3, 0.262399, 0.931744, 1.39221)]


def scalar(s, lam, p):
    return schatten_threshold(jnp.asarray(s)[..., None, None], lam, p, method="gram")[..., 0, 0]


def objective(y, s, lam, p):
    return 0.5 * (y - s) ** 2 + lam * y**p


@pytest.mark.parametrize(("p", "tau", "at_one", "leading"), ORACLES)
def test_oracles(p, tau, at_one, leading):
    values = scalar(jnp.array([1.0, tau - 2e-6, tau + 2e-6]), 0.1, p)
    assert float(values[0]) == pytest.approx(at_one, abs=1e-6)
    assert float(values[1]) == 0.0
    assert float(values[2]) > 0.1
    for method in ("svd", "auto"):
        y, penalty = schatten_threshold(HILBERT, 0.1, p, method=method, return_norm=True)
        np.testing.assert_allclose(np.linalg.svd(y, compute_uv=False), [leading, 0, 0], atol=5e-6)
        assert float(penalty) == pytest.approx(leading**p, abs=1e-5)


@given(st.floats(0.02, 0.999), st.floats(1e-3, 10.0), st.floats(0.0, 10.0))
def test_scalar_prox_is_the_global_minimiser(p, lam, s):
    with jax.enable_x64(True):
        y = float(scalar(jnp.array([s]), jnp.array([lam]), jnp.array([p]))[0])
    grid = np.concatenate([[0.0], np.linspace(0, s, 4001)[1:]])
    assert objective(y, s, lam, p) <= objective(grid, s, lam, p).min() * (1 + 1e-12) + 1e-12
    if y > 0:
        assert y - s + lam * p * y ** (p - 1) == pytest.approx(0, abs=1e-10 * (1 + s))


@pytest.mark.parametrize("exponent", [-15, -5, 5, 15])
def test_scaling_the_matrix_scales_the_result(exponent):
    scale, p = 10.0**exponent, 0.5
    y = schatten_threshold(HILBERT * scale, 0.1 * scale ** (2 - p), p)
    np.testing.assert_allclose(np.asarray(y, np.float64) / scale, schatten_threshold(HILBERT, 0.1, p), atol=2e-6)


def test_limits_of_exponent_and_weight():
    np.testing.assert_allclose(schatten_threshold(HILBERT, 0.1, 1.0), svt(HILBERT, 0.1), atol=1e-6)
    np.testing.assert_allclose(schatten_threshold(HILBERT, 0.1, 0.99999), svt(HILBERT, 0.1), atol=1e-4)
    np.testing.assert_allclose(schatten_threshold(HILBERT, 0.0, 0.5), HILBERT, atol=1e-6)
    assert not np.any(schatten_threshold(HILBERT, np.inf, 0.5))
    y, penalty = schatten_threshold(jnp.zeros((2, 3)), 0.1, 0.5, return_norm=True)
    assert not np.any(y)
    assert float(penalty) == 0.0


def test_derivatives_in_matrix_weight_and_exponent(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)))
    run = jax.jit(lambda x, lam, p: schatten_threshold(x, lam, p, return_norm=True))
    check_grads(run, (x, jnp.array([0.1, 0.2]), jnp.asarray(0.6)), order=1, rtol=1e-5, atol=1e-5)


def test_gradients_have_no_nan_at_degenerate_matrices():
    gradient = jax.jit(jax.grad(lambda x, lam, p: jnp.sum(schatten_threshold(x, lam, p)), argnums=(0, 1, 2)))
    for x in (jnp.zeros((3, 4)), jnp.eye(3), jnp.diag(jnp.array([2.0, 2.0, 0.0]))):
        assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradient(x, 0.1, 0.5))


def test_exponents_and_weights_broadcast_over_the_batch():
    x = jnp.stack([HILBERT, HILBERT])
    lam, p = np.array([0.1, 0.2]), np.array([0.5, 0.8])
    y = schatten_threshold(x, lam, p)
    for i in range(2):
        np.testing.assert_allclose(y[i], schatten_threshold(HILBERT, lam[i], p[i]), atol=1e-6)
    mapped = jax.vmap(lambda lam, p: schatten_threshold(HILBERT, lam, p))(jnp.asarray(lam), jnp.asarray(p))
    np.testing.assert_allclose(mapped, y, atol=1e-6)


def test_bad_arguments_are_named():
    for p in (0.0, 1.5, -1.0, np.nan):
        with pytest.raises(ValueError, match="p is"):
            schatten_threshold(HILBERT, 0.1, p)
    with pytest.raises(ValueError, match="lam is -1"):
        schatten_threshold(HILBERT, -1.0, 0.5)
