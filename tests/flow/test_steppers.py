"""Orders, energies and ledgers of the five methods against an adaptive solver of order eight."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.flow import hamiltonian_flow
from jaxspec.flow.steppers import damping_integral
from tests.flow.conftest import COUNTS, METHODS
from tests.flow.problems import QUADRATIC, particles, tanh_problem

ORDER = {"muon": 1, "leapfrog": 2, "leapfrog_split": 2, "suzuki4": 4, "discrete_gradient": 2}


@pytest.fixture(scope="module")
def reference():
    with jax.enable_x64(True):
        flow = hamiltonian_flow(tanh_problem(), eps=0.1, polar_engine="svd")
        start = jnp.asarray(particles(16))
        control = diffrax.PIDController(rtol=1e-12, atol=1e-12)
        solution = diffrax.diffeqsolve(
            flow.as_ode_terms(),
            diffrax.Dopri8(),
            0.0,
            4.0,
            0.01,
            (start, jnp.zeros_like(start)),
            stepsize_controller=control,
            max_steps=2000,
        )
        return np.asarray(solution.ys[0][-1])


def slopes(values):
    return np.log2(np.asarray(values[:-1]) / np.asarray(values[1:]))


@pytest.mark.parametrize("method", METHODS)
def test_the_state_converges_at_the_order_of_the_method(tanh_runs, reference, method):
    errors = [np.sqrt(np.mean((tanh_runs[method, n][0].position - reference) ** 2)) for n in COUNTS]
    np.testing.assert_allclose(slopes(errors), ORDER[method], atol=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_energy_falls_and_the_identity_holds_to_its_order(tanh_runs, method):
    defects = [np.abs(tanh_runs[method, n][1]).max() for n in COUNTS]
    np.testing.assert_allclose(slopes(defects)[-1], min(ORDER[method], 2), atol=0.15)
    for n in COUNTS:
        assert np.diff(tanh_runs[method, n][2]).max() < 0
        assert tanh_runs[method, n][3]


def ledger(run):
    state, _, energies, _, _ = run
    return abs(float(energies[-1] + state.dissipated - energies[0]))


def test_the_ledger_of_the_split_methods_is_the_error_of_the_scheme(tanh_runs):
    for method, order in (("leapfrog_split", 2), ("suzuki4", 4)):
        np.testing.assert_allclose(slopes([ledger(tanh_runs[method, n]) for n in COUNTS]), order, atol=0.15)


def test_the_ledger_of_the_implicit_method_is_exact(tanh_runs):
    assert max(ledger(tanh_runs["discrete_gradient", n]) for n in COUNTS) <= 1e-13


def test_the_ledger_of_the_damped_kicks_is_the_trapezoid_sum(tanh_runs):
    for method in ("muon", "leapfrog"):
        state, defect, energies, _, _ = tanh_runs[method, 40]
        np.testing.assert_allclose(energies[-1] + state.dissipated - energies[0], defect[-1], atol=1e-15)


def test_known_numbers(tanh_runs, reference):
    state, _, energies, _, seen = tanh_runs["suzuki4", 80]
    np.testing.assert_allclose(reference[0, 0, 0], 0.8407878369, atol=1e-9)
    np.testing.assert_allclose(energies[0], 0.2065583929, atol=1e-10)
    np.testing.assert_allclose(seen.objective[-1], 0.0453770147, atol=1e-7)
    np.testing.assert_allclose(energies[-1], 0.0516873131, atol=1e-7)
    np.testing.assert_allclose(state.position[0, 0, 0], 0.8407878369, atol=1e-6)
    np.testing.assert_allclose(state.dissipated, 0.1548710798, atol=1e-7)
    np.testing.assert_allclose(state.time, 4.0, rtol=1e-14)


def test_muon_contracts_the_symplectic_form_by_exactly_its_decay(x64):
    h, gamma = 0.3, 0.7
    flow = hamiltonian_flow(tanh_problem(2, 2, 4), eps=0.2, gamma=gamma, method="muon", polar_engine="svd")
    start = flow.init(jnp.asarray(particles(2, 2, 2)), momentum=jnp.asarray(particles(2, 2, 2)) / 3)

    def step(y):
        x, p = y.reshape(2, 2, 2, 2)
        # The force of the step must be that of x: a differentiated start.
        new = flow.step(flow.init(x, momentum=p), h)
        return jnp.stack([new.position, new.momentum]).ravel()

    jacobian = jax.jacfwd(step)(jnp.stack([start.position, start.momentum]).ravel())
    omega = np.kron(np.array([[0, 1], [-1, 0]]), np.eye(8))
    np.testing.assert_allclose(jacobian.T @ omega @ jacobian, np.exp(-gamma * h) * omega, atol=1e-14)


def test_the_implicit_method_says_when_it_did_not_arrive(x64):
    x = jnp.asarray(particles(3, 2, 2)) * 3
    for h, arrives in ((0.3, True), (2.0, True), (300.0, False)):  # h^2 L/(4 eps): 0.06, 2.5, 6e4
        flow = hamiltonian_flow(QUADRATIC, eps=0.4, gamma=0.1, method="discrete_gradient", polar_engine="svd")
        carry = _implicit(flow, x, h)
        assert bool(carry.solved) == arrives, h
        if arrives:
            start = flow.energy(flow.init(x))
            np.testing.assert_allclose(carry.objective + carry.kinetic + carry.state.dissipated, start, rtol=1e-13)


def _implicit(flow, x, h):
    from jaxspec.flow.hamiltonian import LocalFlow

    local = LocalFlow(flow)
    return jax.jit(lambda s, h: local.advance(local.begin(s), h))(flow.init(x), jnp.asarray(h))


def test_the_damping_integral_is_smooth_at_zero(x64):
    for gamma in (0.0, 1e-9, 1e-5, 1e-3, 2.0):
        exact = 0.3 if gamma == 0 else -np.expm1(-gamma * 0.3) / gamma
        np.testing.assert_allclose(damping_integral(gamma, 0.3), exact, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(damping_integral)(0.0, 0.3), -0.045, rtol=1e-12)
