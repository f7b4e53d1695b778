"""Outliers of a tanh network in the infinite-width theory and in networks of width 800."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC, single, trajectory
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import simulate_mlp, solve_nonlinear


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 70
    draws: int = 3  # of the data
    depth: int = 2
    points: int = 3
    dimension: int = 8
    steps: int = 13  # updates
    eta: float = 0.5
    gamma0: float = 2.0
    sigma_w: float = 0.8
    sites: int = 4096
    width: int = 800
    seeds: int = 3  # networks for each draw
    recorded: tuple[int, ...] = (1, 3, 5, 7, 9, 11, 13)  # updates shown


PRESETS = {
    "quick": Config(),
    "full": Config(
        depth=3, points=8, steps=29, sites=32768, width=4096, recorded=(1, 3, 5, 7, 9, 11, 13, 17, 21, 25, 29)
    ),
}


class Result(NamedTuple):
    """What was measured, for every draw of the data and every hidden matrix.

    Attributes:
        recorded: numbers of updates, shape (T,).
        theory: largest singular value, NaN inside the bulk, shape (draws, matrices, T).
        independent: the same for spikes independent of the bulk.
        edge: of the bulk.
        simulated: of networks, shape (draws, seeds, T, matrices).
        outputs: theory's outputs at the end, shape (draws, P).
        simulated_outputs: of the networks, shape (draws, seeds, P).
    """

    recorded: Any
    theory: Any
    independent: Any
    edge: Any
    simulated: Any
    outputs: Any
    simulated_outputs: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    drawn = [_draw(config, draw, progress) for draw in range(config.draws)]
    theory, independent, simulated, outputs, found = (np.stack(part) for part in zip(*drawn, strict=True))
    recorded = np.array(config.recorded)
    return Result(recorded, theory, independent, np.asarray(2 * config.sigma_w), simulated, outputs, found)


def _draw(config, draw, progress):
    data, sites, nets = jax.random.split(jax.random.key(config.seed + draw), 3)
    x = np.asarray(jax.random.normal(data, (config.points, config.dimension)))
    y = np.where(np.arange(config.points) % 2, -1.0, 1.0)
    options = {"depth": config.depth, "eta": config.eta, "gamma0": config.gamma0, "steps": config.steps}
    with progress.stage(f"theory, draw {draw}"), jax.enable_x64(True):
        points = jnp.asarray(x, float)
        kx = points @ points.T / config.dimension
        solution = solve_nonlinear(sites, kx, jnp.asarray(y), sigma_w=config.sigma_w, num_sites=config.sites, **options)
        times = jnp.array(config.recorded)
        theory = [np.asarray(trajectory(w, times)[0]) for w in solution.layers]
        independent = [np.asarray(trajectory(w.independent(), times)[0]) for w in solution.layers]
        outputs = np.asarray(solution.f[-1])

    def train(key):
        points, targets = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
        return simulate_mlp(
            key, points, targets, width=config.width, sigma_w=config.sigma_w, record=config.recorded, top=1, **options
        )

    with progress.stage(f"networks, draw {draw}"):
        found = single(train, jax.random.split(nets, config.seeds))
    return theory, independent, found.singular_values[..., 0], outputs, found.f[:, -1]


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    simulated = result.simulated[:, :, -1].mean(axis=1)
    theory, independent = result.theory[..., -1], result.independent[..., -1]
    wrong = np.where(np.isnan(independent), result.edge, independent)
    return [
        Claim.at_most(
            "The outlier of a nonlinear network follows the theory (three draws of the data)",
            f"{PAPER}; {SPEC}",
            np.abs(simulated / theory - 1),
            0.02,
            quantity="|theory - mean of networks| / theory, last update",
        ),
        Claim.at_least(
            "Spikes independent of the bulk are off by more than a tenth",
            SPEC,
            np.abs(wrong / simulated - 1),
            0.1,
            quantity="relative error, last update",
        ),
        Claim.at_most(
            "The outputs follow the theory",
            PAPER,
            np.abs(result.simulated_outputs.mean(axis=1) - result.outputs),
            0.05,
            quantity="|theory - mean of networks|, last update",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Theory lines over networks, a panel a draw."""
    draws, matrices, _ = result.theory.shape
    figure, axes = subplots(matrices, draws, size=(3.6, 3.2))
    times = result.recorded
    for draw in range(draws):
        for m in range(matrices):
            ax, found = axes[m, draw], result.simulated[draw, :, :, m]
            ax.plot(times, result.theory[draw, m], color=COLORS[0], label="theory")
            ax.plot(times, result.independent[draw, m], "--", color=COLORS[1], label="independent spikes")
            ax.axhline(float(result.edge), color=COLORS[6], ls=":", label="edge of the bulk")
            error = found.std(0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else None
            ax.errorbar(times, found.mean(0), error, fmt="o", color=COLORS[3], label="networks")
            ax.set(xlabel="updates", ylabel=f"largest singular value of W{m + 1}", title=f"data {draw}")
    axes[0, 0].legend()
    return {"A tanh network: theory and networks (bars: standard error over seeds)": figure}
