"""The best learning rate is the same at every width in muP, and moves with width in the NTK parameterisation."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import LinearConfig, solve_linear

PARAMS = ("mup", "ntk")


@dataclass(frozen=True)
class Config:
    """Settings of the sweep."""

    seed: int = 0  # unused: the theory is deterministic
    depth: int = 1
    nu: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 32.0)  # width over inputs
    alpha: float = 6.0
    gamma0: float = 4.0
    sigma2: float = 0.25
    steps: int = 16
    least: float = 0.02  # learning rates, geometric
    largest: float = 1.2
    rates: int = 13


PRESETS = {"quick": Config(), "full": Config(depth=2, rates=49)}


class Result(NamedTuple):
    """What was computed, first axis: muP, NTK.

    Attributes:
        eta: learning rates, shape (E,).
        nu: widths over inputs, shape (W,).
        loss: training loss at the end, infinite where it diverged, shape (2, W, E).
    """

    eta: Any
    nu: Any
    loss: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only: one vmap over the whole grid for each parameterisation."""
    eta = np.geomspace(config.least, config.largest, config.rates)
    losses = []
    for param in PARAMS:

        def final(nu, eta, param=param):
            cfg = LinearConfig(config.depth, nu, config.alpha, config.gamma0, eta, config.sigma2, param=param)
            return solve_linear(cfg, config.steps).train[-1]

        with progress.stage(param), jax.enable_x64(True):
            grid = jnp.meshgrid(jnp.array(config.nu), jnp.asarray(eta), indexing="ij")
            losses.append(np.asarray(jax.jit(jax.vmap(jax.vmap(final)))(*grid)))
    loss = np.stack(losses)
    return Result(eta, np.array(config.nu), np.where(np.isfinite(loss), loss, np.inf))


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    best = result.loss.argmin(axis=-1)
    return [
        Claim.at_most(
            "In muP the best learning rate does not move with width",
            f"{PAPER}; {SPEC}",
            np.ptp(best[0]),
            0,
            quantity="grid steps between the best rates",
        ),
        Claim.at_least(
            "In the NTK parameterisation it moves",
            f"{PAPER}; {SPEC}",
            best[1].max() - best[1].min(),
            2,
            quantity="grid steps between the best rates",
        ),
        Claim.at_least(
            "and upwards from width to width", SPEC, np.diff(best[1]), 1, quantity="grid steps from width to width"
        ),
        Claim.at_least(
            "The best rate lies inside the sweep",
            SPEC,
            np.minimum(best, len(result.eta) - 1 - best),
            1,
            quantity="grid steps from its ends",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Loss against learning rate."""
    figure, axes = subplots(1, 2, size=(4.2, 3.4), sharey=True)
    for i, ax in enumerate(axes[0]):
        for j, nu in enumerate(result.nu):
            shown = np.where(result.loss[i, j] < 10, result.loss[i, j], np.nan)
            ax.loglog(result.eta, shown, color=COLORS[j % 7], label=f"N/D = {nu:g}")
            best = result.loss[i, j].argmin()
            ax.plot(result.eta[best], result.loss[i, j, best], "o", color=COLORS[j % 7])
        ax.set(xlabel="learning rate", ylabel="training loss at the end", title=("muP", "NTK")[i])
    axes[0, 0].legend()
    return {"Learning-rate transfer in the theory (dots: best rate)": figure}
