"""Layer-peeled programs against conic solvers, orbits against closed forms, and rows of a large checkpoint.

Programs are solved in double precision; the quality is the duality gap of the logits that came out, by our certificate.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from experiments.benchmarks.frame import Contestant, Row, at_most, faster, in_double, time_at_most
from jaxspec.peeled import (
    LayerPeeledProblem,
    PermutationAction,
    circulant,
    duality_gap,
    geometric_kernel,
    read_tensor_rows,
    solve_cyclic,
    solve_exchangeable,
    solve_logits,
    solve_orbits,
)

TOL = 1e-10  # nats, of our duality gap
TARGET_OF_SEVEN = (0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02)
ROWS_READ = (3, 40_000, 7, 99_999, 12, 50_000, 1)


def cyclic_row(n: int, solvers: tuple[str, ...]) -> Row:
    """Circulant targets by Fourier blocks, by the spectral program, and by conic solvers."""
    with jax.enable_x64(True):
        kernel = geometric_kernel(n, 1.0)
        problem = LayerPeeledProblem(circulant(kernel))
    ours = Contestant(
        in_double(partial(solve_cyclic, kernel, 1.0, tol=TOL)),
        f"solve_cyclic, gap {TOL:g}",
        quality=lambda found: {"gap": float(found.gap)},
    )
    spectral = Contestant(
        in_double(partial(solve_logits, problem, tol=TOL)),
        f"our solve_logits, gap {TOL:g}",
        quality=lambda found: {"gap": float(found.gap)},
    )
    peers = {"spectral": spectral} | {solver.lower(): _conic(problem, solver) for solver in solvers}
    aims = tuple(faster(solver.lower(), 1000) for solver in solvers)
    return Row(f"Circulant targets of {n} tokens, E = 1", ours, peers, "solve", aims)


def long_cycle_row(n: int) -> Row:
    """A long cycle."""
    with jax.enable_x64(True):
        kernel = geometric_kernel(n, 1.0)
    ours = Contestant(
        in_double(partial(solve_cyclic, kernel, 1.0, tol=TOL)),
        f"solve_cyclic, gap {TOL:g}",
        quality=lambda found: {"gap": float(found.gap), "iterations": int(found.iterations)},
    )
    return Row(f"Circulant targets of {n} tokens, E = 1", ours, {}, "solve", (time_at_most(0.4),))


def logits_row(tokens: int, contexts: int, rank: int) -> Row:
    """Targets without a symmetry, as softmax of random logits of low rank."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((tokens, rank)) @ rng.standard_normal((rank, contexts))
    with jax.enable_x64(True):
        problem = LayerPeeledProblem(jax.nn.softmax(jnp.asarray(scores), axis=0))
    ours = Contestant(
        in_double(partial(solve_logits, problem, tol=TOL)),
        f"solve_logits, gap {TOL:g}",
        quality=lambda found: {"gap": float(found.gap), "iterations": int(found.iterations)},
    )
    measured = f"Random targets {tokens}×{contexts} of rank {rank}, E = 1"
    return Row(measured, ours, {"scs": _conic(problem, "SCS")}, "solve", (faster("scs", 20),), most_rounds=1)


def permutations_row() -> Row:
    """All 5040 images of a distribution on seven tokens, none of them formed."""
    action = PermutationAction.symmetric(7)
    with jax.enable_x64(True):
        column = jnp.asarray(TARGET_OF_SEVEN)[:, None]

    def quality(found: Any) -> dict[str, float]:
        return {"gap": float(found.gap), "value": float(found.value)}

    # Trusted: enumerating the images to check their number would be most of the time.
    closed = partial(solve_exchangeable, column, None, [5040], 1.0, assume=True, checked=False)
    orbits = partial(solve_orbits, column, action, None, [5040], 1.0, checked=False)
    ours = Contestant(in_double(closed), "solve_exchangeable, two nested roots", quality=quality)
    peer = Contestant(in_double(orbits), f"our solve_orbits, gap {TOL:g}", quality=quality)
    return Row("Seven exchangeable tokens, 5040 contexts, E = 1", ours, {"orbits": peer}, "solve")


def checkpoint_row(rows: int, width: int) -> Row:
    """Seven rows out of a large file."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "model.safetensors"
    table = np.random.default_rng(0).integers(0, 2**16, (rows, width), np.uint16).view(np.float16)
    save_file({"lm_head.weight": table}, path)
    wanted = table[list(ROWS_READ)].tobytes()

    def sliced() -> np.ndarray:
        with safe_open(path, "numpy") as file:
            part = file.get_slice("lm_head.weight")
            return np.concatenate([part[row : row + 1] for row in ROWS_READ])

    def quality(read: Any) -> dict[str, float]:
        return {"wrong": float(np.asarray(read).tobytes() != wanted)}

    # The folder lives as long as the row that reads it.
    ours = Contestant(
        lambda folder=folder: read_tensor_rows(path, "lm_head.weight", ROWS_READ), "read_tensor_rows", quality=quality
    )
    peers = {
        "get_slice": Contestant(sliced, "safetensors, get_slice of each row", quality=quality),
        "load_file": Contestant(
            lambda: load_file(path)["lm_head.weight"][list(ROWS_READ)], "safetensors, whole file", quality=quality
        ),
    }
    measured = f"7 rows of {rows}×{width} float16, {rows * width * 2 / 1e6:.0f} MB"
    return Row(measured, ours, peers, "read", (time_at_most(0.05), at_most("load_file", 1.0)))


def _conic(problem: LayerPeeledProblem, solver: str) -> Contestant:
    P, weights = np.asarray(problem.targets), np.asarray(problem.weights)
    with jax.enable_x64(True):
        radius = float(problem.radius)

    def solve() -> np.ndarray:
        Z = cvxpy.Variable(P.shape)
        losses = [cvxpy.log_sum_exp(Z[:, j]) - P[:, j] @ Z[:, j] for j in range(P.shape[1])]
        loss = sum(weight * term for weight, term in zip(weights, losses, strict=True))
        cvxpy.Problem(cvxpy.Minimize(loss), [cvxpy.normNuc(Z) <= radius]).solve(solver=solver)
        return np.asarray(Z.value)

    def quality(Z: np.ndarray) -> dict[str, float]:
        with jax.enable_x64(True):
            inside = jnp.asarray(Z) * min(1.0, radius / np.linalg.norm(Z, "nuc"))
            return {"gap": float(duality_gap(inside, problem))}

    return Contestant(
        solve, f"cvxpy, {solver} at its default tolerances, building of the program included", quality=quality
    )


ROWS: dict[str, Callable[[], Row]] = {
    "cyclic_24": partial(cyclic_row, 24, ("CLARABEL", "SCS")),
    "cyclic_1024": partial(long_cycle_row, 1024),
    "logits_50x200": partial(logits_row, 50, 200, 20),
    "permutations_of_7": permutations_row,
    "checkpoint_rows": partial(checkpoint_row, 131_072, 1024),
}
