"""Sweeps over a leading batch axis, laid out for the devices at hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxspec.processes import gathered


def sweep(function: Callable[..., PyTree], *batches: PyTree, at_once: bool = True) -> PyTree:
    """``function`` mapped over the leading axis of every argument, as NumPy arrays.

    On a CPU one entry runs after the other, inside one compiled loop, so that an entry that converges early costs
    little. On an accelerator, or in several processes, all run at once (`jax.vmap`), sharded over the devices where
    their number divides the batch. Functions that are equal by value share one compiled program.

    Args:
        function: arrays -> pytree of arrays; must be traceable and hashable.
        *batches: pytrees of arrays with a common leading axis.
        at_once: False: one entry after the other everywhere, for a function that fills the devices with one entry
            (see `over_devices`).

    Returns:
        The results, stacked along the leading axis.
    """
    if not at_once:
        return gathered(_one_by_one(function)(on_all_devices(batches)))
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
    return jax.device_put(batch, _over("batch"))


def on_all_devices(tree: PyTree) -> PyTree:
    """The same values on every device of every process, which all have them: parameters beside divided rows."""
    if len(jax.devices()) == 1:
        return tree
    return jax.device_put(gathered(tree) if jax.process_count() > 1 else tree, _over())


def over_devices(rows: Array) -> Array:
    """Rows made inside a compiled program, divided over all devices where their number divides it.

    What is computed from them is divided too, and sums over them, as the gradient of a mean, are reduced by the
    compiler: data parallelism.

    Args:
        rows: array with a leading axis of rows.

    Returns:
        The same values.
    """
    devices = jax.devices()
    if len(devices) == 1 or len(rows) % len(devices):
        return rows
    return jax.lax.with_sharding_constraint(rows, _over("batch"))


def _over(*axes: str) -> jax.sharding.NamedSharding:
    """The first axes over the devices, of which there is one line, ``"batch"``."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
