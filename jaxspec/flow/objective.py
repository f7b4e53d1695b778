r"""Objectives of a measure of particles, ``J(rho) = R(int F d rho)``, and their forces.

    z = sum_i w_i F(X_i) ,   G_i = DF(X_i)^* grad R(z) = (1/w_i) dJ/dX_i .

The force is the gradient of the first variation: it does not shrink with the number of particles. The regularised polar
factor is not scale invariant, so that the ordinary gradient ``w_i G_i`` in its place would replace ``eps`` by
``eps / w_i``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from jaxspec.flow.measure import Measure, divided, placement


class MeanFieldObjective(NamedTuple):
    """``J(rho) = risk(int feature d rho)``.

    Attributes:
        feature: one particle (a pytree of matrices) to a pytree of arrays, the space H.
        risk: a pytree in H to a number. Pass functions of a module or callable `equinox.Module`s, whose arrays are
            traced, rather than fresh lambdas: a new function means a new compilation.
    """

    feature: Callable[[PyTree], PyTree]
    risk: Callable[[PyTree], Float[Array, ""]]


class Evaluation(NamedTuple):
    """What one pass forward and one backward give.

    Attributes:
        field: ``z``, a pytree in H.
        objective: ``R(z)``.
        force: ``G``, like the position.
    """

    field: PyTree
    objective: Float[Array, ""]
    force: PyTree


def mean_field(objective: MeanFieldObjective, position: PyTree, weights: Float[Array, " N"] | None = None) -> PyTree:
    """``z = sum_i w_i F(X_i)``.

    Args:
        objective: the objective.
        position: pytree with particles on the leading axes, N of them.
        weights: (N,), sum 1; None for 1/N.

    Returns:
        A pytree in H.

    Example:
        >>> import jax.numpy as jnp
        >>> linear = MeanFieldObjective(lambda x: x, lambda z: jnp.sum(z**2) / 2)
        >>> mean_field(linear, jnp.array([[[1.0]], [[3.0]]]))
        Array([[2.]], dtype=float32)
    """
    place = placement(position)
    if place is None:
        return Measure(weights).mean(jax.vmap(objective.feature)(position))
    axis = place[1]

    def local(position, weights):
        return Measure(weights, axis).mean(jax.vmap(objective.feature)(position))

    spec = PartitionSpec(axis)
    return divided(local, place, (position, weights), (spec, spec), PartitionSpec())


def force(objective: MeanFieldObjective, position: PyTree, weights: Float[Array, " N"] | None = None) -> PyTree:
    """``G_i = DF(X_i)^* grad R(z)``, 1/w_i times the gradient of ``J`` in particle i, also where ``w_i`` is 0.

    On a mesh with explicit axes whose particles are divided over one of them, every device keeps its particles; the one
    communication is the sum ``z``.

    Args:
        objective: the objective.
        position: pytree with particles on the leading axes, N of them.
        weights: (N,), sum 1; None for 1/N.

    Returns:
        The forces (to be subtracted), like ``position``.

    Example:
        >>> import jax.numpy as jnp
        >>> linear = MeanFieldObjective(lambda x: x, lambda z: jnp.sum(z**2) / 2)
        >>> force(linear, jnp.array([[[1.0]], [[3.0]]]))  # twice the gradient of J: N = 2
        Array([[[2.]],
               [[2.]]], dtype=float32)
    """
    place = placement(position)
    if place is None:
        return evaluate(objective, position, Measure(weights)).force
    axis = place[1]

    def local(position, weights):
        return evaluate(objective, position, Measure(weights, axis)).force

    spec = PartitionSpec(axis)
    return divided(local, place, (position, weights), (spec, spec), spec)


def evaluate(
    objective: MeanFieldObjective, position: PyTree, measure: Measure, chunk_size: int | None = None
) -> Evaluation:
    """Field, value and force.

    Args:
        objective: the objective.
        position: pytree with particles on the leading axes.
        measure: weights.
        chunk_size: particles at once; None for all. In chunks, features are computed twice and never kept together.

    Returns:
        The evaluation.
    """
    feature = jax.vmap(objective.feature)
    count = jax.tree.leaves(position)[0].shape[0]
    if chunk_size is not None and chunk_size < count:
        return _in_chunks(objective, position, measure, chunk_size, count)
    features, pull = jax.vjp(feature, position)
    z = measure.mean(features)
    value, gradient = jax.value_and_grad(objective.risk)(z)
    return Evaluation(z, value, pull(_spread(gradient, count))[0])


def field(objective: MeanFieldObjective, position: PyTree, measure: Measure, chunk_size: int | None = None) -> PyTree:
    """``z`` alone; arguments as in `evaluate`.

    Args:
        objective: as in `evaluate`.
        position: as in `evaluate`.
        measure: as in `evaluate`.
        chunk_size: as in `evaluate`.
    """
    count = jax.tree.leaves(position)[0].shape[0]
    if chunk_size is None or chunk_size >= count:
        return measure.mean(jax.vmap(objective.feature)(position))
    shares = [
        jax.lax.scan(
            lambda total, part: (_plus(total, _share(objective, part)), None), _zero(objective, chunks), chunks
        )
        for chunks in _chunks(position, measure, chunk_size, count)
    ]
    return measure.total(jax.tree.map(lambda *parts: sum(parts), *(total for total, _ in shares)))


def _in_chunks(objective, position, measure, chunk_size, count):
    z = field(objective, position, measure, chunk_size)
    value, gradient = jax.value_and_grad(objective.risk)(z)

    def pulled(chunk):
        particles, weights = chunk
        return jax.vjp(jax.vmap(objective.feature), particles)[1](_spread(gradient, len(weights)))[0]

    parts = [jax.lax.map(pulled, chunks) for chunks in _chunks(position, measure, chunk_size, count)]
    flat = [jax.tree.map(lambda g: g.reshape(-1, *g.shape[2:]), part) for part in parts]
    return Evaluation(z, value, jax.tree.map(lambda *g: jnp.concatenate(g), *flat))


def _chunks(position, measure, size, count):
    """``(particles, shares of the mean)`` with a leading axis of whole chunks, and one more for what is left over."""
    weights = measure.weights
    if weights is None:
        weights = jnp.full(count, 1 / (count * measure.devices), jax.tree.leaves(position)[0].dtype)
    whole = count // size * size
    tree = (position, weights)
    yield jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), tree)
    if whole < count:
        yield jax.tree.map(lambda a: a[whole:][None], tree)


def _share(objective, chunk):
    particles, weights = chunk
    return jax.tree.map(Measure(weights).partial, jax.vmap(objective.feature)(particles))


def _zero(objective, chunks):
    first = jax.tree.map(lambda a: a[0], chunks)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(lambda c: _share(objective, c), first))


def _plus(a, b):
    return jax.tree.map(jnp.add, a, b)


def _spread(gradient: Any, count: int):
    return jax.tree.map(lambda g: jnp.broadcast_to(g, (count, *jnp.shape(g))), gradient)
