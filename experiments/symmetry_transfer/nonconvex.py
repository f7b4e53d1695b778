"""The factorised, nonconvex program against the convex one, across the inner dimension.

From random starts the factors reach the convex optimum, proved by its certificate, as soon as the dimension is the rank
of the optimal logits; below it they cannot, and the symmetry is lost with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from experiments.symmetry_transfer._targets import CYCLIC
from jaxspec.peeled import (
    LayerPeeledProblem,
    circulant,
    circulant_defect,
    one_hot_kernel,
    simplex_etf_defect,
    solve_cyclic,
    solve_factored,
)

SOURCE = "abstract; specification, E1"
ONE_HOT = "one-hot, n = 7"
CASES: dict[str, tuple[Callable[[], Array], float]] = {
    "geometric, n = 7, E = 0.5": (CYCLIC["geometric, n = 7"], 0.5),
    "geometric, n = 7, E = 1": (CYCLIC["geometric, n = 7"], 1.0),
    "asymmetric, n = 7, E = 1": (CYCLIC["asymmetric, n = 7"], 1.0),
    ONE_HOT: (lambda: one_hot_kernel(7, 0.1), 1.0),
    "geometric, n = 12, E = 1": (CYCLIC["geometric, n = 12"], 1.0),
}


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 0  # of the keys
    keys: int = 8  # random starts
    dims_7: tuple[int, ...] = (2, 4, 6)  # inner dimensions of the targets of 7
    dims_12: tuple[int, ...] = (3, 4)  # and of 12


PRESETS = {
    "quick": Config(),
    "full": Config(keys=32, dims_7=tuple(range(1, 11)), dims_12=tuple(range(1, 16))),
}


class Result(NamedTuple):
    """What was measured; one row for each target and dimension, S starts.

    Attributes:
        names: of the targets, shape (C,).
        ranks: of the optimal logits of each target, shape (C,).
        case: index of the target of each row, shape (R,).
        dims: inner dimension of each row, shape (R,).
        excess: value minus that of the convex program, nats, shape (R, S).
        gaps: certified distance from the global optimum, nats, shape (R, S).
        defects: circulant defects of Z, W W^T and H^T H, shape (R, S, 3).
        simplex: simplex defect of the rows of W, shape (R, S).
    """

    names: Any
    ranks: Any
    case: Any
    dims: Any
    excess: Any
    gaps: Any
    defects: Any
    simplex: Any


def run(config: Config, progress: Progress) -> Result:
    """All targets of a size, all dimensions and all starts in one batch."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    names = list(CASES)
    kernels = [kernel() for kernel, _ in CASES.values()]
    budgets = [budget for _, budget in CASES.values()]
    exact = [solve_cyclic(p, E, tol=1e-13) for p, E in zip(kernels, budgets, strict=True)]
    keys, rows = jax.random.split(jax.random.key(config.seed), config.keys), []
    sizes = {7: config.dims_7, 12: config.dims_12}
    with progress.stage("sizes", total=len(sizes)):
        for n, dims in sizes.items():
            members = [c for c, p in enumerate(kernels) if len(p) == n]
            targets = jnp.stack([circulant(kernels[c]) for c in members])
            levels = jnp.asarray([budgets[c] for c in members])
            measured = jax.block_until_ready(_solve(keys, targets, levels, jnp.asarray(dims), max(dims)))
            for i, c in enumerate(members):
                for j, dim in enumerate(dims):
                    row = jax.tree.map(lambda x, i=i, j=j: np.asarray(x[i, j]), measured)
                    rows.append((c, dim, row[0] - float(exact[c].value), *row[1:]))
            progress.advance()
    case, dims, excess, gaps, defects, simplex = map(np.asarray, zip(*rows, strict=True))
    ranks = np.asarray([int(solution.rank) for solution in exact])
    return Result(np.asarray(names), ranks, case, dims, excess, gaps, defects, simplex)


def _solve(keys, targets, budgets, dims, widest):
    def one(key, P, E, dim):
        factors = _start(key, len(P), widest, dim, E)
        problem = LayerPeeledProblem(P, budget_W=E, checked=False)
        # Stopped by the gradient at its default, the gap would be as large as its bound below.
        found = solve_factored(key, problem, widest, init=factors, grad_tol=1e-10)
        grams = found.W @ found.H, found.W @ found.W.T, found.H.T @ found.H
        defects = jnp.stack([circulant_defect(gram) for gram in grams])
        return found.value, found.gap, defects, simplex_etf_defect(found.W)

    starts = jax.vmap(one, in_axes=(0, None, None, None))
    each = jax.vmap(starts, in_axes=(None, None, None, 0))
    return jax.jit(jax.vmap(each, in_axes=(None, 0, 0, None)))(keys, targets, budgets, dims)


def _start(key, n, widest, dim, budget):
    """Random factors of half the budget, of which only the first ``dim`` directions are used: the others stay 0."""
    W, H = jax.random.normal(key, (2, n, widest)) * (jnp.arange(widest) < dim) * jnp.sqrt(budget / (2 * dim))
    return W, H.T


def claims(result: Result) -> list[Claim]:
    """Equal to the convex program from the rank on, above it before."""
    enough = result.dims >= result.ranks[result.case]
    one_hot = enough & (result.case == list(result.names).index(ONE_HOT))
    return [
        Claim.at_most(
            "From the rank of the optimal logits on, every random start reaches the convex optimum",
            SOURCE,
            result.excess[enough],
            1e-10,
            quantity="excess over the convex program, nats",
        ),
        Claim.at_most(
            "and its certificate proves it, without that program",
            SOURCE,
            result.gaps[enough],
            1e-8,
            quantity="certified gap, nats",
        ),
        Claim.at_most(
            "There logits and both Gram matrices are circulant",
            SOURCE,
            result.defects[enough],
            1e-7,
            quantity="circulant defect",
        ),
        Claim.at_most(
            "One-hot targets end in a simplex", SOURCE, result.simplex[one_hot], 1e-7, quantity="simplex defect"
        ),
        Claim.at_least(
            "Below the rank no start can",
            SOURCE,
            result.excess[~enough],
            1e-5,
            quantity="excess over the convex program, nats",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Excess and defect against the dimension."""
    figure, axes = subplots(1, 2, size=(4.8, 3.4))
    for c, name in enumerate(result.names):
        here = result.case == c
        order = np.argsort(result.dims[here])
        dims = result.dims[here][order]
        for ax, values in ((axes[0, 0], result.excess), (axes[0, 1], result.defects[..., 1])):
            worst = np.maximum(values[here].max(axis=1)[order], 1e-17)
            ax.semilogy(dims, worst, marker=MARKERS[c], color=COLORS[c], label=name)
            ax.axvline(result.ranks[c] - 0.1 + 0.05 * c, color=COLORS[c], ls=":", lw=1)
    axes[0, 0].set(xlabel="inner dimension d", ylabel="worst excess, nats")
    axes[0, 1].set(xlabel="inner dimension d", ylabel="worst circulant defect of W Wᵀ")
    axes[0, 0].legend()
    return {"Nonconvex against convex (dotted: rank of the optimal logits)": figure}
