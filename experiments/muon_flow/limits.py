"""Two limits of the flow: no regularisation (hard Muon, sub-sequentially) and no inertia (a first-order flow)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.muon_flow._problems import PAPER, orders, particles, tanh_problem
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from jaxspec.flow import force, hamiltonian_flow, integrate
from jaxspec.linalg import polar, smoothed_polar

SPEC = "specification, sections 2.1, 2.5 and E8"


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 0  # unused: the problem is deterministic
    time: float = 1.0
    steps: int = 4000
    eps: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
    gamma: float = 1.0  # with those
    gammas: tuple[float, ...] = (10.0, 20.0, 40.0, 80.0, 160.0)
    floor: float = 0.1  # gamma eps with these
    reference_steps: int = 400  # of the classical Runge-Kutta method


PRESETS = {"quick": Config(), "full": Config(steps=16000, reference_steps=2000)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        eps: floors, descending, shape (E,).
        differences: root mean square distance of the ends at successive floors, shape (E - 1,).
        shares: kinetic energy over the nuclear norm of the momentum at the least floor.
        gammas: frictions, shape (G,).
        errors: root mean square distance from the first-order flow, shape (G,).
    """

    eps: Any
    differences: Any
    shares: Any
    gammas: Any
    errors: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    objective = tanh_problem(3, 4, 16)
    start = jnp.asarray(particles(16, 3, 4))

    def end(eps, gamma):
        flow = hamiltonian_flow(objective, eps=eps, gamma=gamma, polar_engine="svd")
        last, seen = integrate(
            flow, flow.init(start), dt=config.time / config.steps, num_steps=config.steps, save_every=config.steps
        )
        return last.position, last.momentum, seen.kinetic[-1]

    gammas = np.array(config.gammas)
    eps = np.concatenate([config.eps, config.floor / gammas])
    friction = np.concatenate([np.full(len(config.eps), config.gamma), gammas])
    with progress.stage("flows"):
        x, p, kinetic = (np.asarray(a) for a in jax.jit(jax.vmap(end))(jnp.asarray(eps), jnp.asarray(friction)))
    hard = len(config.eps)
    nuclear = np.mean(np.sum(np.asarray(polar(jnp.asarray(p[hard - 1]), engine="svd")) * p[hard - 1], axis=(-2, -1)))
    with progress.stage("first-order flow"):
        slow = np.asarray(_first_order(config, objective, start))
    return Result(
        np.array(config.eps),
        _rms(x[1:hard] - x[: hard - 1]),
        np.asarray(kinetic[hard - 1] / nuclear),
        gammas,
        _rms(x[hard:] - slow),
    )


def _first_order(config, objective, start):
    """``dX/dt = -Orth(G)`` by the classical Runge-Kutta method."""
    h = config.time / config.reference_steps

    def velocity(x):
        return -smoothed_polar(force(objective, x), config.floor, engine="svd")

    def step(x, _):
        a = velocity(x)
        b = velocity(x + h / 2 * a)
        c = velocity(x + h / 2 * b)
        d = velocity(x + h * c)
        return x + h / 6 * (a + 2 * b + 2 * c + d), None

    return jax.jit(lambda x: jax.lax.scan(step, x, None, length=config.reference_steps)[0])(start)


def _rms(apart):
    return np.sqrt(np.mean(apart**2, axis=(-3, -2, -1)))


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    late = result.differences[result.eps[:-1] <= 0.03]
    return [
        Claim.at_most(
            "As eps falls the flows approach each other: a hard limit",
            f"{PAPER}; {SPEC}",
            late[1:] / late[:-1],
            1.0,
            quantity="ratio of successive differences, eps <= 0.03",
        ),
        Claim.at_least(
            "The kinetic energy becomes the nuclear norm", SPEC, result.shares, 0.98, quantity="K / nuclear norm"
        ),
        Claim.close_to(
            "Large friction at fixed gamma eps leads to the first-order flow, at order 1 in 1/gamma",
            SPEC,
            orders(result.errors),
            1.0,
            0.05,
            quantity="observed order",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Both limits."""
    figure, axes = subplots(1, 2, size=(4.2, 3.4))
    axes[0, 0].loglog(result.eps[:-1], result.differences, marker=MARKERS[0], color=COLORS[0])
    axes[0, 0].set(xlabel="eps", ylabel="distance from the next smaller eps")
    axes[0, 1].loglog(result.gammas, result.errors, marker=MARKERS[1], color=COLORS[1])
    axes[0, 1].loglog(result.gammas, result.errors[0] * result.gammas[0] / result.gammas, ":", color="grey")
    axes[0, 1].set(xlabel="gamma", ylabel="distance from the first-order flow")
    return {"The hard limit and the limit without inertia (dotted: order 1)": figure}
