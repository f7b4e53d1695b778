r"""The damped Hamiltonian flow whose first-order discretisation is Muon with a regularised polar factor.

    dX_i/dt = Orth_eps(P_i) ,   dP_i/dt = -G_i - gamma P_i ,   H = J + E_w Phi_eps(P_i) ,
    dH/dt = -gamma E_w <P_i, Orth_eps(P_i)> <= 0 .

`J` alone need not fall. Reference: Mustafi, Mukherjee & Sriperumbudur, "Move on Muon" (arXiv:2605.23871).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxspec.checks import check_choice, check_integers, check_numbers
from jaxspec.flow.checks import check_objective, check_particles, check_positive_tree, check_weights
from jaxspec.flow.kinetic import Kinetic, kinetic
from jaxspec.flow.measure import Measure, divided, placement
from jaxspec.flow.objective import Evaluation, MeanFieldObjective, evaluate
from jaxspec.flow.state import FlowState
from jaxspec.flow.steppers import STEPS, Carry
from jaxspec.linalg.smoothed_engines import POLAR_ENGINES
from jaxspec.optional import require


def hamiltonian_flow(
    objective: MeanFieldObjective,
    *,
    eps: Any = 0.1,
    gamma: ArrayLike = 1.0,
    method: str = "leapfrog",
    weights: Float[Array, " N"] | None = None,
    block_weights: Any = None,
    chunk_size: int | None = None,
    polar_engine: str = "auto",
) -> "Flow":
    """A flow of particles; numbers in it are traced, names are static.

    Methods: ``muon`` (order 1, the optimiser's own step), ``leapfrog`` (order 2), ``leapfrog_split`` (order 2, exact
    ledger of friction), ``suzuki4`` (order 4, five forces a step), ``discrete_gradient`` (order 2, implicit, ``H`` plus
    what was dissipated is conserved exactly).

    Args:
        objective: ``R(int F d rho)``.
        eps: floor of the singular values of the momentum, > 0: a number, or a pytree prefix of a particle.
        gamma: friction, >= 0, per unit of time.
        method: see above.
        weights: of the particles, (N,), >= 0, sum 1; None for 1/N.
        block_weights: ``b_k > 0``, factors of the kinetic energy and of the velocity: like ``eps``; None for 1.
        chunk_size: particles whose features are in memory at once; None for all.
        polar_engine: of `jaxspec.linalg.smoothed_polar`.

    Returns:
        The flow.

    Raises:
        ValueError: a number out of range, an unknown name, weights that are no probabilities.

    Example:
        >>> import jax.numpy as jnp
        >>> linear = MeanFieldObjective(lambda x: x, lambda z: jnp.sum(z**2) / 2)
        >>> flow = hamiltonian_flow(linear, eps=0.5)
        >>> state = flow.step(flow.init(jnp.ones((4, 2, 2))), 0.1)
        >>> state.position.shape, round(float(state.time), 3)
        ((4, 2, 2), 0.1)
    """
    if isinstance(eps, str):
        raise ValueError(
            f"eps is {eps!r}; a floor relative to the momentum is not a gradient map and has no energy, pass a number"
        )
    if method not in STEPS:
        raise ValueError(f"method is {method!r}; expected one of {tuple(STEPS)}")
    check_choice("polar_engine", polar_engine, POLAR_ENGINES)
    check_integers(1, chunk_size=chunk_size)
    check_positive_tree("eps", eps, ": the hard polar is jaxspec.linalg.polar")
    check_numbers(0, gamma=gamma)
    block_weights = 1.0 if block_weights is None else block_weights
    check_positive_tree("block_weights", block_weights)
    check_weights(weights)
    return Flow(
        objective,
        jax.tree.map(jnp.asarray, eps),
        jnp.asarray(gamma),
        None if weights is None else jnp.asarray(weights),
        jax.tree.map(jnp.asarray, block_weights),
        method,
        chunk_size,
        polar_engine,
    )


class LocalFlow(eqx.Module):
    """A flow and how its particles are divided: what the steps compute with."""

    flow: "Flow"
    axis: str | None = eqx.field(static=True, default=None)

    @property
    def measure(self) -> Measure:
        """The weights on this device."""
        return Measure(self.flow.weights, self.axis)

    @property
    def gamma(self) -> Array:
        """Friction."""
        return self.flow.gamma

    def evaluate(self, position: PyTree) -> Evaluation:
        """Field, value and force at a position."""
        return evaluate(self.flow.objective, position, self.measure, self.flow.chunk_size)

    def kinetic(self, momentum: PyTree) -> Kinetic:
        """Energy and velocity of every particle."""
        return kinetic(momentum, self.flow.eps, self.flow.block_weights, self.flow.polar_engine)

    def mean_kinetic(self, momentum: PyTree) -> Float[Array, ""]:
        """This device's share of ``K``."""
        return self.measure.partial(self.kinetic(momentum).value)

    def mean_energy(self, momentum: PyTree, energy: Kinetic | None = None) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """This device's shares of ``K`` and of the dissipation rate, from ``energy`` if it is known."""
        energy = self.kinetic(momentum) if energy is None else energy
        return self.measure.partial(energy.value), self.gamma * self.measure.partial(energy.power)

    def begin(self, state: FlowState) -> Carry:
        """The carry of the first step."""
        here = self.evaluate(state.position)
        state = state._replace(dissipated=state.dissipated / self.measure.devices)
        return Carry(state, here.field, here.objective, *self.mean_energy(state.momentum), jnp.array(True))

    def advance(self, carry: Carry, h: ArrayLike) -> Carry:
        """One step of the flow's method."""
        new = STEPS[self.flow.method](self, carry, h)
        # Numbers of another precision than the particles must not change the type of what a loop carries.
        return jax.tree.map(lambda a, b: a.astype(b.dtype), new, carry)

    def end(self, carry: Carry) -> FlowState:
        """The state, its ledger summed over devices."""
        return carry.state._replace(dissipated=self.measure.total(carry.state.dissipated))


class Flow(eqx.Module):
    """A damped Hamiltonian flow; build it with `hamiltonian_flow`.

    Attributes:
        objective: ``R(int F d rho)``.
        eps: floors, a pytree prefix of a particle.
        gamma: friction.
        weights: (N,), or None for 1/N.
        block_weights: ``b_k``, a pytree prefix of a particle.
        method: of the step.
        chunk_size: particles at once, or None.
        polar_engine: of `jaxspec.linalg.smoothed_polar`.
    """

    objective: MeanFieldObjective
    eps: PyTree
    gamma: Float[Array, ""]
    weights: Float[Array, " N"] | None
    block_weights: PyTree
    method: str = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True)
    polar_engine: str = eqx.field(static=True)

    def init(self, position: PyTree, *, momentum: PyTree | None = None) -> FlowState:
        """The state at time 0.

        Args:
            position: pytree of matrices with particles on the leading axis, (N, ..., m, n).
            momentum: like the position; None for 0.

        Returns:
            The state.

        Raises:
            ValueError: an empty leaf, one with fewer than three axes, different numbers of particles, a momentum of
                another structure, weights of another length, a risk that does not take the mean feature.
            TypeError: a leaf that is not real floating point.
        """
        check_particles(position, momentum, self.weights, self.eps, self.block_weights)
        check_objective(self.objective, position)
        momentum = jax.tree.map(jnp.zeros_like, position) if momentum is None else momentum
        dtype = jnp.result_type(*jax.tree.leaves(position))
        zero = jnp.zeros((), dtype)
        state = FlowState(position, momentum, zero, jnp.zeros_like(zero), jax.tree.map(jnp.zeros_like, position))
        return _initial(self, state)

    def step(self, state: FlowState, h: ArrayLike) -> FlowState:
        """One step of size ``h`` > 0.

        Raises:
            ValueError: ``h <= 0``.
        """
        check_numbers(0, ends="()", h=h)
        return _one_step(self, state, jnp.asarray(h, state.time.dtype))

    def vector_field(self, t: ArrayLike, y: tuple[PyTree, PyTree], args: Any = None) -> tuple[PyTree, PyTree]:
        """``(dX/dt, dP/dt)`` at ``y = (X, P)``; ``t`` and ``args`` are unused, as an ODE solver passes them."""
        local = LocalFlow(self)
        position, momentum = y
        force = local.evaluate(position).force
        kick = jax.tree.map(lambda p, g: -g - self.gamma.astype(p.dtype) * p, momentum, force)
        return local.kinetic(momentum).velocity, kick

    def energy(self, state: FlowState) -> Float[Array, ""]:
        """``H = J + K``."""
        local = LocalFlow(self)
        return local.evaluate(state.position).objective + local.mean_kinetic(state.momentum)

    def as_ode_terms(self) -> Any:
        """The vector field for any solver of diffrax, whose state is ``(X, P)``.

        Returns:
            ``diffrax.ODETerm``.

        Raises:
            ImportError: diffrax is not installed; the message names the extra.
        """
        return require("diffrax", "as_ode_terms", "flow").ODETerm(self.vector_field)


@eqx.filter_jit
def _initial(flow, state):
    return run_local(flow, state, lambda local, state: state._replace(force=local.evaluate(state.position).force))


@eqx.filter_jit
def _one_step(flow, state, h):
    return run_local(flow, state, lambda local, state, h: local.end(local.advance(local.begin(state), h)), h)


def run_local(flow: Flow, state: FlowState, function: Any, *numbers: Array, out_specs: Any = None) -> PyTree:
    """``function(LocalFlow, state, *numbers)``, on every device's share of the particles if they are divided.

    Args:
        flow: the flow.
        state: the state.
        function: the work.
        *numbers: further arrays, the same on all devices.
        out_specs: partition specs of the result, given the specs of a state; default those of a state.

    Returns:
        The result.

    Raises:
        ValueError: the implicit method on divided particles.
    """
    place = placement(state.position)
    if place is None:
        return function(LocalFlow(flow), state, *numbers)
    if flow.method == "discrete_gradient":
        raise ValueError(
            "method 'discrete_gradient' solves for all particles at once and cannot be divided over a mesh"
        )
    axis = place[1]
    divide, copy = PartitionSpec(axis), PartitionSpec()
    state_specs = FlowState(divide, divide, copy, copy, divide)
    arrays, static = eqx.partition(flow, eqx.is_array)
    flow_specs = jax.tree.map(lambda _: copy, arrays)
    if flow.weights is not None:
        flow_specs = eqx.tree_at(lambda f: f.weights, flow_specs, divide)

    def local(arrays, state, *numbers):
        return function(LocalFlow(eqx.combine(arrays, static), axis), state, *numbers)

    specs = (flow_specs, state_specs, *(copy for _ in numbers))
    return divided(
        local, place, (arrays, state, *numbers), specs, state_specs if out_specs is None else out_specs(state_specs)
    )
