"""When the first outlier escapes: stronger feature learning earlier, larger initial weights later."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from jaxspec.dmft import LinearConfig, escape_time, solve_linear


@dataclass(frozen=True)
class Config:
    """Settings of the sweep: one hidden layer."""

    seed: int = 0  # unused: the theory is deterministic
    nu: float = 2.0
    alpha: float = 4.0
    eta: float = 0.08
    steps: int = 20
    gamma0: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    sigma2: tuple[float, ...] = (0.25, 0.5, 1.0)


PRESETS = {
    "quick": Config(),
    "full": Config(steps=100, gamma0=(0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0), sigma2=(0.25, 0.35, 0.5, 0.7, 1.0)),
}


class Result(NamedTuple):
    """What was computed.

    Attributes:
        gamma0: ascending, shape (A,).
        sigma2: ascending, shape (B,).
        times: first number of updates with an outlier; infinite: never within the run, shape (A, B).
    """

    gamma0: Any
    sigma2: Any
    times: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only: one vmap over the whole grid."""

    def first(gamma0, sigma2):
        cfg = LinearConfig(1, config.nu, config.alpha, gamma0, config.eta, sigma2)
        return escape_time(solve_linear(cfg, config.steps))

    with progress.stage("sweep"), jax.enable_x64(True):
        grid = jnp.meshgrid(jnp.array(config.gamma0), jnp.array(config.sigma2), indexing="ij")
        times = jax.jit(jax.vmap(jax.vmap(first)))(*grid)
    return Result(np.array(config.gamma0), np.array(config.sigma2), np.asarray(times))


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    capped = np.where(np.isinf(result.times), 1e6, result.times)
    return [
        Claim.at_most(
            "Feature learning makes outliers escape earlier",
            f"{PAPER}; {SPEC}",
            np.diff(capped, axis=0),
            0,
            quantity="rise of the escape time with gamma0",
        ),
        Claim.at_least(
            "Larger initial weights make outliers escape later",
            SPEC,
            np.diff(capped, axis=1),
            0,
            quantity="rise of the escape time with sigma2",
        ),
        Claim.at_least(
            "The sweep meets both regimes",
            SPEC,
            min(np.isinf(result.times).sum(), np.isfinite(result.times).sum()),
            2,
            quantity="cases with and without an outlier",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Escape times."""
    figure, axes = subplots(1, 1, size=(5.0, 3.4))
    for i, sigma2 in enumerate(result.sigma2):
        times = np.where(np.isinf(result.times[:, i]), np.nan, result.times[:, i])
        axes[0, 0].plot(result.gamma0, times, marker=MARKERS[i % 7], color=COLORS[i % 7], label=f"sigma2 = {sigma2:g}")
    axes[0, 0].set(xlabel="gamma0", ylabel="updates until the first outlier", xscale="log")
    axes[0, 0].legend()
    return {"Escape times (no marker: none within the run)": figure}
