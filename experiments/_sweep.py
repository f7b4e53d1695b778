"""Sweeps over a leading batch axis, laid out for the devices at hand."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


def sweep(function: Callable[..., PyTree], *batches: PyTree) -> PyTree:
    """``function`` mapped over the leading axis of every argument, as NumPy arrays.

    On a CPU one entry runs after the other, inside one compiled loop, so that an entry that converges early costs
    little. On an accelerator all run at once (`jax.vmap`), sharded over the devices where their number divides the
    batch.

    Args:
        function: arrays -> pytree of arrays; must be traceable.
        *batches: pytrees of arrays with a common leading axis.

    Returns:
        The results, stacked along the leading axis.
    """
    if jax.default_backend() == "cpu":
        mapped = jax.jit(lambda args: jax.lax.map(lambda entry: function(*entry), args))
        return jax.tree.map(np.asarray, jax.block_until_ready(mapped(batches)))
    size = len(jax.tree.leaves(batches)[0])
    devices = jax.devices()
    if len(devices) > 1 and size % len(devices) == 0:
        mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
        batches = jax.device_put(batches, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    results: Any = jax.jit(jax.vmap(function))(*batches)
    return jax.tree.map(np.asarray, jax.block_until_ready(results))
