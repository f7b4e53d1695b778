"""Feasibility and largest margin of associative memories against general solvers, and how capacity and memory grow.

Everybody solves the same instance at 0.8 of the critical number of pairs, in double precision. The peers see it as
``p (p - 1)`` explicit rows of ``d^2`` numbers; writing these down is not part of their time.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import osqp
from scipy import sparse
from scipy.optimize import linprog, nnls
from sklearn.svm import LinearSVC

from experiments.benchmarks.frame import Contestant, Row, at_most, faster, in_double
from jaxspec.memory import Associations, capacity, check_feasible, max_margin, sample_associations
from jaxspec.memory.feasibility import _check
from jaxspec.memory.lists import Limits
from jaxspec.memory.theory import critical_p

LOAD = 0.8
AIMS = {12: (at_most("nnls", 1.0),), 20: (faster("nnls", 5), faster("osqp", 20))}


def margin_row(d: int) -> Row:
    """The largest margin."""
    a, A = _instance(d)
    ours = Contestant(
        in_double(partial(max_margin, a)),
        "max_margin, relative gap 1e-3, proved",
        quality=lambda found: {"margin": float(found.lower), "gap": float(found.gap)},
    )
    margin = partial(_margin_quality, A)
    peers = {
        "nnls": Contestant(
            partial(_nnls, A), "scipy.optimize.nnls, distance of the convex hull from 0", quality=margin
        ),
        "osqp": Contestant(
            partial(_osqp, A), "OSQP, absolute and relative tolerance 1e-5, set-up included", quality=margin
        ),
        "liblinear": Contestant(
            partial(_liblinear, A), "scikit-learn LinearSVC, hinge loss, C = 1e4, no intercept", quality=margin
        ),
    }
    return Row(
        f"Largest margin, d = {d}, p = {len(a.x)}, original model, Gaussian", ours, peers, "solve", AIMS.get(d, ())
    )


def feasibility_row(d: int) -> Row:
    """Whether the pairs can be recalled."""
    a, A = _instance(d)
    ours = Contestant(
        in_double(partial(check_feasible, a)),
        "check_feasible, proved",
        quality=lambda found: {"status": int(found.status)},
    )
    peers = {
        "highs": Contestant(
            partial(_highs, A), "scipy.optimize.linprog, HiGHS, largest min A w with |w| <= 1 entry by entry",
            quality=lambda least: {"status": 1 if least > 1e-9 else -1},
        )
    }  # fmt: skip
    return Row(f"Feasibility, d = {d}, p = {len(a.x)}, original model, Gaussian", ours, peers, "solve")


def capacity_row(dimensions: tuple[int, ...], num_seeds: int) -> Row:
    """Capacity by bisection at several d, and the exponent fitted to the time of a seed."""
    key = jax.random.key(0)
    for d in dimensions:  # compiled before anything is timed
        capacity(key, d, num_seeds=num_seeds)

    def call() -> list[tuple[float, Any]]:
        out = []
        for d in dimensions:
            start = time.perf_counter()
            found = jax.block_until_ready(capacity(key, d, num_seeds=num_seeds))
            out.append(((time.perf_counter() - start) / num_seeds, found))
        return out

    def quality(out: list[tuple[float, Any]]) -> dict[str, float]:
        seconds = [each for each, _ in out]
        calls = sum(int(found.calls.sum()) for _, found in out)
        undecided = sum(int(found.undecided.sum()) for _, found in out)
        per_seed = {f"s per seed, d = {d}": each for d, each in zip(dimensions, seconds, strict=True)}
        slope = np.polyfit(np.log(dimensions), np.log(seconds), 1)[0]
        return per_seed | {"exponent": float(slope), "undecided share": undecided / calls}

    settings = f"capacity, {num_seeds} seeds, resolution 1, float32"
    return Row(
        f"Capacity, d = {', '.join(map(str, dimensions))}", Contestant(call, settings, quality=quality), {}, "sweep"
    )


def memory_row(sizes: tuple[int, ...], d: int, top: int) -> Row:
    """Scratch memory that the compiled program asks for, lists against all pairs."""

    def call(top: int | None) -> np.ndarray:
        def scratch(p: int) -> int:
            a = Associations(*(jax.ShapeDtypeStruct((p, d), jnp.float32) for _ in range(2)))
            n, tol = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
            return _check.lower(a, n, tol, Limits(100, 1000, top=top)).compile().memory_analysis().temp_size_in_bytes

        return np.array([scratch(p) for p in sizes])

    def quality(scratch: np.ndarray) -> dict[str, float]:
        mib = {f"MiB, p = {p}": float(each / 2**20) for p, each in zip(sizes, scratch, strict=True)}
        return mib | {"exponent": float(np.polyfit(np.log(sizes), np.log(scratch), 1)[0])}

    return Row(
        f"Scratch memory of check_feasible, d = {d}, original model; the time is that of compilation",
        Contestant(partial(call, top), f"lists of {top} competitors, blocks of 256", quality=quality),
        {"all_pairs": Contestant(partial(call, None), "all pairs at once", quality=quality)},
        "sweep",
    )


def _instance(d: int) -> tuple[Associations, np.ndarray]:
    with jax.enable_x64(True):
        a = sample_associations(jax.random.key(0), int(LOAD * critical_p(d)), d)
    x, y = np.asarray(a.x), np.asarray(a.y)
    others = ~np.eye(len(x), dtype=bool)
    A = np.einsum("mnd,me->mnde", y[:, None] - y, x)[others].reshape(-1, d * d)
    return a, A


def _margin_quality(A: np.ndarray, w: np.ndarray) -> dict[str, float]:
    return {"margin": float(np.sqrt(A.shape[1]) * np.min(A @ w) / np.linalg.norm(w))}


def _nnls(A: np.ndarray) -> np.ndarray:
    weights, _ = nnls(np.vstack([A.T, np.ones(len(A))]), np.r_[np.zeros(A.shape[1]), 1.0], maxiter=100 * len(A))
    return A.T @ weights


def _osqp(A: np.ndarray) -> np.ndarray:
    solver = osqp.OSQP()
    ones, above = np.ones(len(A)), np.full(len(A), np.inf)
    options = {"eps_abs": 1e-5, "eps_rel": 1e-5, "max_iter": 20_000, "verbose": False}
    solver.setup(
        sparse.identity(A.shape[1], format="csc"), np.zeros(A.shape[1]), sparse.csc_matrix(A), ones, above, **options
    )
    return solver.solve(raise_error=False).x


def _liblinear(A: np.ndarray) -> np.ndarray:
    rows, labels = np.vstack([A, -A]), np.repeat([1, -1], len(A))
    svc = LinearSVC(loss="hinge", C=1e4, fit_intercept=False, tol=1e-5, max_iter=100_000, random_state=0)
    return svc.fit(rows, labels).coef_[0]


def _highs(A: np.ndarray) -> float:
    columns = A.shape[1]
    found = linprog(
        np.r_[np.zeros(columns), -1.0],
        A_ub=np.c_[-A, np.ones(len(A))],
        b_ub=np.zeros(len(A)),
        bounds=[(-1, 1)] * columns + [(None, 1)],
        method="highs",
    )
    return -found.fun


ROWS: dict[str, Callable[[], Row]] = {
    **{f"margin_d{d}": partial(margin_row, d) for d in (12, 16, 20, 24)},
    **{f"feasibility_d{d}": partial(feasibility_row, d) for d in (12, 16, 20)},
    "capacity_growth": partial(capacity_row, (12, 16, 24), 4),
    "memory_growth": partial(memory_row, (1000, 2000, 4000), 64, 32),
}
