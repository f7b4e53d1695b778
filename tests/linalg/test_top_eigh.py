import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg.top_eigh import top_eigh


def with_spectrum(values, n=80, seed=0):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, len(values))))[0]
    return jnp.asarray((q * values) @ q.T, jnp.float32), q


def test_leading_pairs_to_the_tolerance():
    values = 0.6 ** np.arange(30)
    c, q = with_spectrum(values)
    found = jax.jit(lambda c: top_eigh(lambda x: x @ c, 80, 3))(c)
    assert bool(found.converged)
    assert 1 < int(found.iterations) < 20
    np.testing.assert_allclose(found.values[:3], values[:3], rtol=1e-5)
    overlaps = np.abs(np.asarray(found.vectors).T @ q[:, :3])
    np.testing.assert_allclose(overlaps, np.eye(3), atol=1e-4)
    images = np.asarray(c) @ found.vectors - found.values[:3] * found.vectors
    assert np.linalg.norm(images, axis=0).max() <= 2e-5


def test_says_when_it_has_not_converged():
    c, _ = with_spectrum(np.linspace(1, 0.9, 60))
    found = top_eigh(lambda x: x @ c, 80, 4, max_sweeps=5)
    assert not bool(found.converged)
    assert int(found.iterations) == 5
    assert float(found.residual) > 1e-5


def test_zero_full_width_and_not_finite():
    found = top_eigh(lambda x: 0 * x, 6, 2)
    assert bool(found.converged)
    np.testing.assert_array_equal(found.values, 0)
    c, _ = with_spectrum(np.arange(6.0, 0, -1), n=6)
    np.testing.assert_allclose(top_eigh(lambda x: x @ c, 6, 6).values, np.arange(6.0, 0, -1), rtol=1e-5)
    assert not bool(top_eigh(lambda x: x * jnp.nan, 6, 2).converged)


@pytest.mark.parametrize(("rank", "options"), [(0, {}), (7, {}), (2, {"oversample": -1}), (2, {"max_sweeps": 0})])
def test_bad_sizes(rank, options):
    with pytest.raises(ValueError, match="rank is"):
        top_eigh(lambda x: x, 6, rank, **options)
