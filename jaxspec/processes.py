"""Arrays that are divided over several processes (`jax.distributed.initialize`)."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree


def gathered(tree: PyTree) -> PyTree:
    """Whole arrays on every process, as NumPy arrays; waits for them.

    Args:
        tree: of arrays, of which this process may hold a part only. All processes call this with the same tree.

    Returns:
        The same tree.

    Example:
        >>> import jax.numpy as jnp
        >>> gathered({"values": jnp.arange(3)})
        {'values': array([0, 1, 2], dtype=int32)}
    """

    def whole(x):
        held = not isinstance(x, jax.Array) or x.is_fully_addressable
        return np.asarray(x if held else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, tree)
