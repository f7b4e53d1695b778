import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora import identify_factors
from jaxspec.lora.nulls import alignment_null, alignment_p_value, is_drawn


@pytest.mark.parametrize(("layers", "d"), [(3, 64), (8, 64), (24, 256), (12, 20), (9, 5)])
def test_draws_are_those_of_unit_vectors(layers, d):
    """Quantiles of the drawn Gram matrices against those of vectors drawn in full, in NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, layers, d))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    wanted = np.linalg.svd(x, compute_uv=False)[:, 0] ** 2 / layers
    found = np.asarray(alignment_null(jax.random.key(1), layers, d, num_samples=1500))
    for q in (0.5, 0.95, 0.99):
        spread = 4 * np.std(wanted) / np.sqrt(1500 * (1 - q))
        assert abs(np.quantile(found, q) - np.quantile(wanted, q)) < spread


@pytest.mark.parametrize(("layers", "d", "points"), [(3, 64, (0.452, 0.492)), (8, 256, (0.168, 0.173))])
def test_points_of_the_specification(layers, d, points):
    found = np.quantile(alignment_null(jax.random.key(0), layers, d, num_samples=2000), (0.95, 0.99))
    np.testing.assert_allclose(found, points, atol=0.01)


def test_fewer_vectors_than_places():
    few = alignment_null(jax.random.key(0), 8, 64, num_samples=2000, count=3)
    whole = alignment_null(jax.random.key(0), 3, 64, num_samples=2000)
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


def test_independent_layers_are_called_aligned_at_most_as_often_as_the_level():
    """1000 adapters of independent isotropic layers: the share with a factor at level alpha is at most 1.5 alpha."""
    layers, d, rank, alpha = 6, 24, 2, 0.01
    options = {"roles": {"all": "writes"}, "alpha": alpha, "max_factors": 1}

    def count(key):
        a, b = (
            jax.random.normal(k, (layers, *shape))
            for k, shape in zip(jax.random.split(key), [(rank, 8), (d, rank)], strict=True)
        )
        null_key = jax.random.fold_in(key, 1)
        report = identify_factors({"all": {"a": a, "b": b}}, key=null_key, **options)
        return report.n_factors > 0, report.pvalues[0]

    found, p = jax.jit(lambda keys: jax.lax.map(count, keys))(jax.random.split(jax.random.key(3), 1000))
    assert float(jnp.mean(found)) <= 1.5 * alpha
    for level in (0.05, 0.2, 0.5):
        assert abs(float(jnp.mean(p <= level)) - level) <= 4 * (level * (1 - level) / 1000) ** 0.5


def test_draws_with_relations_are_those_of_projected_vectors():
    """Vectors whose random combinations vanish, then of unit length: NumPy draws them in full."""
    layers, d, relations = 8, 64, 2
    rng = np.random.default_rng(0)
    wanted = []
    for _ in range(1000):
        q = np.linalg.qr(rng.normal(size=(layers, relations)))[0]
        x = rng.normal(size=(layers, d))
        x = x - q @ (q.T @ x)
        wanted.append(np.linalg.norm(x / np.linalg.norm(x, axis=1, keepdims=True), 2) ** 2 / layers)
    found = alignment_null(
        jax.random.key(0), layers, d, num_samples=1000, relations=jnp.array(relations), most_relations=4
    )
    np.testing.assert_allclose(np.quantile(found, (0.5, 0.95)), np.quantile(wanted, (0.5, 0.95)), rtol=0.03)
    none = alignment_null(jax.random.key(0), layers, d, num_samples=1000, most_relations=4)
    assert np.median(none) < 0.95 * np.median(found)
