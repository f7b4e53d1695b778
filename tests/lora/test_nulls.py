import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora.nulls import alignment_null, alignment_p_value, is_drawn


@pytest.mark.parametrize(("layers", "d"), [(3, 64), (8, 64), (24, 256), (12, 20), (9, 5)])
def test_draws_are_those_of_unit_vectors(layers, d):
    """Quantiles of the drawn Gram matrices against those of vectors drawn in full, in NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, layers, d))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    wanted = np.linalg.svd(x, compute_uv=False)[:, 0] ** 2 / layers
    found = np.asarray(alignment_null(jax.random.key(1), layers, d, draws=1500))
    for q in (0.5, 0.95, 0.99):
        spread = 4 * np.std(wanted) / np.sqrt(1500 * (1 - q))
        assert abs(np.quantile(found, q) - np.quantile(wanted, q)) < spread


@pytest.mark.parametrize(("layers", "d", "points"), [(3, 64, (0.452, 0.492)), (8, 256, (0.168, 0.173))])
def test_points_of_the_specification(layers, d, points):
    found = np.quantile(alignment_null(jax.random.key(0), layers, d, draws=2000), (0.95, 0.99))
    np.testing.assert_allclose(found, points, atol=0.01)


def test_fewer_vectors_than_places():
    few = alignment_null(jax.random.key(0), 8, 64, draws=2000, count=3)
    whole = alignment_null(jax.random.key(0), 3, 64, draws=2000)
    np.testing.assert_allclose(np.quantile(few, (0.5, 0.95)), np.quantile(whole, (0.5, 0.95)), rtol=0.03)
    assert float(alignment_p_value(jnp.array(1.0), jnp.array(1), few, 64)) == 1.0


def test_many_vectors_are_judged_by_the_tracy_widom_law():
    """A little conservative: of unit vectors about 1 % or less are called significant at 1 %, and spikes still are."""
    layers, d = 200, 300
    assert not is_drawn(layers, d)
    assert is_drawn(64, 4096)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, layers, d))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    values = np.linalg.svd(x, compute_uv=False)[:, 0] ** 2 / layers
    p = np.asarray(jax.vmap(lambda a: alignment_p_value(a, jnp.array(layers), jnp.zeros(0), d))(jnp.asarray(values)))
    assert np.mean(p <= 0.05) <= 0.05
    assert np.median(p) < 0.9
    spike = alignment_p_value(jnp.asarray(1.1 * values.max()), jnp.array(layers), jnp.zeros(0), d)
    assert float(spike) < 1e-3
