"""Measured tensors: held-out error of the convex completion, which must equal that of converged HaLRTC.

The tensors ship inside tensorly: IL-2 response (13 x 4 x 12 x 8, 3.8% missing), COVID-19 serology (438 x 6 x 11), a
fluorescence time course and a hyperspectral image. Both methods solve the same convex program, so only their cost can
differ.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, ORANGE, subplots
from experiments.tensor_completion._problems import real_tensor
from jaxspec.completion import complete_tensor, halrtc
from jaxspec.completion.metrics import nmse

SOURCE = "specification, section 6.5"
REFERENCE = {"il2": 0.0535, "covid": 0.1787, "kinetic": 0.001227, "pines": 0.00842}


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 3
    tensors: tuple[str, ...] = ("il2", "covid")
    sampling: tuple[float, ...] = (0.7, 0.7)  # share of the measured entries that is observed, one per tensor
    tol: float = 1e-6  # relative residuals of our solver
    halrtc_rho: float = 0.01  # first penalty of HaLRTC, data of root mean square 1
    halrtc_tol: float = 1e-9  # relative change at which HaLRTC counts as converged
    max_iter: int = 1000


PRESETS = {
    "quick": Config(),
    "full": Config(tensors=("il2", "covid", "kinetic", "pines"), sampling=(0.7, 0.7, 0.3, 0.2)),
}


class Result(NamedTuple):
    """What was measured, one entry per tensor.

    Attributes:
        tensors: names.
        sampling: share of the measured entries that was observed.
        nmse: held-out error of ours.
        halrtc_nmse: held-out error of HaLRTC.
        iterations: of ours.
        halrtc_iterations: of HaLRTC.
        gap: relative duality gap of ours.
        converged: whether ours met its tolerance.
    """

    tensors: Any
    sampling: Any
    nmse: Any
    halrtc_nmse: Any
    iterations: Any
    halrtc_iterations: Any
    gap: Any
    converged: Any


def run(config: Config, progress: Progress) -> Result:
    """Completes every tensor by both methods."""
    rows = []
    with jax.enable_x64(True):
        for name, sampling in progress.track("tensors", zip(config.tensors, config.sampling, strict=True)):
            rows.append((name, sampling, *_measure(config, name, sampling)))
    return Result(*(np.asarray(column) for column in zip(*rows, strict=True)))


def _measure(config: Config, name: str, sampling: float) -> tuple:
    tensor = jnp.asarray(real_tensor(name))
    measured = jnp.isfinite(tensor)
    mask = measured & jax.random.bernoulli(jax.random.key(config.seed), sampling, tensor.shape)
    held_out = measured & ~mask
    ours = complete_tensor(tensor, mask, tol=config.tol, max_iter=config.max_iter, certificate=True, history=False)
    theirs = halrtc(tensor, mask, rho=config.halrtc_rho, tol=config.halrtc_tol, max_iter=config.max_iter, history=False)
    errors = [float(nmse(result.tensor, tensor, held_out)) for result in (ours, theirs)]
    iterations = [int(result.info.iterations) for result in (ours, theirs)]
    return *errors, *iterations, float(ours.info.gap), bool(ours.info.converged)


def claims(result: Result) -> list[Claim]:
    """Both methods agree, and ours is certified."""
    rows = []
    for name, error, peer, gap in zip(result.tensors, result.nmse, result.halrtc_nmse, result.gap, strict=True):
        statement = f"At convergence the held-out error equals HaLRTC's: the program is the same ({name})"
        rows.append(Claim.at_most(statement, SOURCE, abs(error / peer - 1), 1e-3, quantity="relative difference"))
        rows.append(Claim.at_most(f"The optimum is certified ({name})", SOURCE, gap, 1e-4, quantity="relative gap"))
        statement = f"The held-out error is that of the specification's prototype, on another random mask ({name})"
        rows.append(Claim.close_to(statement, SOURCE, error / REFERENCE[str(name)], 1.0, 0.2, quantity="ratio"))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Iterations of both methods on every tensor."""
    figure, axes = subplots()
    places = np.arange(len(result.tensors))
    axes[0, 0].bar(places - 0.2, result.iterations, 0.4, label="this", color=BLUE)
    axes[0, 0].bar(places + 0.2, result.halrtc_iterations, 0.4, label="HaLRTC, converged", color=ORANGE)
    labels = [f"{name}\nNMSE {error:.3g}" for name, error in zip(result.tensors, result.nmse, strict=True)]
    axes[0, 0].set_xticks(places, labels)
    axes[0, 0].set_ylabel("iterations")
    axes[0, 0].legend()
    return {"Iterations to the common optimum on measured tensors, with the held-out error": figure}
