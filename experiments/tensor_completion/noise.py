"""Noisy data: error against the weight lam, for several signal-to-noise ratios, and the weight chosen by hold-out.

The exact program fits the noise; the noisy one trades fit against the regulariser. The best lam is not known outside of
a simulation, so the choice by hold-out is measured beside it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from experiments.tensor_completion._problems import Problem, tucker
from jaxspec.completion import choose_lam, complete_tensor
from jaxspec.completion.metrics import nmse
from jaxspec.completion.tensor import lambda_max

SOURCE = "specification, section 6, full preset (beyond the abstract)"


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 50
    side: int = 20  # of the cubic tensor
    rank: int = 2  # Tucker rank in every mode
    sampling: float = 0.5  # share observed
    snr: tuple[float, ...] = (10.0, 20.0, 40.0)  # signal-to-noise ratio, dB
    points: int = 9  # values of lam / lambda_max, from 1 to 1e-3
    tol: float = 1e-6  # relative residuals
    max_iter: int = 500


PRESETS = {"quick": Config(), "full": Config(side=100, rank=10, snr=(10.0, 20.0, 30.0, 40.0), points=19)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        snr: signal-to-noise ratios in dB, shape (R,).
        ratios: lam / lambda_max, descending, shape (L,).
        nmse: error over all entries against the truth without noise, shape (R, L).
        exact: error of the exact program, shape (R,).
        chosen: error at the lam chosen by hold-out, shape (R,).
        chosen_ratio: that lam / lambda_max, shape (R,).
        noise_level: root mean square hold-out error over the true noise standard deviation, shape (R,).
    """

    snr: Any
    ratios: Any
    nmse: Any
    exact: Any
    chosen: Any
    chosen_ratio: Any
    noise_level: Any


def run(config: Config, progress: Progress) -> Result:
    """Completes every noisy tensor at every lam, exactly, and at the chosen lam."""
    with jax.enable_x64(True):
        ratios = jnp.logspace(0, -3, config.points)
        rows = [_measure(config, ratio, ratios) for ratio in progress.track("signal-to-noise ratios", config.snr)]
    curves, *columns = (np.asarray(column) for column in zip(*rows, strict=True))
    return Result(np.asarray(config.snr), np.asarray(ratios), curves, *columns)


def _measure(config: Config, snr: float, ratios: jax.Array) -> tuple:
    key, hold_out_key = jax.random.split(jax.random.key(config.seed))
    deviation = 10 ** (-snr / 20)  # the signal has root mean square 1
    problem = tucker(key, (config.side,) * 3, (config.rank,) * 3, config.sampling, noise=deviation)
    largest = lambda_max(problem.data, problem.mask)
    curve = sweep(lambda lam: _error(config, problem, lam), largest * ratios)
    exact = _error(config, problem, None)
    choice = choose_lam(problem.data, problem.mask, key=hold_out_key, lams=largest * ratios)
    chosen = _error(config, problem, choice.lam)
    return curve, float(exact), float(chosen), float(choice.lam / largest), float(choice.hold_out_error / deviation)


def _error(config: Config, problem: Problem, lam: Any) -> jax.Array:
    options = {"tol": config.tol, "max_iter": config.max_iter, "history": False, "validate": False}
    return nmse(complete_tensor(problem.data, problem.mask, lam=lam, **options).tensor, problem.truth)


def claims(result: Result) -> list[Claim]:
    """A weight in the right place halves the error of the exact program in noise, and hold-out finds it."""
    best = result.nmse.min(axis=-1)
    noisy = result.snr <= 20
    return [
        Claim.at_most(
            "In noise the best lam beats the exact program (SNR up to 20 dB)",
            SOURCE,
            best[noisy] / result.exact[noisy],
            0.75,
            quantity="NMSE, best lam / exact",
        ),
        Claim.at_most(
            "The lam chosen by hold-out comes close to the best one",
            SOURCE,
            result.chosen / best,
            1.5,
            quantity="NMSE, chosen / best",
        ),
        Claim.at_least(
            "The hold-out error is an upper estimate of the noise level",
            SOURCE,
            result.noise_level,
            0.95,
            quantity="hold-out error / noise level",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Error against lam, one curve per signal-to-noise ratio, with the chosen lam and the exact program."""
    figure, axes = subplots(size=(5.4, 3.8))
    axis = axes[0, 0]
    for color, snr, curve, exact, chosen, ratio in zip(
        COLORS, result.snr, result.nmse, result.exact, result.chosen, result.chosen_ratio, strict=False
    ):
        axis.loglog(result.ratios, curve, color=color, label=f"{snr:g} dB")
        axis.axhline(exact, color=color, ls=":")
        axis.plot(ratio, chosen, "o", color=color)
    axis.set(xlabel="lam / lambda_max", ylabel="NMSE against the truth without noise")
    axis.legend(title="SNR; dotted: exact; dot: chosen by hold-out")
    return {"Error against the weight of the regulariser in noise": figure}
