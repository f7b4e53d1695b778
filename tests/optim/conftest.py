"""Random trees of parameters and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def random_tree():
    """``random_tree({"w": (3, 4)}, seed=0, scale=1.0, dtype=jnp.float32)``: standard normal leaves of those shapes."""

    def draw(shapes, seed=0, scale=1.0, dtype=jnp.float32):
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda shape: jnp.asarray((scale * rng.normal(size=shape)).astype(dtype), dtype),
            shapes,
            is_leaf=lambda node: isinstance(node, tuple),
        )

    return draw
