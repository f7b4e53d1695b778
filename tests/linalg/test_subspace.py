import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import operator_top_svd, top_svd


def spiked(shape, spikes, noise=0.02, seed=0):
    """Noise of spectral norm about `noise` with leading singular values `spikes`."""
    rng = np.random.default_rng(seed)
    *batch, m, n = shape
    u = np.linalg.qr(rng.normal(size=(*batch, m, len(spikes))))[0]
    v = np.linalg.qr(rng.normal(size=(*batch, n, len(spikes))))[0]
    return (u * np.asarray(spikes)) @ np.swapaxes(v, -1, -2) + noise / (m**0.5 + n**0.5) * rng.normal(size=shape)


def assert_leading_part(result, x, rank, tolerance=5e-6):
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    best = (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
    top = s[..., :1]
    np.testing.assert_allclose(np.asarray(result.s, np.float64) / top, s[..., :rank] / top, atol=tolerance)
    product = np.asarray(result.u, np.float64) * np.asarray(result.s, np.float64)[..., None, :] @ np.asarray(result.vt)
    np.testing.assert_allclose(product / top[..., None], best / top[..., None], atol=tolerance)
    eye = np.broadcast_to(np.eye(result.basis.shape[-1]), (*x.shape[:-2], *2 * (result.basis.shape[-1],)))
    np.testing.assert_allclose(result.basis.mT @ result.basis, eye, atol=1e-5)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (2, 50, 40)])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_iteration_finds_the_best_low_rank_approximation(shape, scale):
    x = jnp.asarray(spiked(shape, [3.0, 2.0, 1.0]) * scale, jnp.float32)
    assert_leading_part(top_svd(x, 3, dense_below=0), x, 3)


def test_small_matrices_take_the_dense_path():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 7)), jnp.float32)
    assert_leading_part(top_svd(x, 4), x, 4)
    assert_leading_part(top_svd(x, 7, dense_below=0), x, 7)


def test_warm_start_needs_one_sweep():
    x = spiked((80, 60), [3.0, 2.0], noise=1.0)
    cold = top_svd(jnp.asarray(x, jnp.float32), 2, dense_below=0, sweeps=12)
    moved = jnp.asarray(x + spiked((80, 60), [], noise=1e-3, seed=1), jnp.float32)
    warm = top_svd(moved, 2, start=cold.basis, sweeps=1, dense_below=0)
    assert_leading_part(warm, moved, 2, tolerance=1e-4)
    with pytest.raises(AssertionError):
        assert_leading_part(top_svd(moved, 2, sweeps=1, dense_below=0), moved, 2, tolerance=1e-4)


def test_operator_form_needs_only_the_two_products():
    rng = np.random.default_rng(0)
    sparse = jnp.asarray(rng.normal(size=(70, 50)) * (rng.random((70, 50)) < 0.02), jnp.float32)
    left, right = jnp.asarray(rng.normal(size=(70, 2)), jnp.float32), jnp.asarray(rng.normal(size=(50, 2)), jnp.float32)
    result = operator_top_svd(
        lambda v: sparse @ v + left @ (right.T @ v),
        lambda q: sparse.T @ q + right @ (left.T @ q),
        (70, 50),
        2,
        sweeps=8,
    )
    assert_leading_part(result, sparse + left @ right.T, 2)


@pytest.mark.parametrize("dense_below", [0, 256])
def test_rank_zero_zero_matrices_and_empty_matrices(dense_below):
    empty = top_svd(jnp.ones((20, 15)), 0, dense_below=dense_below)
    assert (empty.u.shape, empty.s.shape, empty.vt.shape) == ((20, 0), (0,), (0, 15))
    zero = top_svd(jnp.zeros((20, 15)), 2, dense_below=dense_below)
    assert not np.any(zero.s)
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in zero)
    assert top_svd(jnp.zeros((3, 0)), 0, dense_below=dense_below).u.shape == (3, 0)


def test_same_key_same_result_and_batches_agree_with_vmap():
    x = jnp.asarray(spiked((3, 40, 30), [3.0, 1.0]), jnp.float32)
    batch = top_svd(x, 2, dense_below=0)
    mapped = jax.vmap(lambda a: top_svd(a, 2, dense_below=0, key=jax.random.key(3)))(x)
    np.testing.assert_allclose(batch.s, mapped.s, rtol=1e-5)
    again = top_svd(x, 2, dense_below=0, key=jax.random.key(0))
    np.testing.assert_array_equal(batch.basis, again.basis)


def test_half_precision_is_cast_back():
    result = top_svd(jnp.ones((4, 3), jnp.bfloat16), 1)
    assert {a.dtype for a in result} == {jnp.dtype(jnp.bfloat16)}


def test_differentiation_raises():
    for dense_below in (0, 256):
        with pytest.raises(TypeError, match="not differentiable"):
            jax.grad(lambda x, d=dense_below: top_svd(x, 1, dense_below=d, oversample=1).s[0])(jnp.ones((5, 4)))


def test_bad_arguments_are_named():
    x = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="rank is 4"):
        top_svd(x, 4)
    with pytest.raises(ValueError, match="rank is -1"):
        top_svd(x, -1)
    with pytest.raises(ValueError, match="sweeps 0"):
        top_svd(x, 1, sweeps=0)
    with pytest.raises(ValueError, match=r"start has shape \(3, 1\); expected \(3, 3\)"):
        top_svd(x, 1, start=jnp.ones((3, 1)))
