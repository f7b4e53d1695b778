import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.chance import upper_p_value


@pytest.mark.parametrize("library", [np, jnp])
def test_counts_the_observed_value_and_ties(library):
    null = library.asarray([[1.0, 1.0], [2.0, 1.0], [3.0, np.nan]])
    assert upper_p_value(null, library.asarray([2.0, 2.0])).tolist() == pytest.approx([3 / 4, 1 / 3])
    assert float(upper_p_value(null[:, 0], 2.1)) == pytest.approx(2 / 4)
    assert float(upper_p_value(null[:, 0], 2.1, 0.2)) == pytest.approx(3 / 4)
    assert float(upper_p_value(null[:, 0], np.nan)) == 1.0


def test_is_uniform_under_the_null():
    """Rank of one of 20 exchangeable values: every p-value k / 20 equally often."""
    draws = jax.random.normal(jax.random.key(0), (20, 4000))
    p = np.asarray(jax.jit(upper_p_value)(draws[1:], draws[0]))
    counts = np.bincount(np.rint(20 * p).astype(int), minlength=21)[1:]
    assert abs(counts - 200).max() < 5 * np.sqrt(200)
