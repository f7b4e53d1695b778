"""Sweeps over a leading batch axis, laid out for the devices at hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxspec.processes import gathered


def sweep(function: Callable[..., PyTree], *batches: PyTree) -> PyTree:
    """``function`` mapped over the leading axis of every argument, as NumPy arrays.

    On a CPU one entry runs after the other, inside one compiled loop, so that an entry that converges early costs
    little. On an accelerator, or in several processes, all run at once (`jax.vmap`), sharded over the devices where
    their number divides the batch. Functions that are equal by value share one compiled program.

    Args:
        function: arrays -> pytree of arrays; must be traceable and hashable.
        *batches: pytrees of arrays with a common leading axis.

    Returns:
        The results, stacked along the leading axis.
    """
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        return gathered(_one_by_one(function)(batches))
    return gathered(_at_once(function)(*divided(batches)))


@functools.lru_cache(maxsize=16)
def _one_by_one(function: Callable[..., PyTree]) -> Callable[[Any], PyTree]:
    return jax.jit(lambda args: jax.lax.map(lambda entry: function(*entry), args))


@functools.lru_cache(maxsize=16)
def _at_once(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    return jax.jit(jax.vmap(function))


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
