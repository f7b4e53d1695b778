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
    results: Any = jax.jit(jax.vmap(function))(*divided(batches))
    return jax.tree.map(np.asarray, jax.block_until_ready(results))


def divided(batch: PyTree) -> PyTree:
    """The batch with its leading axis divided over all devices, where there are several whose number divides it.

    Args:
        batch: pytree of arrays with a common leading axis.

    Returns:
        The same values.
    """
    devices = jax.devices()
    if len(devices) == 1 or len(jax.tree.leaves(batch)[0]) % len(devices):
        return batch
    mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
    return jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
