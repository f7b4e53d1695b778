r"""One step of every method, from exact substeps: friction ``P <- e^(-gamma t) P``, kick ``P <- P - t G``, drift.

Friction and a constant force together integrate to ``e^(-gamma h) P - c(h) G``, ``c(h) = (1 - e^(-gamma h)) / gamma``.
Reference: Hairer, Lubich & Wanner, "Geometric Numerical Integration" (2006); Suzuki, Phys. Lett. A 146 (1990), for the
composition of order four.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from jaxspec.flow.implicit import solve_midpoint
from jaxspec.flow.objective import Evaluation
from jaxspec.flow.state import FlowState

if TYPE_CHECKING:
    from jaxspec.flow.hamiltonian import LocalFlow

_SUZUKI = 1 / (4 - 4 ** (1 / 3))


class Carry(NamedTuple):
    """A state and what its last evaluations gave. Sums over particles are this device's share.

    Attributes:
        state: the state.
        field: ``z`` at the position.
        objective: ``J``.
        kinetic: ``K``.
        power: ``gamma E_w <P, Orth(P)>``.
        solved: whether all implicit equations so far were solved.
    """

    state: FlowState
    field: PyTree
    objective: Float[Array, ""]
    kinetic: Float[Array, ""]
    power: Float[Array, ""]
    solved: Bool[Array, ""]


def muon_step(flow: "LocalFlow", carry: Carry, h: ArrayLike) -> Carry:
    """Kick with friction for the whole step, then drift: EMA-Muon in flow coordinates, order 1.

    Args:
        flow: what evaluates forces and energies.
        carry: the state with its field and energies.
        h: time step.
    """
    state = carry.state
    momentum = _damped_kick(flow, state.momentum, state.force, h)
    energy = flow.kinetic(momentum)
    position = _add(state.position, energy.velocity, h)
    return _finish(flow, carry, (position, momentum), h, flow.evaluate(position), energy=energy)


def leapfrog_step(flow: "LocalFlow", carry: Carry, h: ArrayLike) -> Carry:
    """Half a damped kick, drift, half a damped kick: order 2.

    Args:
        flow: what evaluates forces and energies.
        carry: the state with its field and energies.
        h: time step.
    """
    state = carry.state
    momentum = _damped_kick(flow, state.momentum, state.force, h / 2)
    position = _add(state.position, flow.kinetic(momentum).velocity, h)
    new = flow.evaluate(position)
    momentum = _damped_kick(flow, momentum, new.force, h / 2)
    return _finish(flow, carry, (position, momentum), h, new)


def leapfrog_split_step(flow: "LocalFlow", carry: Carry, h: ArrayLike) -> Carry:
    """Friction, kick, drift, kick, friction; what friction takes is added up exactly. Order 2.

    Args:
        flow: what evaluates forces and energies.
        carry: the state with its field and energies.
        h: time step.
    """
    state = carry.state
    momentum, first = _friction(flow, state.momentum, carry.kinetic, h / 2)
    momentum = _add(momentum, state.force, -h / 2)
    position = _add(state.position, flow.kinetic(momentum).velocity, h)
    new = flow.evaluate(position)
    momentum = _add(momentum, new.force, -h / 2)
    momentum, second = _friction(flow, momentum, flow.mean_kinetic(momentum), h / 2)
    return _finish(flow, carry, (position, momentum), h, new, taken=first + second)


def suzuki4_step(flow: "LocalFlow", carry: Carry, h: ArrayLike) -> Carry:
    """Five `leapfrog_split_step`s, the middle one backwards in time: order 4.

    Args:
        flow: what evaluates forces and energies.
        carry: the state with its field and energies.
        h: time step.
    """
    steps = jnp.array([_SUZUKI, _SUZUKI, 1 - 4 * _SUZUKI, _SUZUKI, _SUZUKI])
    return jax.lax.scan(lambda c, a: (leapfrog_split_step(flow, c, a * h), None), carry, steps.astype(h.dtype))[0]


def discrete_gradient_step(flow: "LocalFlow", carry: Carry, h: ArrayLike) -> Carry:
    """Friction, an implicit step that keeps ``H`` exactly (Gonzalez 1996), friction: order 2, exact ledger.

    Args:
        flow: what evaluates forces and energies.
        carry: the state with its field and energies.
        h: time step.
    """
    state = carry.state
    momentum, first = _friction(flow, state.momentum, carry.kinetic, h / 2)
    position, momentum, solved = solve_midpoint(flow, state.position, momentum, state.force, carry.objective, h)
    new = flow.evaluate(position)
    momentum, second = _friction(flow, momentum, flow.mean_kinetic(momentum), h / 2)
    carry = carry._replace(solved=carry.solved & solved)
    return _finish(flow, carry, (position, momentum), h, new, taken=first + second)


STEPS = {
    "muon": muon_step,
    "leapfrog": leapfrog_step,
    "leapfrog_split": leapfrog_split_step,
    "suzuki4": suzuki4_step,
    "discrete_gradient": discrete_gradient_step,
}


def _finish(flow, carry, moved, h, new: Evaluation, *, taken=None, energy=None) -> Carry:
    """The carry after (position, momentum) = ``moved``; ``taken``: exact dissipation, by default a trapezoid."""
    value, power = flow.mean_energy(moved[1], energy)
    taken = h * (carry.power + power) / 2 if taken is None else taken
    old, (position, momentum) = carry.state, moved
    state = FlowState(position, momentum, old.time + h, old.dissipated + taken, new.force)
    return Carry(state, new.field, new.objective, value, power, carry.solved)


def damping_integral(gamma: ArrayLike, h: ArrayLike) -> Float[Array, ""]:
    """``c(h) = (1 - e^(-gamma h)) / gamma``, ``h`` at gamma = 0, differentiable there too.

    Args:
        gamma: friction, 1/time.
        h: time step.
    """
    x = gamma * h
    small = jnp.abs(x) < 1e-4
    safe = jnp.where(small, 1.0, x)
    return h * jnp.where(small, 1 - x / 2 * (1 - x / 3), -jnp.expm1(-safe) / safe)


def _damped_kick(flow, momentum, force, h):
    decay, gain = jnp.exp(-flow.gamma * h), damping_integral(flow.gamma, h)
    return jax.tree.map(lambda p, g: decay.astype(p.dtype) * p - gain.astype(p.dtype) * g, momentum, force)


def _friction(flow, momentum, energy, h):
    """Damped momentum, and the energy that friction has taken."""
    decay = jnp.exp(-flow.gamma * h)
    momentum = jax.tree.map(lambda p: decay.astype(p.dtype) * p, momentum)
    return momentum, energy - flow.mean_kinetic(momentum)


def _add(tree, direction, h):
    return jax.tree.map(lambda x, v: x + jnp.asarray(h, x.dtype) * v, tree, direction)
