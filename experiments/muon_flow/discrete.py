"""EMA-Muon as a discretisation of the flow: orders, the free second-order readout, and the certified step."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.muon_flow._problems import TARGET, orders, particles, run_in_chunks, tanh_problem
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, LINES, MARKERS, subplots
from jaxspec.flow import force, half_step_readout, hamiltonian_flow
from jaxspec.linalg import smoothed_nuclear_norm, smoothed_polar
from jaxspec.optim import regularized_muon

SPEC = "specification, section 2.7a-c and E5"
FORMS = ("exp(-gamma h)", "1 - gamma h")


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 11  # start of the runs of the stability map
    eps: float = 0.1  # of the flow; gamma eps of the momentum average
    gamma: float = 1.0
    time: float = 4.0
    counts: tuple[int, ...] = (20, 40, 80, 160, 320)  # steps, multiples of the first
    map_eps: float = 0.2
    map_betas: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99)
    map_ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.999, 1.25, 1.5, 2.0, 3.0, 4.0)  # learning rate L / (2 eps)
    map_steps: int = 400
    map_starts: int = 4


PRESETS = {"quick": Config(), "full": Config(map_steps=4000, map_starts=64)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        counts: numbers of steps, shape (C,).
        errors: root mean square error of the parameters at the end, by form of beta, shape (2, C).
        readouts: the same of the half-step readout, shape (2, C).
        symmetric: largest distance of the readout from drift-kick-drift.
        betas: of the map, shape (B,).
        ratios: learning rate over the certified bound, shape (R,).
        rises: largest rise of Hhat in a step over steps and starts, shape (B, R).
        excess: largest violation of the descent inequality, shape (B, R).
    """

    counts: Any
    errors: Any
    readouts: Any
    symmetric: Any
    betas: Any
    ratios: Any
    rises: Any
    excess: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    objective = tanh_problem(3, 4, 16)
    start = jnp.asarray(particles(16, 3, 4))
    flow = hamiltonian_flow(objective, eps=config.eps, gamma=config.gamma, method="suzuki4", polar_engine="gram_ns")
    last = config.counts[-1]
    with progress.stage("reference"):
        exact = run_in_chunks(
            flow, flow.init(start), dt=config.time / last, num_steps=last, chunk=config.counts[0]
        ).state.position
    errors, readouts = [], []
    advance = _optimiser(config, objective)
    for exponential in progress.track("orders", (True, False)):
        for count in config.counts:
            h = config.time / count
            beta = np.exp(-config.gamma * h) if exponential else 1 - config.gamma * h
            x, m = start, jnp.zeros_like(start)
            for _ in range(count // config.counts[0]):
                x, m = advance(x, m, h, beta)
            read = half_step_readout(x, m, h, config.gamma * config.eps)
            errors.append(_distance(x, exact))
            readouts.append(_distance(read, exact))
    shape = (2, len(config.counts))
    with progress.stage("map"):
        rises, excess = _stability_map(config)
    return Result(
        np.array(config.counts),
        np.reshape(errors, shape),
        np.reshape(readouts, shape),
        np.asarray(_symmetric(config, objective, start)),
        np.array(config.map_betas),
        np.array(config.map_ratios),
        rises,
        excess,
    )


def _optimiser(config, objective):
    """Twenty steps of the optax transformation, whose gradients are those of the mean over particles."""

    def loss(x):
        return objective.risk(jnp.mean(jax.vmap(objective.feature)(x), axis=0))

    @jax.jit
    def advance(x, m, h, beta):
        tx = regularized_muon(h, config.gamma * config.eps, beta=beta, particle_axis=0)
        # The momentum is the only state that matters: without bias correction the count is not read.
        state = jax.tree.map(lambda new: m if new.shape == m.shape else new, tx.init(x))

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(jax.grad(loss)(x), state, x)
            return (x + updates, state), None

        (x, state), _ = jax.lax.scan(step, (x, state), None, length=config.counts[0])
        return x, next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == m.shape)

    return advance


def _symmetric(config, objective, start, steps=8):
    """Distance between the readout and the symmetric scheme, step by step."""
    h = config.time / config.counts[0]
    beta, eps = np.exp(-config.gamma * h), config.eps

    def step(carry, _):
        x, m, y, p = carry
        m = beta * m + (1 - beta) * force(objective, x)
        x = x - h * smoothed_polar(m, config.gamma * eps)
        middle = y + h / 2 * smoothed_polar(p, eps)
        p = beta * p - (1 - beta) / config.gamma * force(objective, middle)
        y = middle + h / 2 * smoothed_polar(p, eps)
        apart = jnp.max(jnp.abs(half_step_readout(x, m, h, config.gamma * eps) - y))
        return (x, m, y, p), apart

    zero = jnp.zeros_like(start)
    return jnp.max(jax.jit(lambda c: jax.lax.scan(step, c, None, length=steps)[1])((start, zero, start, zero)))


def _stability_map(config):
    """``J = sum(1 - cos(X - A))``, L = 1: largest rise of Hhat, and of Hhat beyond the theorem's bound."""
    eps = config.map_eps

    def one(beta, ratio, x):
        lr = 2 * eps * ratio

        def step(carry, _):
            x, m, energy = carry
            m = beta * m + (1 - beta) * jnp.sin(x - TARGET)
            y = smoothed_polar(m, eps, engine="closed")
            x = x - lr * y
            new = jnp.sum(1 - jnp.cos(x - TARGET)) + lr * beta / (1 - beta) * smoothed_nuclear_norm(m, eps)
            return (x, m, new), (new - energy, new - energy + lr * (1 - ratio) * jnp.sum(m * y))

        start = (x, jnp.zeros_like(x), jnp.sum(1 - jnp.cos(x - TARGET)))
        rises, excess = jax.lax.scan(step, start, None, length=config.map_steps)[1]
        return rises.max(), excess.max()

    starts = 3 * jax.random.normal(jax.random.key(config.seed), (config.map_starts, *TARGET.shape))
    over_starts = jax.vmap(one, (None, None, 0))
    grid = jax.vmap(jax.vmap(over_starts, (None, 0, None)), (0, None, None))
    found = jax.jit(grid)(jnp.asarray(config.map_betas), jnp.asarray(config.map_ratios), starts)
    return tuple(np.asarray(a).max(axis=-1) for a in found)


def _distance(x, exact):
    return float(jnp.sqrt(jnp.mean((x - exact) ** 2)))


def claims(result: Result) -> list[Claim]:
    """What the specification says."""
    inside = result.ratios < 1
    beyond = result.ratios == 3
    return [
        Claim.close_to(
            "EMA-Muon follows the flow at order 1, with either form of beta",
            SPEC,
            orders(result.errors)[:, -2:],
            1.0,
            0.15,
            quantity="observed order",
        ),
        Claim.close_to(
            "Half a step back, with beta = exp(-gamma h), it is of order 2",
            SPEC,
            orders(result.readouts[0])[-2:],
            2.0,
            0.15,
            quantity="observed order",
        ),
        Claim.close_to(
            "With beta = 1 - gamma h the readout stays of order 1",
            SPEC,
            orders(result.readouts[1])[-2:],
            1.0,
            0.15,
            quantity="observed order",
        ),
        Claim.at_most(
            "The readout is the drift-kick-drift scheme", SPEC, result.symmetric, 1e-13, quantity="largest distance"
        ),
        Claim.at_most(
            "Up to lr = 0.999 times 2 eps / L the descent inequality holds for every beta",
            SPEC,
            result.excess[:, inside],
            1e-12,
            quantity="violation",
        ),
        Claim.at_least(
            "At three times the bound the energy rises, for every beta",
            SPEC,
            result.rises[:, beyond],
            1e-3,
            quantity="largest rise",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Orders, and the map of the step bound."""
    figure, axes = subplots(1, 2, size=(4.6, 3.6))
    for k, (form, line) in enumerate(zip(FORMS, LINES, strict=False)):
        for values, name, color in ((result.errors, "parameters", COLORS[0]), (result.readouts, "readout", COLORS[3])):
            label = f"{name}, beta = {form}"
            axes[0, 0].loglog(result.counts, values[k], marker=MARKERS[k], ls=line, color=color, label=label)
    axes[0, 0].set(xlabel="steps", ylabel="root mean square error")
    axes[0, 0].set_xticks(result.counts, [str(count) for count in result.counts])
    axes[0, 0].minorticks_off()
    axes[0, 0].legend()
    for k in range(len(result.betas)):
        falls = result.rises[k] <= 1e-12
        for chosen, color, marker in ((falls, COLORS[2], "o"), (~falls, COLORS[3], "X")):
            axes[0, 1].scatter(result.ratios[chosen], np.full(chosen.sum(), k), color=color, marker=marker)
    axes[0, 1].axvline(1.0, color="grey", ls=":")
    axes[0, 1].set(xscale="log", xlabel="learning rate L / (2 eps)", ylabel="beta", title="o: Hhat falls in every step")
    axes[0, 1].set_xticks(result.ratios, [f"{ratio:g}" for ratio in result.ratios], rotation=60)
    axes[0, 1].minorticks_off()
    axes[0, 1].set_yticks(range(len(result.betas)), [f"{beta:g}" for beta in result.betas])
    return {"Orders of EMA-Muon, and where its energy falls in every step": figure}
