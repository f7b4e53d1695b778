"""Trajectories: derivatives, batches, donation, recompilation, quadrature, chaos, blocks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.flow import (
    MeanFieldObjective,
    coupling_error,
    field_path,
    gauss_hermite_particles,
    integrate,
    local_lipschitz,
)
from jaxspec.flow.integrate import _run
from tests.flow.problems import QUADRATIC, TARGET, TO_TARGET, identity, particles, quick_flow, squares

WIDE = MeanFieldObjective(lambda x: np.full((2, 2), 1.5) * x, squares)
SHORT = {"dt": 0.1, "num_steps": 4}


def raised(z):
    return 1 + jnp.sum((z - 2) ** 2) / 2


def momenta(state):
    return state.momentum


def final_energy(numbers, method="leapfrog"):
    flow = quick_flow(QUADRATIC, eps=numbers[0], gamma=numbers[1], method=method)
    x = numbers[2] * jnp.asarray(particles(2, 2, 2))
    return integrate(flow, flow.init(x), dt=numbers[3], num_steps=3)[1].hamiltonian[-1]


@pytest.mark.parametrize("method", ["leapfrog", "discrete_gradient"])
def test_gradients_in_every_number(x64, method):
    point, step = jnp.array([0.4, 0.8, 1.1, 0.2]), 1e-5
    gradient = jax.grad(final_energy)(point, method)
    differences = [
        (final_energy(point + step * e, method) - final_energy(point - step * e, method)) / (2 * step)
        for e in np.eye(4)
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-9)


def test_sweeps_are_vmapped_and_nothing_recompiles(x64):
    flow = quick_flow(QUADRATIC, eps=0.3)
    x = jnp.asarray(particles(2, 2, 2))

    def run(eps):
        flow = quick_flow(QUADRATIC, eps=eps)
        return integrate(flow, flow.init(x), **SHORT)[1].hamiltonian

    many = jax.vmap(run)(jnp.array([0.3, 0.6]))
    np.testing.assert_allclose(many[0], integrate(flow, flow.init(x), **SHORT)[1].hamiltonian, atol=1e-14)
    compiled = _run._cached._cache_size()
    for eps, dt in ((0.5, 0.2), (0.7, 0.3)):
        other = quick_flow(QUADRATIC, eps=eps, gamma=2 * eps)
        integrate(other, other.init(2 * x), dt=dt, num_steps=4)
    assert _run._cached._cache_size() == compiled


def test_saving_less_keeps_the_ledger_and_runs_resume(x64):
    flow = quick_flow(QUADRATIC, eps=0.3, method="leapfrog_split")
    start = flow.init(jnp.asarray(particles(3, 2, 3)))
    last, every = integrate(flow, start, **SHORT)
    _, few = integrate(flow, start, save_every=2, **SHORT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::2], atol=1e-14), few, every)
    middle, _ = integrate(flow, start, dt=0.1, num_steps=2)
    end, _ = integrate(flow, middle, dt=0.1, num_steps=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), end, last)
    stepped = start
    for _ in range(4):
        stepped = flow.step(stepped, 0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), stepped, last)
    np.testing.assert_allclose(flow.energy(last), every.hamiltonian[-1], rtol=1e-14)
    gaps = every.objective + every.kinetic - every.hamiltonian
    np.testing.assert_allclose(gaps, 0, atol=1e-15)


def test_a_donated_state_is_gone():
    flow = quick_flow(QUADRATIC)
    state = flow.init(jnp.asarray(particles(2, 2, 2), jnp.float32))
    kept, _ = integrate(flow, state, **SHORT)
    given, _ = integrate(flow, jax.tree.map(jnp.copy, state), donate=True, **SHORT)
    np.testing.assert_array_equal(given.position, kept.position)
    assert not state.momentum.is_deleted()
    integrate(flow, state, donate=True, **SHORT)
    assert state.momentum.is_deleted()


METHODS = ("muon", "leapfrog", "leapfrog_split", "suzuki4", "discrete_gradient")


@pytest.mark.parametrize(
    ("method", "objective"), [*((method, WIDE) for method in METHODS), ("leapfrog_split", QUADRATIC)]
)
def test_float32_particles_stay_float32(x64, method, objective):
    """Also with data in double precision, as ``jax_enable_x64`` makes it."""
    flow = quick_flow(objective, eps=0.3, method=method)
    last, seen = integrate(flow, flow.init(jnp.asarray(particles(2, 2, 2), jnp.float32)), **SHORT)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(last)} == {"float32"}
    assert bool(seen.converged.all())
    wide, _ = integrate(flow, flow.init(jnp.asarray(particles(2, 2, 2))), **SHORT)
    np.testing.assert_allclose(last.position, wide.position, atol=2e-5)


def test_observations_are_the_states_at_the_saved_times(x64):
    flow = quick_flow(QUADRATIC, eps=0.3, method="leapfrog_split")
    start = flow.init(jnp.asarray(particles(3, 2, 3)))
    plain = integrate(flow, start, save_every=2, **SHORT)
    last, seen, (path, energy) = integrate(
        flow, jax.tree.map(jnp.copy, start), save_every=2, donate=True, observe=lambda s: (s, flow.energy(s)), **SHORT
    )
    jax.tree.map(np.testing.assert_array_equal, (last, seen), plain)
    np.testing.assert_allclose(energy, seen.hamiltonian, rtol=1e-14)
    state = start
    for i in range(3):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-14), path, state)
        state = flow.step(flow.step(state, 0.1), 0.1)
    slope = jax.grad(lambda dt: integrate(flow, start, dt=dt, num_steps=2, observe=momenta)[2].sum())(0.1)
    assert np.isfinite(slope)


def test_observing_divided_particles_is_refused(run_python):
    snippet = """
import jax, jax.numpy as jnp
from jaxspec.flow import MeanFieldObjective, hamiltonian_flow, integrate
mesh = jax.make_mesh((2,), ("p",), axis_types=(jax.sharding.AxisType.Explicit,))
x = jax.device_put(jnp.ones((4, 2, 2)), jax.NamedSharding(mesh, jax.P("p")))
flow = hamiltonian_flow(MeanFieldObjective(lambda x: x, lambda z: jnp.sum(z**2)))
state = flow.init(x)
print(len(integrate(flow, state, num_steps=2)))
try:
    integrate(flow, state, num_steps=2, observe=lambda s: s.position)
except ValueError as error:
    print("divided" in str(error))
"""
    assert run_python(snippet, devices=2).stdout.split() == ["2", "True"]


@pytest.mark.parametrize("method", ["muon", "leapfrog", "leapfrog_split", "suzuki4"])
def test_steps_beyond_the_stable_ones_are_flagged(x64, method):
    eps = 0.1
    flow = quick_flow(TO_TARGET, eps=eps, gamma=0.1, method=method)
    start = flow.init(0.1 * jnp.asarray(particles(2, 3, 2)))
    limit = 2 * (eps / local_lipschitz(TO_TARGET, start.position).value) ** 0.5
    for share, stable in ((0.25, True), (1.9, False)):
        _, seen = integrate(flow, start, dt=share * limit, num_steps=40)
        assert bool(seen.converged[-1]) is stable
        lowest = np.minimum.accumulate(seen.hamiltonian)
        np.testing.assert_allclose(seen.energy_rise, seen.hamiltonian - lowest, atol=1e-15)


def test_rounding_at_a_minimum_is_no_rise():
    flow = quick_flow(MeanFieldObjective(identity, raised), eps=0.1, gamma=2.0)
    state = flow.init(jnp.asarray(particles(4, 3, 2), jnp.float32))
    for _ in range(4):
        state, seen = integrate(flow, state, dt=0.1, num_steps=100)
        assert bool(seen.converged.all())


def two_blocks(p):
    return p["a"] @ p["b"]


def to_one(z):
    return jnp.sum((z - 1) ** 2) / 2


def test_blocks_have_their_own_floor_and_weight(x64):
    objective = MeanFieldObjective(two_blocks, to_one)
    x = {"a": jnp.asarray(particles(3, 2, 2)), "b": jnp.asarray(particles(3, 2, 2) + 0.5)}
    eps, weights = {"a": 0.2, "b": 0.7}, {"a": 1.0, "b": 2.0}
    flow = quick_flow(objective, eps=eps, block_weights=weights, method="discrete_gradient")
    state = flow.init(x, momentum=jax.tree.map(lambda a: a / 3, x))
    velocity, _ = flow.vector_field(0.0, (state.position, state.momentum))
    for key in x:
        alone = quick_flow(QUADRATIC, eps=eps[key]).vector_field(0.0, (x[key], x[key] / 3))[0]
        np.testing.assert_allclose(velocity[key], weights[key] * alone, atol=1e-15)
    last, seen = integrate(flow, state, dt=0.1, num_steps=4)
    np.testing.assert_allclose(seen.hamiltonian[-1] + last.dissipated, seen.hamiltonian[0], atol=1e-14)
    assert bool(seen.converged.all())


def test_linear_particles_move_like_their_mean(x64):
    flow = quick_flow(TO_TARGET, eps=0.2)
    x = jnp.asarray(particles(5, 3, 2))
    many, _ = integrate(flow, flow.init(x), dt=0.1, num_steps=20)
    mean = jnp.mean(x, axis=0, keepdims=True)
    one, _ = integrate(flow, flow.init(mean), dt=0.1, num_steps=20)
    shift = jnp.broadcast_to(one.position - mean, x.shape)
    np.testing.assert_allclose(many.position - x, shift, atol=1e-14)


def test_the_coupling_of_linear_particles_is_that_of_two_means(x64):
    """Limit: the field starts at the mean of the law, 0. Every particle is as far from its copy as one mean."""
    flow, options = quick_flow(TO_TARGET, eps=0.2), {"dt": 0.1, "num_steps": 20}
    origin = jnp.zeros((1, 3, 2))
    reference = field_path(flow, flow.init(origin), **options)
    assert reference.shape == (21, 3, 2)
    x = jnp.asarray(np.stack([particles(5, 3, 2), particles(10, 3, 2)[5:]]))
    found = coupling_error(flow, x, reference, **options)
    for k in range(2):
        mean = jnp.mean(x[k], axis=0, keepdims=True)
        moved, _ = integrate(flow, flow.init(mean), **options)
        limit, _ = integrate(flow, flow.init(origin), **options)
        apart = jnp.linalg.norm((moved.position - mean) - limit.position)
        np.testing.assert_allclose(found.position_rms[k], apart, rtol=1e-10)
        momenta = jnp.linalg.norm(moved.momentum - limit.momentum)
        np.testing.assert_allclose(found.momentum_rms[k], momenta, rtol=1e-10)
        fields = jnp.linalg.norm(moved.position - limit.position) / 6**0.5
        np.testing.assert_allclose(found.field_rms[k], fields, rtol=1e-10)
    np.testing.assert_allclose(found.time, 2.0)


def test_the_mean_field_limit_by_quadrature(x64):
    j = np.arange(8)[:, None]
    x = jnp.asarray(np.cos((np.arange(2) + 1) * (j + 0.5) * np.pi / 8))
    angle = 2 * np.pi * (j + 0.5) / 8
    y = jnp.asarray(0.4 * np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    objective = MeanFieldObjective(lambda p: jnp.tanh(x @ p.T), lambda z: jnp.sum((z - y) ** 2) / 16)
    position, weights = gauss_hermite_particles((2, 2), order=8, scale=0.5)
    flow = quick_flow(objective, eps=0.5, weights=weights)
    last, seen = integrate(flow, flow.init(position), dt=0.05, num_steps=40, save_every=40)
    field = field_path(flow, flow.init(position), dt=0.05, num_steps=40)[-1]
    np.testing.assert_allclose(field[0], (0.20266, 0.21330), atol=1e-5)
    np.testing.assert_allclose(seen.objective[-1], 0.01849, atol=2e-5)
    np.testing.assert_allclose(seen.hamiltonian[-1], 0.03281, atol=2e-5)
    assert eqx.tree_equal(last.time, jnp.asarray(2.0), rtol=1e-12)


def test_non_finite_values_are_flagged():
    flow = quick_flow(QUADRATIC)
    x = np.asarray(particles(2, 2, 2), np.float32)
    x[0, 0, 0] = np.nan
    _, seen = integrate(flow, flow.init(jnp.asarray(x)), **SHORT)
    assert not seen.converged.any()


def test_the_rate_near_a_minimum_is_the_linear_one(x64):
    from jaxspec.flow import certified_rate, fit_exponential_rate

    eps, gamma = 0.1, 0.5
    flow = quick_flow(TO_TARGET, eps=eps, gamma=gamma)
    _, seen = integrate(flow, flow.init(jnp.zeros((1, *TARGET.shape))), dt=0.01, num_steps=4000, save_every=10)
    time = np.arange(401) * 0.1
    fit = fit_exponential_rate(time, seen.hamiltonian, low=1e-18, high_frac=1e-2)
    np.testing.assert_allclose(fit.rate, gamma, rtol=0.01)
    assert fit.r2 > 0.99
    certificate = float(certified_rate(1.0, 1.0, eps, gamma, seen.momentum_max.max()))
    assert 0 < certificate < fit.rate
    assert np.all(seen.objective <= 2 * seen.objective[0] * np.exp(-certificate * time) + 1e-12)
    assert np.isnan(fit_exponential_rate(time[:9], seen.hamiltonian[:9]).rate)
