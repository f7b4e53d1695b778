"""Warm starts from the solution of another method: iterations to the optimum on a photograph.

Read carefully: a good start about halves the iterations to moderate accuracy (1e-4 in squared relative distance); the
asymptotic rate is unchanged. A tensor alone helps only with a first penalty ten times larger; with 1 the first
thresholding wipes it out.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, LINES, subplots
from experiments.tensor_completion._problems import Problem, first_below, observe, photograph
from jaxspec.completion import WarmStart, complete_tensor, dual_from_low_rank, halrtc, mixture_nn_mf, silrtc

SOURCE = "specification, section 6.3"
DISTANCES = (1e-3, 1e-4, 1e-6)
COLD, NULL, SAME = "cold", "mixture, x only", "HaLRTC, duals"


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 30
    block: int = 4  # pixels averaged along each side of the photograph
    sampling: tuple[float, ...] = (0.1, 0.3)
    rho_scales: tuple[float, ...] = (1.0, 10.0)  # first penalty over its default
    silrtc_iterations: int = 60
    gamma: float = 0.1  # relaxation of SiLRTC and the mixture, times the size of the data
    mixture_rank: int = 20
    halrtc_iterations: int = 40
    completed_rank: int = 20  # rank at which duals are completed
    cap: int = 100  # iterations; a miss counts as this many
    optimum_tol: float = 1e-8  # relative residuals at which x* is taken
    optimum_iterations: int = 1500


PRESETS = {"quick": Config(), "full": Config(block=1, mixture_rank=60, completed_rank=60, cap=300)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        sampling: rates, shape (P,).
        starts: names, shape (W,); the first is the cold start.
        rho_scales: first penalty over its default, shape (R,).
        iterations: to the distances of `DISTANCES`, shape (P, W, R, 3); the cap where missed.
        start_distances: squared relative distance of the start from x*, shape (P, W).
        curves: squared relative distance from x* per iteration, shape (P, W, R, cap).
    """

    sampling: Any
    starts: Any
    rho_scales: Any
    iterations: Any
    start_distances: Any
    curves: Any


def run(config: Config, progress: Progress) -> Result:
    """Solves from every start at every rate and first penalty."""
    curves, distances, names = [], [], []
    with jax.enable_x64(True):
        pixels = jnp.asarray(photograph("china", config.block))
        with progress.stage("rates", total=len(config.sampling)):
            for index, sampling in enumerate(config.sampling):
                problem = observe(pixels, jax.random.key(config.seed + index), sampling)
                optimum = complete_tensor(
                    problem.data,
                    problem.mask,
                    tol=config.optimum_tol,
                    max_iter=config.optimum_iterations,
                    history=False,
                ).tensor
                starts = _starts(config, problem)
                names = [COLD, *starts]
                curves.append([_curves(config, problem, optimum, start) for start in (None, *starts.values())])
                cold = jnp.where(problem.mask, problem.data, 0)
                tensors = [cold, *(jnp.where(problem.mask, problem.data, start.x) for start in starts.values())]
                size = jnp.sum(optimum**2)
                distances.append([float(jnp.sum((x - optimum) ** 2) / size) for x in tensors])
                progress.advance(message=f"p = {sampling:g}")
    stacked = np.asarray(curves)
    iterations = np.stack([first_below(stacked, distance, config.cap) for distance in DISTANCES], axis=-1)
    rates, scales = np.asarray(config.sampling), np.asarray(config.rho_scales)
    return Result(rates, np.asarray(names), scales, iterations, np.asarray(distances), stacked)


def _starts(config: Config, problem: Problem) -> dict[str, WarmStart]:
    data, mask = problem.data, problem.mask
    size = float(jnp.sqrt(jnp.sum(jnp.where(mask, data, 0) ** 2) / jnp.sum(mask)))
    ranks = tuple(min(config.mixture_rank, side) for side in data.shape)
    # gamma multiplies squares where the weights multiply norms, so it goes with the inverse size of the data.
    gamma = config.gamma / size
    soft = silrtc(data, mask, gamma=gamma, tol=0.0, max_iter=config.silrtc_iterations, history=False)
    mixed = mixture_nn_mf(data, mask, ranks, (0, 1), gamma=gamma, history=False)
    grown = halrtc(data, mask, tol=0.0, rho=1e-2 / size, max_iter=config.halrtc_iterations, history=False)
    completed = tuple(min(config.completed_rank, side) for side in data.shape)
    return {
        NULL: WarmStart(mixed.tensor),
        "mixture, polar duals": WarmStart(mixed.tensor, "polar"),
        "mixture, completed duals": WarmStart(mixed.tensor, dual_from_low_rank(mixed.tensor, mask, completed)),
        "SiLRTC, x only": WarmStart(soft.tensor),
        "SiLRTC, duals": WarmStart(soft.tensor, soft.duals),
        SAME: WarmStart(grown.tensor, grown.duals),
    }


def _curves(config: Config, problem: Problem, optimum: jax.Array, start: WarmStart | None) -> list[np.ndarray]:
    rows = []
    for scale in config.rho_scales:
        result = complete_tensor(
            problem.data, problem.mask, init=start, rho_scale=scale, truth=optimum, tol=0.0, max_iter=config.cap
        )
        rows.append(np.asarray(result.history["nmse"]))
    return rows


def claims(result: Result) -> list[Claim]:
    """A warm start saves iterations to moderate accuracy, and what does not."""
    rows = []
    for p, sampling in enumerate(result.sampling):
        needed = result.iterations[p, :, :, 1].min(axis=-1)  # the better first penalty on both sides
        best = 1 + int(np.argmin(needed[1:]))
        statement = (
            f"Starting from another method's solution saves iterations to a squared distance of 1e-4 "
            f"(p = {sampling:g}; best start: {result.starts[best]}, whose own iterations are not counted)"
        )
        rows.append(Claim.at_most(statement, SOURCE, needed[best] / needed[0], 0.6, quantity="iterations, warm / cold"))
        relaxed = np.where(result.starts[1:] == SAME, np.inf, needed[1:])
        best = 1 + int(np.argmin(relaxed))
        statement = f"So does a method that solves another program (p = {sampling:g}; best: {result.starts[best]})"
        poor = "at p = 0.1 these methods end far from x*: a start that is no better than a cold one gains nothing"
        known = poor if sampling < 0.2 else ""
        ratio, quantity = needed[best] / needed[0], "iterations, warm / cold"
        rows.append(Claim.at_most(statement, SOURCE, ratio, 0.6, quantity=quantity, known_not_to_hold=known))
        null = result.iterations[p, result.starts.tolist().index(NULL), 0, 1] / result.iterations[p, 0, 0, 1]
        statement = (
            f"The other method's tensor alone is enough, without duals or a larger first penalty (p = {sampling:g})"
        )
        rows.append(
            Claim.at_most(
                statement,
                "abstract, read literally",
                null,
                0.6,
                quantity="iterations, warm / cold",
                known_not_to_hold="the first thresholding wipes out a start without duals",
            )
        )
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Distance from x* against iteration for every start."""
    figure, axes = subplots(1, len(result.sampling), size=(5.0, 3.6), sharey=True)
    for axis, sampling, curves in zip(axes[0], result.sampling, result.curves, strict=True):
        for color, name, rows in zip(COLORS, result.starts, curves, strict=False):
            for style, scale, curve in zip(LINES, result.rho_scales, rows, strict=False):
                axis.semilogy(curve, color=color, ls=style, label=f"{name}, x {scale:g}")
        axis.set(title=f"p = {sampling:g}", xlabel="iteration", xlim=(0, 120), ylim=(1e-9, 2))
    axes[0, 0].set_ylabel("squared relative distance from x*")
    axes[0, -1].legend(fontsize=7)
    return {"Warm starts on the photograph: distance from x*, by start and first penalty over its default": figure}
