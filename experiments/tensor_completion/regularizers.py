"""Tensor-train, square and tubal nuclear norms where the sum of nuclear norms fails."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from experiments.tensor_completion._problems import Problem, observe
from jaxspec.completion import complete_tensor

SOURCE = "specification, section 6.6 (beyond the paper)"
CASES = (
    ("tensor train", "snn"),
    ("tensor train", "square"),
    ("tensor train", "tt"),
    ("tubal", "snn"),
    ("tubal", "tubal"),
)


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 0
    train_side: int = 10  # side of the four-way tensor
    train_rank: int = 3  # its tensor-train rank
    train_sampling: float = 0.4  # share observed
    tubal_sides: tuple[int, int, int] = (30, 30, 20)
    tubal_rank: int = 3
    tubal_sampling: float = 0.5
    tol: float = 1e-8  # relative residuals
    max_iter: int = 500


PRESETS = {
    "quick": Config(),
    "full": Config(train_side=20, tubal_sides=(100, 100, 40), tubal_rank=8, train_rank=4, max_iter=1000),
}


class Result(NamedTuple):
    """What was measured, one entry per case of `CASES`.

    Attributes:
        tensors: kind of low-rank tensor.
        regularizers: name of the regulariser.
        nmse: final error, over all entries.
        iterations: done.
        converged: whether the residuals met the tolerance.
        curves: error per iteration, shape (cases, max_iter), NaN after the end.
    """

    tensors: Any
    regularizers: Any
    nmse: Any
    iterations: Any
    converged: Any
    curves: Any


def tensor_train(key: PRNGKeyArray, side: int, rank: int, sampling: float) -> Problem:
    """Four-way tensor with Gaussian tensor-train cores, scaled to root mean square 1."""
    *keys, mask_key = jax.random.split(key, 5)
    ranks = (1, rank, rank, rank, 1)
    cores = [jax.random.normal(k, (ranks[i], side, ranks[i + 1])) for i, k in enumerate(keys)]
    x = jnp.einsum("aib,bjc,ckd,dle->ijkl", *cores)
    return observe(x / jnp.sqrt(jnp.mean(x**2)), mask_key, sampling)


def low_tubal_rank(key: PRNGKeyArray, sides: tuple[int, int, int], rank: int, sampling: float) -> Problem:
    """t-product of two Gaussian tensors (a product of matrices on every Fourier slice), root mean square 1."""
    left_key, right_key, mask_key = jax.random.split(key, 3)
    left = jnp.fft.rfft(jax.random.normal(left_key, (sides[0], rank, sides[2])), axis=2)
    right = jnp.fft.rfft(jax.random.normal(right_key, (rank, sides[1], sides[2])), axis=2)
    x = jnp.fft.irfft(jnp.einsum("irk,rjk->ijk", left, right), n=sides[2], axis=2)
    return observe(x / jnp.sqrt(jnp.mean(x**2)), mask_key, sampling)


def run(config: Config, progress: Progress) -> Result:
    """Completes both tensors with every regulariser of `CASES`."""
    with jax.enable_x64(True):
        train_key, tubal_key = jax.random.split(jax.random.key(config.seed))
        problems = {
            "tensor train": tensor_train(train_key, config.train_side, config.train_rank, config.train_sampling),
            "tubal": low_tubal_rank(tubal_key, config.tubal_sides, config.tubal_rank, config.tubal_sampling),
        }
        rows = []
        for kind, regularizer in progress.track("regularisers", CASES):
            truth, data, mask = problems[kind]
            result = complete_tensor(
                data, mask, regularizer=regularizer, truth=truth, tol=config.tol, max_iter=config.max_iter
            )
            curve = np.asarray(result.history["nmse"])
            last = int(result.info.iterations)
            rows.append((curve[last - 1], last, bool(result.info.converged), curve))
    nmse, iterations, converged, curves = (np.asarray(column) for column in zip(*rows, strict=True))
    kinds, names = (np.asarray(column) for column in zip(*CASES, strict=True))
    return Result(kinds, names, nmse, iterations, converged, curves)


def claims(result: Result) -> list[Claim]:
    """Each regulariser recovers its own kind of tensor, and the sum of nuclear norms does not."""
    rows = []
    for kind, name, nmse, iterations in zip(*result[:4], strict=True):
        if name == "snn":
            statement = f"The sum of nuclear norms does not recover the {kind} tensor"
            rows.append(Claim.at_least(statement, SOURCE, nmse, 0.1, quantity="NMSE"))
        else:
            statement = f"The {name} regulariser recovers the {kind} tensor ({iterations} iterations)"
            rows.append(Claim.at_most(statement, SOURCE, nmse, 1e-10, quantity="NMSE"))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Error against iteration for every case."""
    kinds: list[str] = list(dict.fromkeys(result.tensors.tolist()))
    figure, axes = subplots(1, len(kinds))
    for axis, kind in zip(axes[0], kinds, strict=True):
        _lines(axis, result, result.tensors == kind)
        axis.set(title=f"low {kind} rank", xlabel="iteration")
    axes[0, 0].set_ylabel("NMSE")
    return {"Error of each regulariser on the tensor that it, or another, was made for": figure}


def _lines(axis: Any, result: Result, chosen: np.ndarray) -> None:
    for color, case in zip(COLORS, np.flatnonzero(chosen), strict=False):
        axis.semilogy(result.curves[case], color=color, label=str(result.regularizers[case]))
    axis.legend()
