import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxspec.prox import svt, tubal_norm, tubal_spectral_norm, tubal_svt

SHAPES = [(3, 4, 5), (4, 3, 6), (2, 2, 1)]


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def exact(x, threshold):
    """All slices of the full transform, one by one; the result and the tubal norm of the result."""
    slices = np.fft.fft(x, axis=-1)
    out, norm = np.empty_like(slices), 0.0
    for k in range(x.shape[-1]):
        u, s, vh = np.linalg.svd(slices[..., k], full_matrices=False)
        s = np.maximum(s - threshold, 0)
        out[..., k] = (u * s) @ vh
        norm += s.sum() / x.shape[-1]
    return np.fft.ifft(out, axis=-1).real, norm


@pytest.mark.parametrize("method", ["auto", "svd"])
@given(st.sampled_from(SHAPES), st.sampled_from([0.5, 2.0, 100.0]), st.integers(-20, 20), st.integers(0, 3))
def test_matches_the_full_transform_slice_by_slice(method, shape, threshold, exponent, seed):
    scale, x = 10.0**exponent, random(shape, seed)
    a = jnp.asarray(x * scale, jnp.float32)
    y, norm = tubal_svt(a, threshold * scale, method=method, return_norm=True)
    expected, expected_norm = exact(x, threshold)
    np.testing.assert_allclose(np.asarray(y, np.float64) / scale, expected, atol=1e-5)
    assert float(norm) / scale == pytest.approx(expected_norm, abs=1e-4)
    assert float(tubal_norm(a)) / scale == pytest.approx(exact(x, 0.0)[1], rel=1e-5)


def test_result_minimises_the_objective(x64):
    x = jnp.asarray(random((3, 4, 5)))
    y = tubal_svt(x, 0.7)

    def objective(z):
        return 0.5 * jnp.sum((z - x) ** 2) + 0.7 * tubal_norm(z)

    steps = jnp.asarray(random((30, *x.shape))) * jnp.asarray(np.repeat([1e-3, 1e-1, 1.0], 10))[:, None, None, None]
    assert bool(jnp.all(jax.jit(jax.vmap(objective))(y + steps) > objective(y)))


def test_norms_are_dual_and_the_residual_is_a_subgradient(x64):
    x, threshold = jnp.asarray(random((3, 4, 5))), 1.1
    y, norm = tubal_svt(x, threshold, return_norm=True)
    assert float(tubal_spectral_norm(x - y)) == pytest.approx(threshold, rel=1e-10)
    assert float(jnp.sum((x - y) * y)) == pytest.approx(threshold * float(norm), rel=1e-10)
    z = jnp.asarray(random(x.shape, 1))
    assert float(jnp.sum(x * z)) <= float(tubal_spectral_norm(x) * tubal_norm(z))


def test_one_slice_is_matrix_thresholding():
    x = jnp.asarray(random((4, 5, 1)), jnp.float32)
    np.testing.assert_allclose(tubal_svt(x, 0.5)[..., 0], svt(x[..., 0], 0.5), atol=1e-5)


def test_batches_empty_tensors_and_derivatives(x64):
    x, t = jnp.asarray(random((2, 2, 3, 4))), jnp.array([0.3, 1.0])
    y, norm = tubal_svt(x, t, return_norm=True)
    loop = np.stack([exact(a, b)[0] for a, b in zip(x, t, strict=True)])
    np.testing.assert_allclose(y, loop, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(tubal_svt)(x, t), loop, atol=1e-12)
    np.testing.assert_allclose(norm, tubal_norm(y), rtol=1e-10)
    check_grads(jax.jit(tubal_svt), (x, t), order=1, rtol=1e-5, atol=1e-5)
    assert tubal_svt(jnp.zeros((2, 0, 3)), 1.0).shape == (2, 0, 3)
    assert float(tubal_norm(jnp.zeros((2, 3, 0)))) == float(tubal_spectral_norm(jnp.zeros((2, 0, 3)))) == 0.0
    assert not np.any(tubal_svt(jnp.zeros((2, 3, 4)), 0.0))


def test_bad_arguments_are_named():
    with pytest.raises((ValueError, TypeError), match="x"):
        tubal_svt(jnp.ones((2, 3)), 1.0)
    with pytest.raises(ValueError, match="threshold is -1"):
        tubal_svt(jnp.ones((2, 3, 4)), -1.0)
