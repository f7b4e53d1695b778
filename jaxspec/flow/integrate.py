"""A whole trajectory in one compiled program, with the energy ledger."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxspec.checks import check_integers, check_numbers
from jaxspec.flow.hamiltonian import Flow, LocalFlow, run_local
from jaxspec.flow.measure import placement
from jaxspec.flow.state import FlowDiagnostics, FlowState
from jaxspec.flow.steppers import Carry

# In units of the largest kinetic energy so far.
_LARGEST_RISE = 0.05


def integrate(
    flow: Flow,
    state: FlowState,
    *,
    dt: ArrayLike = 0.05,
    num_steps: int,
    save_every: int = 1,
    donate: bool = False,
    observe: Callable[[FlowState], PyTree] | None = None,
) -> tuple[FlowState, FlowDiagnostics] | tuple[FlowState, FlowDiagnostics, PyTree]:
    """``num_steps`` steps of size ``dt``; differentiable, one compilation for all ``dt`` and numbers of the flow.

    Explicit methods are stable near a minimum for ``dt < 2 (eps/L)^(1/2)`` with ``L`` of `local_lipschitz`; a quarter
    of that is a good start. ``discrete_gradient`` takes any step that it can solve. Read ``converged`` before the
    state.

    Args:
        flow: from `hamiltonian_flow`.
        state: from ``flow.init``, or where another run ended.
        dt: step, > 0.
        num_steps: number of steps, >= 1 (static: it is a shape of the result, another number compiles again. For runs
            of many lengths go on from the last state of a run of one length).
        save_every: steps between saved diagnostics; divides ``num_steps`` (static). The ledger counts every step.
        donate: reuse the buffers of ``state``, which is invalid afterwards.
        observe: function of a state to a pytree of arrays, kept at the times of the diagnostics, such as ``lambda s:
            s.position``. A new function means a new compilation. All particles must lie on one device, or be copied.

    Returns:
        The last state, and diagnostics at the start and after every ``save_every`` steps; with ``observe`` also what it
        gave at these times, along a new leading axis.

    Raises:
        ValueError: ``dt <= 0``, numbers of steps that do not fit, or ``observe`` for particles divided over a mesh.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.flow import MeanFieldObjective, hamiltonian_flow
        >>> linear = MeanFieldObjective(lambda x: x, lambda z: jnp.sum(z**2) / 2)
        >>> flow = hamiltonian_flow(linear, eps=0.5)
        >>> state, seen = integrate(flow, flow.init(jnp.ones((4, 2, 2))), dt=0.05, num_steps=20)
        >>> bool(seen.hamiltonian[-1] < seen.hamiltonian[0]), seen.objective.shape
        (True, (21,))
        >>> _, _, path = integrate(flow, state, num_steps=20, save_every=5, observe=lambda s: s.position)
        >>> path.shape
        (5, 4, 2, 2)
    """
    check_numbers(0, ends="()", dt=dt)
    if num_steps < 1 or save_every < 1 or num_steps % save_every:
        raise ValueError(
            f"num_steps is {num_steps} and save_every is {save_every}; expected numbers >= 1, the first a multiple"
        )
    if observe is not None and placement(state.position) is not None:
        raise ValueError("observe is given and the particles are divided over a mesh; expected them on one device")
    run = _run_donated if donate else _run
    end, saved, seen = run((flow, jnp.asarray(dt, state.time.dtype), observe), state, num_steps, save_every)
    return (end, saved) if observe is None else (end, saved, seen)


def field_path(flow: Flow, state: FlowState, *, dt: ArrayLike, num_steps: int) -> PyTree:
    """The mean field ``z`` at the start and after every step.

    Args:
        flow: from `hamiltonian_flow`.
        state: from ``flow.init``.
        dt: step, > 0.
        num_steps: number of steps (static).

    Returns:
        A pytree in H with a leading axis of ``num_steps + 1``.

    Raises:
        ValueError: ``dt <= 0`` or ``num_steps < 1``.
    """
    check_numbers(0, ends="()", dt=dt)
    check_integers(1, num_steps=num_steps)
    return _path(flow, state, jnp.asarray(dt, state.time.dtype), num_steps)


def _trajectory(kept, state, num_steps, save_every):
    """``kept``: flow, step and observation, which are never donated."""
    flow, h, observe = kept
    observe = (lambda state: None) if observe is None else observe

    def local(local: LocalFlow, state: FlowState, h):
        carry = local.begin(state)
        first = _energies(local, carry)

        def step(pair, _):
            carry, lost = pair
            new = local.advance(carry, h)
            return (new, lost + h * (carry.power + new.power) / 2), None

        def stretch(pair, _):
            carry, lost = pair
            pair, _ = jax.lax.scan(step, (carry._replace(solved=jnp.array(True)), lost), None, length=save_every)
            return pair, (_diagnostics(local, *pair, first), observe(local.end(pair[0])))

        start = _diagnostics(local, carry, jnp.zeros_like(h), first), observe(local.end(carry))
        (carry, _), saved = jax.lax.scan(stretch, (carry, jnp.zeros_like(h)), None, length=num_steps // save_every)
        saved, seen = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), start, saved)
        return local.end(carry), _judged(saved, flow.method), seen

    return run_local(flow, state, local, h, out_specs=lambda specs: (specs, PartitionSpec(), PartitionSpec()))


_run = eqx.filter_jit(_trajectory)
_run_donated = eqx.filter_jit(_trajectory, donate="all-except-first")


def _judged(saved: FlowDiagnostics, method: str) -> FlowDiagnostics:
    """Diagnostics with the rise of the energy, which an explicit method must keep small."""
    rise = saved.hamiltonian - jax.lax.cummin(saved.hamiltonian)
    rounding = 100 * jnp.finfo(rise.dtype).eps * (jnp.abs(saved.objective) + saved.kinetic)
    small = rise <= _LARGEST_RISE * jax.lax.cummax(saved.kinetic) + rounding
    converged = saved.converged if method == "discrete_gradient" else saved.converged & small
    return saved._replace(energy_rise=rise, converged=converged)


def _energies(local: LocalFlow, carry: Carry):
    value, power = local.measure.total((carry.kinetic, carry.power))
    return carry.objective, value, power


def _diagnostics(local: LocalFlow, carry: Carry, lost: Float[Array, ""], first) -> FlowDiagnostics:
    objective, value, power = _energies(local, carry)
    hamiltonian = objective + value
    squares = [jnp.sum(p * p, axis=(-2, -1)) for p in jax.tree.leaves(carry.state.momentum)]
    largest = jnp.sqrt(jnp.max(jnp.stack([jnp.max(s) for s in squares])))
    if local.axis is not None:
        largest = jax.lax.pmax(largest, local.axis)
    return FlowDiagnostics(
        objective,
        value,
        hamiltonian,
        power,
        hamiltonian - first[0] - first[1] + local.measure.total(lost),
        largest,
        carry.solved & jnp.isfinite(hamiltonian) & jnp.isfinite(largest),
    )


@eqx.filter_jit
def _path(flow, state, h, num_steps):
    def local(local: LocalFlow, state: FlowState, h):
        def step(carry, _):
            carry = local.advance(carry, h)
            return carry, carry.field

        start = local.begin(state)
        _, fields = jax.lax.scan(step, start, None, length=num_steps)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start.field, fields)

    return run_local(flow, state, local, h, out_specs=lambda specs: PartitionSpec())
