"""Outliers agree across widths in the muP parameterisation and do not in the NTK one."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC, single, spread, trajectory
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import LinearConfig, simulate_linear, solve_linear

PARAMS = ("mup", "ntk")


@dataclass(frozen=True)
class Config:
    """Settings of the runs: one hidden layer."""

    seed: int = 411
    nu: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)  # width over inputs
    alpha: float = 3.0
    gamma0: float = 2.0
    sigma2: float = 0.5
    eta: float = 0.12
    steps: int = 30
    dimension: int = 150  # of the networks
    seeds: int = 10
    network_nu: tuple[float, ...] = (1.0, 4.0)
    times: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 18, 24, 30)  # updates shown, the last one last


PRESETS = {"quick": Config(), "full": Config(dimension=1000, network_nu=(1.0, 2.0, 4.0, 8.0))}


class Result(NamedTuple):
    """What was measured, first axis: muP, NTK; second: widths.

    Attributes:
        nu: widths over inputs, shape (W,).
        times: numbers of updates, shape (T,).
        theory: largest singular value of W_1 / sqrt N, shape (2, W, T).
        margin: escape margin at the end, shape (2, W).
        network_nu: widths at which networks were trained, shape (V,).
        simulated: the largest singular value of networks at the end, shape (2, V, seeds).
    """

    nu: Any
    times: Any
    theory: Any
    margin: Any
    network_nu: Any
    simulated: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    theory, margins, simulated = [], [], []
    times = np.array(config.times)
    for index, param in enumerate(PARAMS):
        with progress.stage(f"theory, {param}"), jax.enable_x64(True):
            found = [_predict(config, param, nu) for nu in config.nu]
            theory.append(np.stack([values for values, _ in found]))
            margins.append(np.stack([margin for _, margin in found]))
        with progress.stage(f"networks, {param}", total=len(config.network_nu)):
            simulated.append([_networks(config, param, nu, index, progress) for nu in config.network_nu])
    stacked = np.stack(theory), np.stack(margins)
    return Result(np.array(config.nu), times, *stacked, np.array(config.network_nu), np.array(simulated))


def _predict(config, param, nu):
    cfg = LinearConfig(1, nu, config.alpha, config.gamma0, config.eta, config.sigma2, param=param)
    values, margins = trajectory(solve_linear(cfg, config.steps).layers[0], jnp.array(config.times))
    return np.asarray(values) / np.sqrt(nu), np.asarray(margins)[-1]


def _networks(config, param, nu, index, progress):
    cfg = LinearConfig(1, nu, config.alpha, config.gamma0, config.eta, config.sigma2, param=param)
    keys = jax.random.split(jax.random.key(config.seed + index), config.seeds)
    found = single(lambda key: simulate_linear(key, cfg, config.dimension, config.steps, (config.steps,), top=1), keys)
    progress.advance()
    return found.singular_values[:, 0, 0, 0] / np.sqrt(nu)


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    final = result.theory[..., -1]
    rows = np.isin(result.nu, result.network_nu)
    error = np.abs(result.simulated.mean(axis=-1) / final[:, rows] - 1)
    return [
        Claim.at_most(
            "muP outliers agree across widths", f"{PAPER}; {SPEC}", spread(final[0]), 0.07, quantity="spread at the end"
        ),
        Claim.at_least(
            "NTK-parameterised outliers do not",
            f"{PAPER}; {SPEC}",
            spread(final[1]),
            0.35,
            quantity="spread at the end",
        ),
        Claim.at_most(
            "Networks of both parameterisations agree with the theory",
            SPEC,
            error[result.margin[:, rows] > 0.3],
            0.02,
            quantity="|theory - mean of networks| / theory, margin above 0.3",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Outliers over time."""
    figure, axes = subplots(1, 2, size=(4.2, 3.4), sharey=True)
    times = result.times
    for i, ax in enumerate(axes[0]):
        for j, nu in enumerate(result.nu):
            ax.plot(times, result.theory[i, j], color=COLORS[j % 7], label=f"N/D = {nu:g}")
            if nu in result.network_nu:
                found = result.simulated[i, list(result.network_nu).index(nu)]
                error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
                ax.errorbar(times[-1:], [found.mean()], [error], fmt="o", color=COLORS[j % 7])
        ax.set(xlabel="updates", ylabel="largest singular value of W1 / sqrt N", title=("muP", "NTK")[i])
    axes[0, 0].legend()
    return {"Outliers at several widths (dots: networks at the end)": figure}
