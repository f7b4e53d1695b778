"""The objective rises while the energy falls: one quadratic, four pairs of floor and friction, exact rates.

Near a minimum with curvature mu the gap decays at the rate ``2 Re r``, ``r = gamma/2 - (gamma^2/4 - mu/eps)^(1/2)``.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.muon_flow._problems import PAPER, QUADRATIC, TARGET
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.flow import fit_exponential_rate, hamiltonian_flow, integrate


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 0  # unused: the problem is deterministic
    eps: tuple[float, ...] = (0.1, 0.1, 0.1, 1.0)
    gamma: tuple[float, ...] = (0.5, 2.0, 10.0, 4.0)  # per unit of time, paired with eps
    time: float = 40.0
    steps: int = 8000
    starts: int = 8  # trajectories of the phase portrait
    portrait_steps: int = 400


PRESETS = {"quick": Config(), "full": Config(steps=32000, starts=16)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        eps: floors, shape (C,).
        gamma: frictions, shape (C,).
        time: shape (T,).
        objective: J, shape (C, T).
        hamiltonian: H, shape (C, T).
        rates: fitted rates of H, shape (C,).
        exact: rates of the linearisation, shape (C,).
        portrait_position: singular value's coordinate along trajectories, shape (starts, P).
        portrait_momentum: its momentum, shape (starts, P).
    """

    eps: Any
    gamma: Any
    time: Any
    objective: Any
    hamiltonian: Any
    rates: Any
    exact: Any
    portrait_position: Any
    portrait_momentum: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True), progress.stage("four pairs and a portrait"):
        return _run(config)


def _run(config):
    origin = jnp.zeros((1, *TARGET.shape))

    def energies(eps, gamma):
        flow = hamiltonian_flow(QUADRATIC, eps=eps, gamma=gamma)
        seen = integrate(flow, flow.init(origin), dt=config.time / config.steps, num_steps=config.steps)[1]
        return seen.objective, seen.hamiltonian

    eps, gamma = np.array(config.eps), np.array(config.gamma)
    objective, hamiltonian = sweep(energies, jnp.asarray(eps), jnp.asarray(gamma))
    time = np.linspace(0, config.time, config.steps + 1)
    rates = np.array([fit_exponential_rate(time, h).rate for h in hamiltonian])
    exact = 2 * (gamma / 2 - np.sqrt(np.array(gamma**2 / 4 - 1 / eps, complex))).real
    return Result(eps, gamma, time, objective, hamiltonian, rates, exact, *_portrait(config))


def _portrait(config):
    """One 1x1 particle in ``x^2 / 2`` from several starts: the plane of one singular value."""
    flow = hamiltonian_flow(QUADRATIC._replace(risk=_parabola), eps=config.eps[0], gamma=config.gamma[0])
    angles = 2 * np.pi * np.arange(config.starts) / config.starts

    def path(x, p):
        def step(state, _):
            return flow.step(state, 0.02), (state.position[0, 0, 0], state.momentum[0, 0, 0])

        start = flow.init(x.reshape(1, 1, 1), momentum=p.reshape(1, 1, 1))
        return jax.lax.scan(step, start, None, length=config.portrait_steps)[1]

    return sweep(path, jnp.asarray(2 * np.cos(angles)), jnp.asarray(2 * np.sin(angles)))


def _parabola(z):
    return jnp.sum(z**2) / 2


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    rising = np.sum(np.diff(result.objective[0]) > 0)
    spec = "specification, sections 2.5 and 2.7f, E2"
    return [
        Claim.at_least("The objective itself rises on many steps", spec, rising, 1000, quantity="steps"),
        Claim.at_most(
            "The energy never rises", PAPER, np.diff(result.hamiltonian).max(), 1e-15, quantity="largest rise of H"
        ),
        Claim.close_to(
            "The energy decays at the rate of the linearisation", spec, result.rates / result.exact, 1.0, 0.01
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Decay of both, and the phase portrait."""
    figure, axes = subplots(1, 2, size=(4.6, 3.6))
    for k, color in zip(range(len(result.eps)), COLORS, strict=False):
        label = f"eps = {result.eps[k]:g}, gamma = {result.gamma[k]:g}"
        axes[0, 0].semilogy(result.time, np.maximum(result.hamiltonian[k], 1e-24), color=color, label=label)
        axes[0, 0].semilogy(result.time, np.maximum(result.objective[k], 1e-24), color=color, lw=0.6)
    axes[0, 0].set(xlabel="time", ylabel="H (thick) and J (thin)")
    axes[0, 0].legend()
    for x, p, color in zip(result.portrait_position, result.portrait_momentum, np.resize(COLORS, 99), strict=False):
        axes[0, 1].plot(x, p, color=color, lw=1)
        axes[0, 1].plot(x[:1], p[:1], "o", color=color)
    axes[0, 1].set(xlabel="singular value", ylabel="its momentum")
    return {"The objective rises while the energy falls; phase portrait of one singular value": figure}
