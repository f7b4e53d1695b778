"""The leading mode of the tangent kernel approaches the edge of stability, at every width in muP."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC, single, spread
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import LinearConfig, simulate_linear, solve_linear

PARAMS = ("mup", "ntk")


@dataclass(frozen=True)
class Config:
    """Settings of the runs: one hidden layer, chosen so that the mode is isolated and ends near 1."""

    seed: int = 93
    nu: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)  # width over inputs
    alpha: float = 6.0
    gamma0: float = 4.0
    sigma2: float = 0.25
    eta: float = 0.2
    steps: int = 24
    times: tuple[int, ...] = (0, 2, 4, 6, 8, 12, 16, 20, 24)
    dimension: int = 160  # of the networks
    seeds: int = 24
    network_nu: tuple[float, ...] = (1.0, 4.0)


PRESETS = {"quick": Config(), "full": Config(dimension=1000, network_nu=(1.0, 2.0, 4.0, 8.0))}


class Result(NamedTuple):
    """What was measured, first axis: muP, NTK.

    Attributes:
        nu: widths over inputs, shape (W,).
        times: shape (T,).
        theory: eta times the leading eigenvalue over 2, shape (2, W, T).
        residual: of Lanczos, in the same units, shape (2, W, T).
        network_nu: widths at which networks were trained, shape (V,).
        simulated: the same number of networks, shape (2, V, seeds, T).
    """

    nu: Any
    times: Any
    theory: Any
    residual: Any
    network_nu: Any
    simulated: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    theory, residuals, simulated = [], [], []
    for index, param in enumerate(PARAMS):
        with progress.stage(f"theory, {param}"), jax.enable_x64(True):
            found = [_predict(config, param, nu) for nu in config.nu]
            theory.append(np.stack([top for top, _ in found]))
            residuals.append(np.stack([residual for _, residual in found]))
        with progress.stage(f"networks, {param}", total=len(config.network_nu)):
            simulated.append([_networks(config, param, nu, index, progress) for nu in config.network_nu])
    stacked = np.stack(theory), np.stack(residuals)
    return Result(
        np.array(config.nu), np.array(config.times), *stacked, np.array(config.network_nu), np.array(simulated)
    )


def _predict(config, param, nu):
    cfg = LinearConfig(1, nu, config.alpha, config.gamma0, config.eta, config.sigma2, param=param)
    solution = solve_linear(cfg, config.steps, ntk_times=config.times)
    return tuple(np.asarray(x) * config.eta / 2 for x in (solution.ntk_top, solution.ntk_residual))


def _networks(config, param, nu, index, progress):
    cfg = LinearConfig(1, nu, config.alpha, config.gamma0, config.eta, config.sigma2, param=param)
    keys = jax.random.split(jax.random.key(config.seed + index), config.seeds)

    def train(key):
        return simulate_linear(key, cfg, config.dimension, config.steps, config.times, top=1, ntk=True, sweeps=1)

    found = single(train, keys)
    progress.advance()
    return found.ntk_top * config.eta / 2


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    final, late = result.theory[..., -1], result.times >= 8
    rows = np.isin(result.nu, result.network_nu)
    error = np.abs(result.simulated.mean(axis=2) / result.theory[:, rows] - 1)
    return [
        Claim.at_most(
            "In muP the leading mode ends at the same place at every width",
            f"{PAPER}; {SPEC}",
            spread(final[0]),
            0.01,
            quantity="spread of eta lambda / 2 at the end",
        ),
        Claim.at_least("It ends near the edge of stability", SPEC, final[0], 0.9, quantity="eta lambda / 2 at the end"),
        Claim.at_most("and not beyond it", SPEC, final[0], 1.0, quantity="eta lambda / 2 at the end"),
        Claim.at_most(
            "In the NTK parameterisation it falls with width",
            f"{PAPER}; {SPEC}",
            final[1, -1] / final[1, 0],
            0.5,
            quantity="widest over narrowest at the end",
        ),
        Claim.at_most(
            "Networks agree from the eighth update on",
            SPEC,
            error[..., late],
            0.03,
            quantity="|theory - mean of networks| / theory",
        ),
        Claim.at_most(
            "Lanczos has converged once the mode is isolated",
            SPEC,
            result.residual[..., late],
            1e-3,
            quantity="residual from the eighth update on",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """The leading mode over time."""
    figure, axes = subplots(1, 2, size=(4.2, 3.4), sharey=True)
    for i, ax in enumerate(axes[0]):
        for j, nu in enumerate(result.nu):
            ax.plot(result.times, result.theory[i, j], color=COLORS[j % 7], label=f"N/D = {nu:g}")
            if nu in result.network_nu:
                found = result.simulated[i, list(result.network_nu).index(nu)]
                error = found.std(0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else None
                ax.errorbar(result.times, found.mean(0), error, fmt="o", color=COLORS[j % 7])
        ax.axhline(1, color=COLORS[6], ls=":")
        ax.set(xlabel="updates", ylabel="eta lambda_max / 2", title=("muP", "NTK")[i])
    axes[0, 0].legend()
    return {"The leading mode of the tangent kernel (dots: networks; dotted: edge of stability)": figure}
