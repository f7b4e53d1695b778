"""Weighted means over particles, on one device or over one axis of a mesh.

Particles are the leading axis of every leaf. Only the inner product ``E_w <a_i, b_i>`` is used, ``sum_i w_i = 1``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

_HIGHEST = jax.lax.Precision.HIGHEST


class Measure(NamedTuple):
    """Weights of the particles on this device.

    Attributes:
        weights: (N,), or None for equal ones.
        axis: mesh axis over which the particles are divided, inside a `jax.shard_map`; None outside.
    """

    weights: Float[Array, " N"] | None = None
    axis: str | None = None

    def partial(self, a: Float[Array, " N *shape"]) -> Float[Array, "*shape"]:
        """This device's share of the mean over the leading axis."""
        if self.weights is None:
            return jnp.sum(a, axis=0) / (len(a) * self.devices)
        return jnp.tensordot(self.weights.astype(a.dtype), a, 1, precision=_HIGHEST)

    def total(self, shares: PyTree) -> PyTree:
        """Sum of the devices' shares: one all-reduce for a whole pytree."""
        return shares if self.axis is None else jax.lax.psum(shares, self.axis)

    def mean(self, tree: PyTree) -> PyTree:
        """Mean of every leaf over its leading axis."""
        return self.total(jax.tree.map(self.partial, tree))

    def inner(self, a: PyTree, b: PyTree) -> Float[Array, ""]:
        """This device's share of ``E_w <a_i, b_i>``."""
        products = jax.tree.map(lambda x, y: self.partial(jnp.sum(x * y, axis=range(1, x.ndim))), a, b)
        return sum(jax.tree.leaves(products))

    @property
    def devices(self) -> int:
        """Number of devices that share the particles."""
        return 1 if self.axis is None else jax.lax.axis_size(self.axis)


def placement(tree: PyTree) -> tuple[Mesh | AbstractMesh, str] | None:
    """Mesh and axis by which the particles are divided, read off the types of the arrays.

    Args:
        tree: leaves with particles in front.

    Returns:
        None unless the mesh has explicit axes and the leading axis of the first leaf is divided over one of them (under
        `jax.jit` the type of an array does not say how it lies on axes of another kind).

    Raises:
        ValueError: leaves that lie differently.
    """
    found = []
    for leaf in jax.tree.leaves(tree):
        sharding = jax.typeof(leaf).sharding
        first = sharding.spec[0] if sharding.mesh.explicit_axes and len(sharding.spec) else None
        if first is None:
            found.append(None)
            continue
        # Outside jit the type knows the names of the axes only; the array knows its devices.
        mesh = sharding.mesh if isinstance(leaf, jax.core.Tracer) else leaf.sharding.mesh
        found.append((mesh, first))
    if any(place != found[0] for place in found):
        raise ValueError(f"leaves of position lie differently: {found}; expected all particles on one mesh axis")
    if found[0] is not None and not isinstance(found[0][1], str):
        raise ValueError(f"particles are divided over the mesh axes {found[0][1]}; expected one axis")
    return found[0]


def divided(
    function: Callable,
    place: tuple[Mesh | AbstractMesh, str],
    arguments: tuple[PyTree, ...],
    specs: tuple,
    out_specs: PyTree,
) -> PyTree:
    """``function(*arguments)`` on every device's share of the particles.

    Args:
        function: of the arguments; must sum over devices itself (`Measure.total`).
        place: mesh and axis from `placement`.
        arguments: pytrees of arrays.
        specs: for every argument a tree (or prefix) of partition specs.
        out_specs: of the result.

    Returns:
        The result.
    """
    mesh, axis = place

    def put(x, spec):
        wanted = NamedSharding(mesh, spec)
        return jax.device_put(x, wanted) if isinstance(mesh, Mesh) else jax.sharding.reshard(x, wanted)

    def place_all(argument, spec):
        spec = jax.tree.broadcast(spec, argument, is_leaf=_is_spec)
        return jax.tree.map(put, argument, spec)

    arguments = tuple(place_all(a, s) for a, s in zip(arguments, specs, strict=True))
    # Loops inside start from constants, which the check of varying axes would refuse.
    run = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, axis_names={axis}, check_vma=False)
    return run(*arguments)


def _is_spec(node):
    return isinstance(node, PartitionSpec)
