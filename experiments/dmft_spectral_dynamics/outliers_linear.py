"""Singular values of deep linear networks leave the bulk when and where the theory says."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC, deviation, settled, single, trajectory
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import LinearConfig, simulate_linear, solve_linear

ROWS = (LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5, 0.2), LinearConfig(2, 1.0, 3.0, 3.0, 0.08, 0.5))


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 2605
    dimension: int = 400  # inputs
    seeds: int = 10
    steps: int = 24  # updates
    recorded: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)  # updates after which spectra are taken


PRESETS = {"quick": Config(), "full": Config(dimension=2000, seeds=16)}


class Result(NamedTuple):
    """What was measured, for the three matrices: W1 of one hidden layer, W1 and W2 of two.

    Attributes:
        theory: largest singular value after 1, 2, ... updates, NaN inside the bulk, shape (3, steps).
        margin: escape margin, shape (3, steps).
        independent: prediction for spikes independent of the bulk, shape (3, steps).
        edges: of the bulk, shape (3,).
        recorded: numbers of updates at which networks were measured, shape (K,).
        simulated: largest singular value of finite networks, shape (3, seeds, K).
    """

    theory: Any
    margin: Any
    independent: Any
    edges: Any
    recorded: Any
    simulated: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    theory, margins, independent, edges, simulated = [], [], [], [], []
    for index, row in enumerate(ROWS):
        with progress.stage(f"theory, depth {row.depth}"), jax.enable_x64(True):
            times = jnp.arange(1, config.steps + 1)
            for fields in solve_linear(row, config.steps).layers:
                value, margin = trajectory(fields, times)
                theory.append(value)
                margins.append(margin)
                independent.append(trajectory(fields.independent(), times)[0])
                edges.append(np.sqrt(row.sigma2) * (1 + np.sqrt(float(fields.aspect))))
        with progress.stage(f"networks, depth {row.depth}"):
            keys = jax.random.split(jax.random.key(config.seed + index), config.seeds)

            def train(key, row=row):
                return simulate_linear(key, row, config.dimension, config.steps, config.recorded, top=1)

            found = single(train, keys).singular_values[..., 0]
            simulated.extend(np.moveaxis(found, 2, 0))
    stacked = (np.stack([np.asarray(a) for a in rows]) for rows in (theory, margins, independent))
    return Result(*stacked, np.array(edges), np.array(config.recorded), np.stack(simulated))


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    at = result.recorded - 1
    quiet = settled(result.theory, result.margin)[:, at]
    errors = np.stack([deviation(t[at], s) for t, s in zip(result.theory, result.simulated, strict=True)])
    inside = (result.margin[:, at] < -0.3)[:, None] & np.ones_like(result.simulated, bool)
    last = np.abs(result.independent[0, -1] / result.simulated[0, :, -1].mean() - 1)
    names = ("W1 of one hidden layer", "W1 of two", "W2 of two")
    return [
        *(
            Claim.at_most(
                f"Outliers follow the dressed theory: {name}",
                f"{PAPER}; {SPEC}",
                errors[i][quiet[i]],
                0.02,
                quantity="mean |theory - network| / theory, outside and not steep",
            )
            for i, name in enumerate(names)
        ),
        Claim.at_least(
            "Spikes independent of the bulk are the wrong answer (one hidden layer, last update)",
            SPEC,
            last,
            0.05,
            quantity="relative error",
        ),
        Claim.at_most(
            "Nothing leaves the bulk long before the theory's escape",
            PAPER,
            (result.simulated / result.edges[:, None, None])[inside],
            1.03,
            quantity="largest singular value over the edge where the margin is below -0.3",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Theory lines over networks."""
    figure, axes = subplots(1, 3, size=(3.6, 3.3))
    times = np.arange(1, result.theory.shape[1] + 1)
    for i, (ax, name) in enumerate(zip(axes[0], ("W1, L = 1", "W1, L = 2", "W2, L = 2"), strict=True)):
        ax.plot(times, result.theory[i], color=COLORS[0], label="theory")
        ax.plot(times, result.independent[i], "--", color=COLORS[1], label="independent spikes")
        ax.axhline(result.edges[i], color=COLORS[6], ls=":", label="edge of the bulk")
        found = result.simulated[i]
        error = found.std(0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else None
        ax.errorbar(result.recorded, found.mean(0), error, fmt="o", color=COLORS[3], label="networks")
        ax.set(xlabel="updates", ylabel="largest singular value", title=name)
    axes[0, 0].legend()
    return {"Escape of outliers, theory and networks (bars: standard error over seeds)": figure}
