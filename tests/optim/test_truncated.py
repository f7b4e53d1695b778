import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.optim import MatrixDims, truncated_sgd


@pytest.mark.parametrize(("fraction", "removed"), [(0.0, 0), (0.05, 1), (0.25, 2), (0.26, 3), (1.0, 8)])
def test_the_largest_values_are_removed_and_the_rest_kept(random_tree, fraction, removed):
    g = random_tree({"w": (8, 12), "b": (3,)})
    tx = truncated_sgd(0.5, fraction)
    updates, _ = jax.jit(tx.update)(g, tx.init(g))
    s = np.linalg.svd(g["w"], compute_uv=False)
    found = np.linalg.svd(updates["w"], compute_uv=False)
    np.testing.assert_allclose(found, 0.5 * np.concatenate([s[removed:], np.zeros(removed)]), atol=1e-5)
    np.testing.assert_allclose(updates["b"], -0.5 * g["b"], rtol=1e-6)


def test_rounding_does_not_remove_one_more(random_tree):
    g = random_tree({"w": (100, 100)})
    updates, _ = truncated_sgd(1.0, 0.07).update(g, truncated_sgd(1.0, 0.07).init(g))
    assert int(np.sum(np.linalg.svd(updates["w"], compute_uv=False) > 1e-2)) == 93


def test_stacks_and_schedules(random_tree):
    g = random_tree({"w": (2, 3, 4)})
    tx = truncated_sgd(optax.constant_schedule(1.0), dimension_numbers=MatrixDims(-2, -1))
    updates, _ = tx.update(g, tx.init(g))
    for k in range(2):
        expected = np.linalg.svd(g["w"][k], compute_uv=False)[1:]
        np.testing.assert_allclose(np.linalg.svd(updates["w"][k], compute_uv=False)[:2], expected, atol=1e-5)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, jnp.nan])
def test_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction is"):
        truncated_sgd(0.1, float(fraction))
