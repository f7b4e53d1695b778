"""Groups on the tokens: which of them force a simplex, whatever the targets.

The targets of a group are all distinct images of one asymmetric distribution, with equal weights. Their number (5040
for all permutations of seven) never matters: one representative is solved.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from experiments.symmetry_transfer._targets import ASYMMETRIC
from jaxspec.linalg import spectral_map
from jaxspec.peeled import (
    PermutationAction,
    is_two_homogeneous,
    is_two_transitive,
    orbit_size,
    orbitals,
    reynolds,
    simplex_etf_defect,
    solve_exchangeable,
    solve_orbits,
)

SOURCE = "abstract; specification, sections 2.4, 5 and E3"
OF_EIGHT = (0.3, 0.2, 0.15, 0.12, 0.1, 0.06, 0.04, 0.03)
ACTIONS = {
    "C7": PermutationAction.cyclic(7),
    "D7": PermutationAction.dihedral(7),
    "order 21": PermutationAction.affine(7, (1, 2, 4)),
    "AGL(1,7)": PermutationAction.affine(7),
    "PSL(2,7)": PermutationAction.psl2(7),
    "S7": PermutationAction.symmetric(7),
}
STATED = {"C7": 1.5279360044, "order 21": 1.5456772279, "AGL(1,7)": 1.5456772279}  # nats, at E = 1
UNSTRUCTURED = 0.1  # simplex defect above which there is plainly none


@dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0  # unused: nothing is random
    budgets: tuple[float, ...] = (0.3, 1.0)


PRESETS = {"quick": Config(), "full": Config(budgets=(0.1, 0.3, 0.5, 1.0, 1.5, 2.0))}


class Result(NamedTuple):
    """What was measured; A actions, B budgets.

    Attributes:
        names: of the groups, shape (A,).
        budgets: E, shape (B,).
        contexts: images of the distribution, shape (A,).
        homogeneous: whether the group has one orbit on unordered pairs, shape (A,).
        transitive: whether it has one on ordered pairs, shape (A,).
        values: cross-entropy at the optimum, nats, shape (A, B).
        gaps: certified, nats, shape (A, B).
        defects: simplex defect of the rows of W, shape (A, B).
        closed_forms: value of the scalar equations, NaN without one orbit on pairs, shape (A, B).
    """

    names: Any
    budgets: Any
    contexts: Any
    homogeneous: Any
    transitive: Any
    values: Any
    gaps: Any
    defects: Any
    closed_forms: Any


def run(config: Config, progress: Progress) -> Result:
    """Solves one representative for each group and budget."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    rows = []
    with progress.stage("groups", total=len(ACTIONS)):
        for action in ACTIONS.values():
            p = jnp.asarray(ASYMMETRIC if action.degree == 7 else OF_EIGHT)
            size = orbit_size(p, action)
            measured = [_solve(action, p, size, budget) for budget in config.budgets]
            rows.append(
                (
                    size,
                    is_two_homogeneous(action),
                    is_two_transitive(action),
                    *map(np.asarray, zip(*measured, strict=True)),
                )
            )
            progress.advance()
    columns = map(np.asarray, zip(*rows, strict=True))
    return Result(np.asarray(list(ACTIONS)), np.asarray(config.budgets), *columns)


def _solve(action, p, size, budget):
    found = solve_orbits(p[:, None], action, None, [size], budget)
    # Sum over all contexts of z z^T: the mean over the group of that of the representative.
    count, labels = orbitals(action)
    gram = reynolds(size * found.logits @ found.logits.T, labels, count)
    W = spectral_map(gram, _fourth_root)
    closed = np.nan
    if is_two_homogeneous(action):
        closed = float(solve_exchangeable(p[:, None], None, [size], budget, action=action).value)
    return float(found.value), float(found.gap), float(simplex_etf_defect(W)), closed


def _fourth_root(s):
    return jnp.sqrt(jnp.sqrt(s))


def claims(result: Result) -> list[Claim]:
    """A simplex where the group has one orbit on pairs, and only there."""
    names, at_one = list(result.names), list(result.budgets).index(1.0)
    one_orbit = result.homogeneous
    stated = [result.values[names.index(name), at_one] - value for name, value in STATED.items()]
    return [
        Claim.at_most(
            "Groups that move every pair of tokens to every other force a simplex",
            SOURCE,
            result.defects[result.transitive],
            1e-10,
            quantity="simplex defect",
        ),
        Claim.at_most(
            "One orbit on unordered pairs is enough (not in the paper): 21 of the 42 affine maps of seven",
            "specification, section 2.4",
            result.defects[one_orbit & ~result.transitive],
            1e-10,
            quantity="simplex defect",
        ),
        Claim.at_least(
            "Rotations and reflections alone do not",
            SOURCE,
            result.defects[~one_orbit],
            UNSTRUCTURED,
            quantity="simplex defect",
        ),
        Claim.at_most(
            "Two scalar equations give the same optimum as the spectral program",
            SOURCE,
            np.abs(result.closed_forms - result.values)[one_orbit],
            1e-9,
            quantity="difference of the values, nats",
        ),
        Claim.at_most("The optima are the stated ones", SOURCE, np.abs(stated), 1e-9, quantity="difference, nats"),
        Claim.at_most("Every optimum is certified", SOURCE, result.gaps, 1e-10, quantity="duality gap, nats"),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Simplex defect of every group."""
    figure, axes = subplots(1, 1, size=(6.0, 3.2))
    ax, width = axes[0, 0], 0.8 / len(result.budgets)
    for b, budget in enumerate(result.budgets):
        places = np.arange(len(result.names)) + width * (b - (len(result.budgets) - 1) / 2)
        ax.bar(places, np.maximum(result.defects[:, b], 1e-17), width, color=COLORS[b], label=f"E = {budget:g}")
    labels = [f"{name}\n{count} contexts" for name, count in zip(result.names, result.contexts, strict=True)]
    ax.set(yscale="log", ylabel="simplex defect of W", xticks=np.arange(len(labels)), xticklabels=labels)
    ax.legend()
    return {"Distance from a simplex, group by group": figure}
