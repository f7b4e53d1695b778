import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxspec.linalg import orthonormal_basis


def columns(m, k, rank, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(m, rank)) @ rng.normal(size=(rank, k))


@pytest.mark.parametrize(("m", "k", "rank"), [(9, 3, 3), (9, 4, 2), (5, 5, 5), (4, 6, 4), (6, 2, 1)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_projects_onto_the_range(m, k, rank, scale):
    x = columns(m, k, rank, scale=scale)
    basis, kept = orthonormal_basis(jnp.asarray(x, jnp.float32))
    range_of_x = scipy.linalg.orth(x, rcond=1e-8)
    np.testing.assert_allclose(basis @ basis.T, range_of_x @ range_of_x.T, atol=2e-5)
    np.testing.assert_array_equal(kept, np.arange(min(m, k)) < rank)
    np.testing.assert_array_equal(basis[:, rank:], 0)


def test_batches_have_ranks_of_their_own():
    x = jnp.asarray(np.stack([columns(6, 3, 3), columns(6, 3, 1), np.zeros((6, 3))]), jnp.float32)
    basis, kept = jax.jit(orthonormal_basis)(x)
    np.testing.assert_array_equal(kept.sum(axis=-1), [3, 1, 0])
    grams = np.einsum("bmk,bml->bkl", basis, basis)
    np.testing.assert_allclose(grams, np.stack([np.diag(row) for row in np.asarray(kept, float)]), atol=1e-6)


def test_half_precision_is_computed_in_single(x64):
    assert orthonormal_basis(jnp.ones((3, 1), jnp.bfloat16))[0].dtype == jnp.float32
    assert orthonormal_basis(jnp.ones((3, 1)))[0].dtype == jnp.float64


def test_no_columns_and_not_finite_ones():
    assert orthonormal_basis(jnp.ones((3, 0)))[0].shape == (3, 0)
    assert np.isnan(orthonormal_basis(jnp.full((3, 2), jnp.nan))[0]).any()
    with pytest.raises(TypeError, match="int32"):
        orthonormal_basis.__wrapped__(jnp.ones((3, 2), jnp.int32))
