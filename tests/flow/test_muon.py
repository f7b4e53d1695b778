"""The optimiser is the flow's first-order step: parameters, readout, descent theorem, linear rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.flow import (
    MeanFieldObjective,
    certified_discrete_rate,
    flow_to_muon,
    force,
    half_step_readout,
    hamiltonian_flow,
    max_stable_lr,
    muon_to_flow,
)
from jaxspec.linalg import smoothed_nuclear_norm, smoothed_polar
from jaxspec.optim import regularized_muon
from tests.flow.problems import TARGET, identity, particles, tanh_problem


@pytest.mark.parametrize("form", ["ema", "heavy_ball"])
def test_the_optimiser_follows_the_flow(x64, form):
    objective, h, gamma, eps = tanh_problem(), 0.2, 1.3, 0.15
    x = jnp.asarray(particles(6))
    flow = hamiltonian_flow(objective, eps=eps, gamma=gamma, method="muon")
    params = flow_to_muon(h, gamma, eps, form)
    learning_rate = float(params.lr)
    tx = regularized_muon(learning_rate, params.eps, gamma=gamma, form=form, particle_axis=0)
    state, opt = flow.init(x), tx.init(x)

    def loss(x):
        return objective.risk(jnp.mean(jax.vmap(objective.feature)(x), axis=0))

    for _ in range(5):
        state = flow.step(state, h)
        gradient = jax.grad(loss)(x)
        if form == "heavy_ball":  # its gain h stands for the damping integral
            gradient = gradient * (1 - np.exp(-gamma * h)) / gamma / h
        updates, opt = tx.update(gradient, opt, x)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(x, state.position, atol=1e-12)


def test_three_ema_steps(x64):
    x = jnp.array([[2.0, 0], [1, -1], [0, 3]])
    tx = regularized_muon(0.1, 0.5, beta=0.9)
    state = tx.init(x)
    for _ in range(3):
        updates, state = tx.update(x, state, x)
        x = x + updates
    expected = [[1.83721389, -0.00519127], [0.92120258, -0.93418076], [-0.00778691, 2.79475536]]
    np.testing.assert_allclose(x, expected, atol=1e-8)


def test_parameters_there_and_back(x64):
    for form in ("ema", "heavy_ball"):
        there = flow_to_muon(0.1, 2.0, 0.3, form)
        np.testing.assert_allclose(muon_to_flow(*there, form), (0.1, 2.0, 0.3), rtol=1e-14)
    np.testing.assert_allclose(flow_to_muon(0.1, 2.0, 0.3), (0.1, np.exp(-0.2), 0.6), rtol=1e-14)


@pytest.mark.parametrize(("eps", "decay", "expected"), [
    (0.1, 0.5, (1.9879452, 1.3133556)),
    (0.1, 1.0, (0.9986120, 0.9736317)),
    (0.5, 1.0, (0.9679370, 0.7790792)),
])  # fmt: skip
def test_weight_decay_bounds_the_singular_values(x64, eps, decay, expected):
    tx = regularized_muon(lambda t: 0.05 * 0.5 ** (t // 300), eps, beta=0.5, weight_decay=decay)
    x = jnp.zeros((3, 2))

    @jax.jit
    def run(x):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x - TARGET, state, x)
            return (x + updates, state), None

        return jax.lax.scan(step, (x, tx.init(x)), None, length=2400)[0][0]

    np.testing.assert_allclose(np.linalg.svd(run(x), compute_uv=False), expected, atol=1e-6)


def test_the_half_step_readout_is_drift_kick_drift(x64):
    objective, h, gamma, eps = tanh_problem(), 0.2, 1.0, 0.1
    x = jnp.asarray(particles(4))
    beta = np.exp(-gamma * h)
    momentum, readout = jnp.zeros_like(x), x
    p, symmetric = jnp.zeros_like(x), x  # P_0 = 0: the first half drift is none
    for _ in range(4):
        momentum = beta * momentum + (1 - beta) * force(objective, x)
        x = x - h * smoothed_polar(momentum, gamma * eps)
        readout = half_step_readout(x, momentum, h, gamma * eps)
        middle = symmetric + h / 2 * smoothed_polar(p, eps)
        p = beta * p - (1 - beta) / gamma * force(objective, middle)
        symmetric = middle + h / 2 * smoothed_polar(p, eps)
        np.testing.assert_allclose(readout, symmetric, atol=1e-13)


def cosines(z):
    return jnp.sum(1 - jnp.cos(z - TARGET))


NONCONVEX = MeanFieldObjective(identity, cosines)  # L = 1 for one particle


def ema_energies(objective, x, lr, beta, eps, count):
    """``Hhat_k`` and ``<M_k, Orth(M_k)>`` of EMA-Muon."""

    @jax.jit
    def run(x, lr):
        def step(carry, _):
            x, m = carry
            m = beta * m + (1 - beta) * jax.grad(lambda x: objective.risk(x))(x)
            y = smoothed_polar(m, eps)
            x = x - lr * y
            energy = objective.risk(x) + lr * beta / (1 - beta) * smoothed_nuclear_norm(m, eps)
            return (x, m), (energy, jnp.sum(m * y), jnp.linalg.norm(m, 2))

        return jax.lax.scan(step, (x, jnp.zeros_like(x)), None, length=count)[1]

    energies, powers, sizes = run(x, jnp.asarray(lr))
    return np.concatenate([[objective.risk(x)], energies]), np.asarray(powers), np.asarray(sizes)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_the_descent_theorem_and_its_violation(x64, beta):
    eps = 0.2
    x = jnp.asarray(2 * particles(1, 3, 2)[0])
    bound = float(max_stable_lr(eps, 1.0))
    lr = 0.999 * bound
    energies, powers, _ = ema_energies(NONCONVEX, x, lr, beta, eps, 200)
    promised = energies[:-1] - lr * (1 - lr / (2 * eps)) * powers
    assert np.max(energies[1:] - promised) <= 1e-12
    energies, _, _ = ema_energies(NONCONVEX, x, 3 * bound, beta, eps, 200)
    assert np.max(np.diff(energies)) > 1e-3


def test_the_certified_discrete_rate_holds(x64):
    eps, beta, lr = 0.1, 0.5, 0.1

    def half(z):
        return jnp.sum((z - TARGET) ** 2) / 2

    energies, _, sizes = ema_energies(MeanFieldObjective(identity, half), jnp.zeros((3, 2)), lr, beta, eps, 150)
    factor = float(certified_discrete_rate(1.0, 1.0, eps, lr, beta, sizes.max()))
    assert factor < 1
    assert np.all(energies[2:] <= factor * energies[:-2] + 1e-12)


def test_friction_follows_the_schedule(x64):
    def rate(count):
        return 0.2 / (1 + count)

    x = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    gamma, eps = 1.5, 0.3
    tx = regularized_muon(rate, eps, gamma=gamma)
    state, momentum, ours, theirs = tx.init(x), jnp.zeros_like(x), x, x
    for k in range(4):
        updates, state = tx.update(ours, state, ours)
        ours = ours + updates
        beta = np.exp(-gamma * rate(k))
        momentum = beta * momentum + (1 - beta) * theirs
        theirs = theirs - rate(k) * smoothed_polar(momentum, eps)
    np.testing.assert_allclose(ours, theirs, atol=1e-14)
