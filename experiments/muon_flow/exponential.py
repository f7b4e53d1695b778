"""Exponential decay: fitted rates, the rates of the linearisation, and the certificates that must lie below.

A tanh layer whose target another layer realises, so that the least objective is 0; and EMA-Muon on a quadratic.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.muon_flow._problems import PAPER, TARGET, HalfMean, TanhFeature, cosine_inputs, particles
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.flow import (
    MeanFieldObjective,
    certified_discrete_rate,
    certified_rate,
    fit_exponential_rate,
    force,
    hamiltonian_flow,
    integrate,
)
from jaxspec.linalg import smoothed_nuclear_norm, smoothed_polar

SPEC = "specification, section 2.7 and E3"


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 0  # of the power iteration that measures L
    rows: int = 2
    columns: int = 4
    points: int = 8  # data
    particles: int = 32
    eps: tuple[float, ...] = (0.1, 0.01, 0.1, 1.0)
    gamma: tuple[float, ...] = (0.5, 1.0, 2.0, 0.5)  # paired with eps
    time: float = 150.0
    h: float = 0.05
    chunk: int = 50  # steps between points at which constants are measured
    power_steps: int = 30
    discrete: tuple[tuple[float, float], ...] = ((0.9, 0.1), (0.5, 0.198), (0.99, 0.1))  # (beta, learning rate)
    discrete_steps: int = 6000


PRESETS = {"quick": Config(), "full": Config(particles=1024, time=400.0)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        eps: floors, shape (C,).
        gamma: frictions, shape (C,).
        time: shape (T,).
        objective: J, shape (C, T).
        hamiltonian: H, shape (C, T).
        rates: fitted rates of H and of J, shape (2, C).
        mu: gradient dominance along the path, shape (C,).
        local: rate of the linearisation at that mu, shape (C,).
        certificate: certified rate from measured constants, shape (C,).
        excess: largest ``J / (2 E(0) exp(-certificate t))``, shape (C,).
        betas: decays of the discrete runs, shape (D,).
        factors: fitted factor of ``J + lr beta/(1 - beta) Phi`` per step, shape (D,).
        descent: largest violation of the descent inequality, shape (D,).
        discrete_excess: largest violation of the certified factor, shape (D,).
    """

    eps: Any
    gamma: Any
    time: Any
    objective: Any
    hamiltonian: Any
    rates: Any
    mu: Any
    local: Any
    certificate: Any
    excess: Any
    betas: Any
    factors: Any
    descent: Any
    discrete_excess: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True):
        paths = [
            _path(config, eps, gamma)
            for eps, gamma in progress.track("continuous", list(zip(config.eps, config.gamma, strict=True)))
        ]
        discrete = [_discrete(config, beta, lr) for beta, lr in progress.track("discrete", config.discrete)]
    objective, hamiltonian, rates, mu, local, certificate, excess = (np.array(a) for a in zip(*paths, strict=True))
    time = np.arange(objective.shape[1]) * config.h * config.chunk / 10
    factors, descent, discrete_excess = (np.array(a) for a in zip(*discrete, strict=True))
    return Result(
        np.array(config.eps),
        np.array(config.gamma),
        time,
        objective,
        hamiltonian,
        rates.T,
        mu,
        local,
        certificate,
        excess,
        np.array([beta for beta, _ in config.discrete]),
        factors,
        descent,
        discrete_excess,
    )


def _problem(config):
    inputs = jnp.asarray(cosine_inputs(config.points, config.columns))
    feature = TanhFeature(inputs)
    teacher = jnp.asarray(np.cos(3 * particles(64, config.rows, config.columns)))
    return MeanFieldObjective(feature, HalfMean(jnp.mean(jax.vmap(feature)(teacher), axis=0)))


def _path(config, eps, gamma):
    """One trajectory with the constants of its certificate, measured at the ends of the chunks."""
    flow = hamiltonian_flow(_problem(config), eps=eps, gamma=gamma)
    state = flow.init(jnp.asarray(0.7 * particles(config.particles, config.rows, config.columns)))
    objective, hamiltonian, constants, largest = [], [], [], 0.0
    direction = jax.random.normal(jax.random.key(config.seed), state.position.shape)
    for _ in range(round(config.time / config.h / config.chunk)):
        state, seen = integrate(flow, state, dt=config.h, num_steps=config.chunk, save_every=config.chunk // 10)
        skip = 1 if objective else 0
        objective.append(np.asarray(seen.objective)[skip:])
        hamiltonian.append(np.asarray(seen.hamiltonian)[skip:])
        largest = max(largest, float(seen.momentum_max.max()))
        if float(seen.objective[-1]) > 1e-18:  # below, the quotients are rounding
            constants.append([float(c) for c in _constants(flow, state, direction, config.power_steps)])
    objective, hamiltonian = np.concatenate(objective), np.concatenate(hamiltonian)
    time = np.arange(len(objective)) * config.h * config.chunk / 10
    rates = [fit_exponential_rate(time, values).rate for values in (hamiltonian, objective)]
    mu, kappa, lipschitz = (f(c) for f, c in zip((min, max, max), zip(*constants, strict=True), strict=True))
    local = 2 * (gamma / 2 - np.sqrt(complex(gamma**2 / 4 - mu / eps))).real
    certificate = float(certified_rate(mu, lipschitz, eps, gamma, largest, kappa))
    excess = float(np.max(objective / (2 * objective[0] * np.exp(-certificate * time))))
    return objective, hamiltonian, rates, mu, local, certificate, excess


@eqx.filter_jit
def _constants(flow, state, direction, steps):
    """``E|G|^2 / 2J``, ``E D^2 J[Y, P] / E <P, Y>`` and the largest curvature, at one state."""
    x = state.position

    def mean(a, b):
        return jnp.mean(jnp.sum(a * b, axis=(-2, -1)))

    def curvature(v):
        return jax.jvp(lambda x: force(flow.objective, x), (x,), (v,))[1]

    value = flow.energy(state) - jnp.mean(smoothed_nuclear_norm(state.momentum, flow.eps))
    velocity = flow.vector_field(0.0, (x, state.momentum))[0]
    kappa = mean(curvature(velocity), state.momentum) / mean(velocity, state.momentum)

    def power(v, _):
        w = curvature(v / jnp.sqrt(mean(v, v)))
        return w, jnp.sqrt(mean(w, w))

    sizes = jax.lax.scan(power, direction, None, length=steps)[1]
    return mean(state.force, state.force) / (2 * value), kappa, sizes[-1]


def _discrete(config, beta, lr, eps=0.1):
    """EMA-Muon on the quadratic: factor of the energy per step, and what the two inequalities are short of."""

    def step(carry, _):
        x, m = carry
        m = beta * m + (1 - beta) * (x - TARGET)
        y = smoothed_polar(m, eps, engine="closed")
        x = x - lr * y
        energy = jnp.sum((x - TARGET) ** 2) / 2 + lr * beta / (1 - beta) * smoothed_nuclear_norm(m, eps)
        return (x, m), (energy, jnp.sum(m * y), jnp.linalg.norm(m))

    start = jnp.zeros(TARGET.shape)
    first = np.sum(TARGET**2) / 2
    seen = jax.jit(lambda c: jax.lax.scan(step, c, None, length=config.discrete_steps)[1])((start, start))
    energy, power, size = (np.asarray(a) for a in seen)
    energy = np.concatenate([[first], energy])
    short = energy[1:] - (energy[:-1] - lr * (1 - lr / (2 * eps)) * power)
    factor = float(certified_discrete_rate(1.0, 1.0, eps, lr, beta, size.max()))
    # Hhat and not J, which comes close to 0 twice in every turn of the complex mode.
    fit = fit_exponential_rate(np.arange(len(energy)), energy)
    return np.exp(-fit.rate), short.max(), np.max(energy[2:] - factor * energy[:-2])


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    fast, slow = slice(0, 2), slice(2, None)
    expected = result.gamma[fast]
    found = [
        Claim.close_to(
            "Underdamped, energy and objective decay at the rate of the friction",
            SPEC,
            result.rates[:, fast] / expected,
            1.0,
            0.02,
            quantity="fitted rate / gamma",
        ),
        Claim.at_most("Both reach zero", SPEC, result.objective[fast, -1], 1e-20, quantity="J at the end"),
        Claim.at_least(
            "Overdamped, the decay is faster than certified",
            SPEC,
            result.rates[0, slow] / result.certificate[slow],
            1.0,
            quantity="fitted / certified rate",
        ),
        Claim.at_most(
            "The objective converges exponentially, below the certificate at all times",
            f"{PAPER}; {SPEC}",
            result.excess,
            1.0,
            quantity="J / certificate",
        ),
        Claim.close_to(
            "EMA-Muon: the gap falls by the factor beta in a step",
            SPEC,
            result.factors - result.betas,
            0.0,
            1e-3,
            quantity="factor - beta",
        ),
        Claim.at_most("The descent inequality holds", SPEC, result.descent, 1e-12, quantity="violation"),
        Claim.at_most("The certified discrete factor holds", SPEC, result.discrete_excess, 1e-12, quantity="violation"),
    ]
    if result.time[-1] >= 400:
        late = result.rates[0, slow] / result.local[slow]
        found.append(Claim.close_to("Slow modes reach the rate of the linearisation", SPEC, late, 1.0, 0.2))
    return found


def figures(result: Result) -> dict[str, Figure]:
    """The gap with its certificate and its local rate."""
    figure, axes = subplots(1, len(result.eps), size=(3.6, 3.2), sharey=True)
    for k, axis in enumerate(axes[0]):
        gap = np.maximum(result.objective[k], 1e-30)
        axis.semilogy(result.time, gap, color=COLORS[0], label="J")
        axis.semilogy(result.time, np.maximum(result.hamiltonian[k], 1e-30), color=COLORS[1], lw=0.8, label="H")
        bound = 2 * gap[0] * np.exp(-result.certificate[k] * result.time)
        axis.semilogy(result.time, bound, "--", color=COLORS[3], label="certificate")
        local = gap[0] * np.exp(-result.local[k] * result.time)
        axis.semilogy(result.time, np.maximum(local, 1e-30), ":", color=COLORS[6], label="local rate")
        axis.set(xlabel="time", title=f"eps = {result.eps[k]:g}, gamma = {result.gamma[k]:g}", ylim=(1e-26, None))
    axes[0, 0].legend()
    return {"The gap, its certificate and the rate of the linearisation": figure}
