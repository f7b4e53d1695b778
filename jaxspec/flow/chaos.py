"""Propagation of chaos: N particles beside copies of them that the limit field drives."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxspec.checks import check_numbers
from jaxspec.flow.hamiltonian import Flow, LocalFlow
from jaxspec.flow.objective import MeanFieldObjective
from jaxspec.flow.steppers import damping_integral


class ChaosResult(NamedTuple):
    """Distances at the last time, one for every repeat.

    Attributes:
        position_rms: root of the mean over particles of ``|X - Xbar|^2``, (*repeats,).
        momentum_rms: the same of the momenta.
        field_rms: root mean square over entries of ``z^N - z``.
        time: the last time.
    """

    position_rms: Float[Array, "*repeats"]
    momentum_rms: Float[Array, "*repeats"]
    field_rms: Float[Array, "*repeats"]
    time: Float[Array, ""]


def coupling_error(flow: Flow, position: PyTree, reference: PyTree, *, dt: ArrayLike, num_steps: int) -> ChaosResult:
    """Distance of N interacting particles from independent copies that start in the same places, at rest.

    Both run by leapfrog; the copies take the field of every kick from ``reference``, so that the copies' error of
    discretisation is that of the reference.

    Args:
        flow: method leapfrog, equal weights.
        position: particles that are single matrices, leaves (*repeats, N, m, n).
        reference: `field_path` of the limit, with the same ``dt`` and ``num_steps``.
        dt: step, > 0.
        num_steps: number of steps (static).

    Returns:
        The distances.

    Raises:
        ValueError: another method, weights, ``dt <= 0``, or a reference of another length.
    """
    check_numbers(0, ends="()", dt=dt)
    if flow.method != "leapfrog" or flow.weights is not None:
        raise ValueError(f"method is {flow.method!r}; expected leapfrog and equal weights (None)")
    lengths = {len(leaf) for leaf in jax.tree.leaves(reference)}
    if lengths != {num_steps + 1}:
        raise ValueError(f"reference has leading axes of {lengths}; expected num_steps + 1 = {num_steps + 1}")
    return _distances(flow, position, reference, jnp.asarray(dt), num_steps)


@eqx.filter_jit
def _distances(flow, position, reference, dt, num_steps):
    repeats = jax.tree.leaves(position)[0].ndim - 3

    def one(position):
        h = dt.astype(jnp.result_type(*jax.tree.leaves(position)))
        return _one_distance(flow, position, reference, h)

    for _ in range(repeats):
        one = jax.vmap(one)
    return ChaosResult(*one(position), dt * num_steps)


def _one_distance(flow, position, reference, h):
    local = LocalFlow(flow)
    zero = jax.tree.map(jnp.zeros_like, position)
    decay, gain = jnp.exp(-flow.gamma * h / 2).astype(h.dtype), damping_integral(flow.gamma, h / 2).astype(h.dtype)

    def kick(momentum, force):
        return jax.tree.map(lambda p, g: decay * p - gain * g, momentum, force)

    def drift(position, momentum):
        return jax.tree.map(lambda x, v: x + h * v, position, local.kinetic(momentum).velocity)

    def step(carry, fields):
        (x, p, g), (y, q) = carry
        before, after = fields
        p, q = kick(p, g), kick(q, driven_force(flow.objective, y, before))
        x, y = drift(x, p), drift(y, q)
        new = local.evaluate(x)
        p, q = kick(p, new.force), kick(q, driven_force(flow.objective, y, after))
        return ((x, p, new.force), (y, q)), None

    fields = tuple(jax.tree.map(lambda a, s=s: a[s], reference) for s in (slice(None, -1), slice(1, None)))
    start = ((position, zero, local.evaluate(position).force), (position, zero))
    ((x, p, _), (y, q)), _ = jax.lax.scan(step, start, fields)
    last = jax.tree.map(lambda a: a[-1], reference)
    apart = jax.tree.leaves(jax.tree.map(jnp.subtract, local.evaluate(x).field, last))
    entries = sum(a.size for a in apart)
    return _rms(x, y), _rms(p, q), jnp.sqrt(sum(jnp.sum(a * a) for a in apart) / entries)


def driven_force(objective: MeanFieldObjective, position: PyTree, field: PyTree) -> PyTree:
    """Forces of a given field, ``DF(X_i)^* grad R(field)``.

    Args:
        objective: the objective.
        position: particles on the leading axes.
        field: a pytree in H.

    Returns:
        Like ``position``.
    """
    gradient = jax.grad(objective.risk)(field)
    return jax.vmap(lambda x: jax.vjp(objective.feature, x)[1](gradient)[0])(position)


def _rms(a, b):
    squares = jax.tree.map(lambda x, y: jnp.mean(jnp.sum((x - y) ** 2, axis=(-2, -1))), a, b)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))
