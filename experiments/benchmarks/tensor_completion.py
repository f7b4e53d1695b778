"""Tensor completion against NumPy HaLRTC and tensorly's masked decompositions.

HaLRTC is tuned: its first penalty is a tenth of ours, since at its published 1e-6 the first hundred iterations
threshold everything to zero and a truncated product has nothing to multiply.
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import numpy as np
import tensorly
from tensorly import decomposition

from experiments.benchmarks.frame import Contestant, Row, at_most, compile_at_most, faster, time_at_most
from experiments.benchmarks.peers import first_penalty, halrtc, svt_gram, svt_lapack
from experiments.tensor_completion._problems import Problem, observe, photograph, tucker
from jaxspec.completion import TensorCompletion, complete_tensor

SAMPLING = 0.3
ITERATIONS = 80
LAPACK_ITERATIONS = 8  # the cost of an iteration hardly changes, and these are slow
BATCH, BATCH_SIDE, BATCH_RANK, BATCH_SAMPLING = 16, 15, 2, 0.7


def iteration_row(shape: tuple[int, int, int]) -> Row:
    """Time per iteration on a synthetic tensor of Tucker rank at most (5, 5, 5)."""
    ranks = tuple(min(side, 5) for side in shape)
    data = f"Tucker rank {ranks}, {SAMPLING:.0%} observed"
    return _iteration_row(tucker(jax.random.key(0), shape, ranks, SAMPLING), data)


def photograph_row() -> Row:
    """Time per iteration on a photograph, whose spectrum falls slowly."""
    pixels = jax.numpy.asarray(photograph("china", 4), jax.numpy.float32)
    return _iteration_row(observe(pixels, jax.random.key(0), SAMPLING), f"photograph, {SAMPLING:.0%} observed")


def solve_row() -> Row:
    """A whole solve, against methods that are told the true rank."""
    problem = tucker(jax.random.key(0), (50, 50, 50), (5, 5, 5), SAMPLING)
    truth, observed = np.asarray(problem.truth), np.asarray(problem.mask, np.float32)
    data = truth * observed
    arguments = {"mask": observed, "random_state": 0, "return_errors": True}

    def tensorly_quality(rebuild: Callable[[Any], np.ndarray], output: Any) -> dict[str, float]:
        result, errors = output
        return {"NMSE": _nmse(rebuild(result), truth), "iterations": len(errors)}

    peers = {
        "tensorly_tucker": Contestant(
            partial(decomposition.tucker, data, rank=[5, 5, 5], tol=1e-5, n_iter_max=200, **arguments),
            "tensorly.decomposition.tucker(mask=), true rank (5, 5, 5) given, tol 1e-5, at most 200 iterations",
            quality=partial(tensorly_quality, tensorly.tucker_to_tensor),
        ),
        "tensorly_parafac": Contestant(
            partial(decomposition.parafac, data, rank=5, tol=1e-8, n_iter_max=200, **arguments),
            "tensorly.decomposition.parafac(mask=), rank 5, tol 1e-8, at most 200 iterations; five terms cannot "
            "represent this tensor",
            quality=partial(tensorly_quality, tensorly.cp_to_tensor),
        ),
    }
    ours = Contestant(
        partial(complete_tensor, problem.data, problem.mask, tol=1e-5, history=False),
        "complete_tensor, default policy, tol 1e-5, no rank given",
        quality=lambda result: {
            "NMSE": _nmse(result.tensor, truth),
            "iterations": int(result.info.iterations),
        },
    )
    measured = f"Whole completion of 50×50×50 float32, Tucker rank (5, 5, 5), {SAMPLING:.0%} observed"
    return Row(measured, ours, peers, "solve", (time_at_most(0.3), compile_at_most(2.0)))


def batch_row() -> Row:
    """Many small problems in one vmapped call, against a loop of single calls.

    Enough is observed for every one of them to converge: one that does not would be all that a batch measures.
    """
    keys = jax.random.split(jax.random.key(0), BATCH)
    shape, ranks = (BATCH_SIDE,) * 3, (BATCH_RANK,) * 3
    problems = jax.vmap(lambda key: tucker(key, shape, ranks, BATCH_SAMPLING))(keys)
    singles = _entries(problems)
    truth = np.asarray(problems.truth)

    def solve(data: jax.Array, mask: jax.Array) -> TensorCompletion:
        return complete_tensor(data, mask, tol=1e-5, history=False)

    def quality(results: list[TensorCompletion]) -> dict[str, float]:
        return {
            "largest NMSE": max(_nmse(one.tensor, true) for one, true in zip(results, truth, strict=True)),
            "most iterations": max(int(one.info.iterations) for one in results),
        }

    ours = Contestant(
        partial(jax.jit(jax.vmap(solve)), problems.data, problems.mask),
        "jit(vmap(complete_tensor)), default policy, tol 1e-5; all wait for the slowest",
        quality=lambda batch: quality(_entries(batch)),
    )
    loop = Contestant(
        lambda: [jax.block_until_ready(solve(single.data, single.mask)) for single in singles],
        "the same calls one after the other, compiled before",
        quality=quality,
    )
    measured = (
        f"{BATCH} completions of {BATCH_SIDE}×{BATCH_SIDE}×{BATCH_SIDE} float32, Tucker rank {ranks}, "
        f"{BATCH_SAMPLING:.0%} observed"
    )
    return Row(measured, ours, {"python_loop": loop}, "batch", (at_most("python_loop", 1.0),))


def _iteration_row(problem: Problem, data: str) -> Row:
    tensor, mask, truth = (np.asarray(part) for part in (problem.data, problem.mask, problem.truth))
    solve = partial(halrtc, tensor, mask, rho=0.1 * first_penalty(tensor, mask), growth=1.05)
    tuned = "first penalty a tenth of ours, growth 1.05"

    def quality(result: Any) -> dict[str, float]:
        return {"NMSE": _nmse(result.tensor, truth)}

    ours = Contestant(
        partial(complete_tensor, problem.data, problem.mask, tol=0.0, max_iter=ITERATIONS, history=False),
        f"complete_tensor, default policy, svt auto, {ITERATIONS} iterations, no history",
        work=lambda result: int(result.info.iterations),
        quality=quality,
    )
    peers = {
        "numpy_gram": Contestant(
            partial(solve, svt=svt_gram, iterations=ITERATIONS),
            f"HaLRTC, Gram matrix and truncated product, {tuned}, {ITERATIONS} iterations",
            work=lambda result: result.iterations,
            quality=quality,
        ),
        "numpy_svd": Contestant(
            partial(solve, svt=svt_lapack, iterations=LAPACK_ITERATIONS),
            f"HaLRTC, LAPACK SVD as in the published codes, {tuned}, {LAPACK_ITERATIONS} iterations",
            work=lambda result: result.iterations,
        ),
    }
    measured = f"One iteration of tensor completion, {'×'.join(map(str, mask.shape))} float32, {data}"
    return Row(measured, ours, peers, "iteration", (at_most("numpy_gram", 0.5), faster("numpy_svd", 15)))


def _entries(batch: Any) -> list[Any]:
    return [jax.tree.map(itemgetter(index), batch) for index in range(BATCH)]


def _nmse(x: Any, truth: np.ndarray) -> float:
    return float(np.sum((np.asarray(x) - truth) ** 2) / np.sum(truth**2))


ROWS: dict[str, Callable[[], Row]] = {
    "iteration_50x50x50": partial(iteration_row, (50, 50, 50)),
    "iteration_40x50x60": partial(iteration_row, (40, 50, 60)),
    "iteration_100x160x3": partial(iteration_row, (100, 160, 3)),
    "iteration_photograph": photograph_row,
    "solve_50x50x50": solve_row,
    "batch_15x15x15": batch_row,
}
