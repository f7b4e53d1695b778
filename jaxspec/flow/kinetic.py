r"""Kinetic energy of pytrees of matrices, ``K(P) = sum_k b_k Phi_{eps_k}(P_k)``, and its gradient, the velocity.

Matrices of one shape and dtype, of whatever leaf, are mapped in one call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxspec.linalg import ordered
from jaxspec.linalg.smoothed_polar import polar_and_norm


class Kinetic(NamedTuple):
    """Energy of the momenta, particle by particle.

    Attributes:
        velocity: ``grad K``, like the momentum.
        value: ``K(P_i)``, (N,).
        power: ``<P_i, grad K(P_i)>``, (N,).
    """

    velocity: PyTree
    value: Float[Array, " N"]
    power: Float[Array, " N"]


def kinetic(momentum: PyTree, eps: PyTree, block_weights: PyTree, engine: str) -> Kinetic:
    """Energy, velocity and power of every particle.

    Args:
        momentum: pytree of (N, ..., m, n).
        eps: floors, a number or a pytree prefix of ``momentum``.
        block_weights: ``b_k``, likewise.
        engine: of `jaxspec.linalg.smoothed_polar`.

    Returns:
        The energies. What is not used of them is not computed under `jax.jit`.
    """
    leaves, treedef = jax.tree.flatten(momentum)
    floors, factors = (jax.tree.leaves(jax.tree.broadcast(tree, momentum)) for tree in (eps, block_weights))
    groups: dict = {}
    for number, leaf in enumerate(leaves):
        groups.setdefault((leaf.shape, leaf.dtype), []).append(number)
    velocities, values, image = [None] * len(leaves), [], None
    for (shape, dtype), members in groups.items():
        # On the CPU large matrices are factorised, one group after the other: see jaxspec.linalg.decompositions.
        stacked = ordered(jnp.stack([leaves[i] for i in members]), image)
        floor = jnp.stack([jnp.asarray(floors[i], dtype) for i in members])
        image, phi = polar_and_norm(stacked, floor.reshape(-1, *(1,) * (len(shape) - 2)), engine=engine)
        for i, y, value in zip(members, image, phi, strict=True):
            factor = jnp.asarray(factors[i], dtype)
            velocities[i] = factor * y
            values.append(factor * jnp.sum(value, axis=range(1, value.ndim)))
    power = sum(jnp.sum(p * v, axis=range(1, p.ndim)) for p, v in zip(leaves, velocities, strict=True))
    return Kinetic(treedef.unflatten(velocities), sum(values), power)
