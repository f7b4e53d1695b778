"""Capacity per seed by certified bisection, against the theory of the same size and its kinematic correction.

For every draw the number of leading pairs that a memory recalls is bisected; each answer carries a memory or a
multiplier, and the few undecided calls are counted. A capacity is the largest n certified feasible. A long measurement
goes on where it was interrupted, and can be done one embedding at a time::

    python -m experiments run associative_memory.capacity --dims 32 --embeddings sphere --kept FOLDER
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.associative_memory._laws import (
    EMBEDDINGS,
    LAW_COLORS,
    MODELS,
    NAMES,
    OURS,
    PAPER,
    kinematic_p,
    standard_error,
)
from experiments.runner import store
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import GREY, MARKERS, subplots
from jaxspec.memory import Capacity, capacity, theory

TOLERANCE = {"gaussian": 0.04, "sphere": 0.03}


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    seed: int = 17
    seeds: int = 12  # draws of each law and size
    dims: tuple[int, ...] = (16, 20)
    samples: int = 250  # Monte Carlo draws of each kinematic cost
    decades: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # log10 p at which theory is compared with its limit
    embeddings: tuple[str, ...] = EMBEDDINGS
    listed_from: int = 64  # d from which on searches run over lists of competitors, to a resolution of
    share: float = 0.005  # of the theory's capacity
    top: int = 64  # length of these lists, several times d^2 / p
    kept: str = ""  # a folder that keeps the capacities of each law and size, to be found there again; empty: none


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=20, dims=(16, 20, 32, 48, 64, 128), samples=2000, decades=(1, 2, 3, 4, 6, 8, 12, 16)),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        dims: d, shape (D,).
        embeddings: their names, shape (E,).
        low: largest n certified feasible, shape (D, 2 E, S) for both models with each embedding and S draws.
        high: smallest n certified infeasible, shape (D, 2 E, S).
        undecided: calls without an answer, shape (D, 2 E, S).
        calls: all calls, shape (D, 2 E, S).
        theory: critical p, shape (D,).
        kinematic: critical p with the tails of each embedding, shape (D, E).
        kinematic_error: its standard error, shape (D, E).
        line_dims: d of the drawn line, shape (N,).
        line: critical p there, shape (N,).
        log_p: natural logarithms of the p of the next two, shape (L,).
        constant: ``p log p / d^2`` on the critical line, shape (L,).
        remainder: D minus the first terms of its expansion, shape (L,).
    """

    dims: Any
    embeddings: Any
    low: Any
    high: Any
    undecided: Any
    calls: Any
    theory: Any
    kinematic: Any
    kinematic_error: Any
    line_dims: Any
    line: Any
    log_p: Any
    constant: Any
    remainder: Any


def run(config: Config, progress: Progress) -> Result:
    """All laws at all sizes; then the lines."""
    found, kinematic = [], []
    laws = [(model, embedding) for model in MODELS for embedding in config.embeddings]
    with progress.stage("sizes", total=len(config.dims) * (len(laws) + 1)):
        for d in config.dims:
            row = []
            for model, embedding in laws:
                row.append(_kept(config, d, model, embedding))
                progress.advance(message=f"d = {d}, {model}, {embedding}")
            found.append([np.stack([one[name] for one in row]) for name in Capacity._fields])
            kinematic.append([kinematic_p(config.seed + 1, d, e, config.samples) for e in config.embeddings])
            progress.advance(message=f"d = {d}, kinematic")
    dims = np.asarray(config.dims)
    line_dims = np.unique(np.rint(np.geomspace(0.8 * dims.min(), 1.25 * dims.max(), 7)))
    return Result(
        dims,
        np.asarray(config.embeddings),
        *(np.stack(column) for column in zip(*found, strict=True)),
        theory.critical_p(dims),
        *np.moveaxis(np.asarray(kinematic), -1, 0),
        line_dims,
        theory.critical_p(line_dims),
        *_approach(np.asarray(config.decades)),
    )


def _kept(config: Config, d: int, model: str, embedding: str) -> dict[str, np.ndarray]:
    """The fields of `Capacity` of one law and size, from the folder of the configuration where they are there."""
    if not config.kept:
        return _measured(config, d, model, embedding)
    listed = {"top": config.top, "share": config.share} if d >= config.listed_from else {}
    identity = {"d": d, "model": model, "embedding": embedding, "seed": config.seed, "seeds": config.seeds} | listed
    folder = Path(config.kept) / f"{model}-{embedding}-{d}"
    if store.read_meta(folder) == identity:
        return store.load(folder).arrays
    found = _measured(config, d, model, embedding)
    store.save(folder, found, identity)
    return found


def _measured(config: Config, d: int, model: str, embedding: str) -> dict[str, np.ndarray]:
    # One key for all laws: they share directions of keys and values, draw by draw.
    key = jax.random.fold_in(jax.random.key(config.seed), d)
    resolution, top = 1, None
    if d >= config.listed_from:
        resolution, top = math.ceil(config.share * theory.critical_p(d)), config.top
    law = {"model": model, "embedding": embedding}
    with jax.enable_x64(True):
        found = capacity(key, d, num_seeds=config.seeds, resolution=resolution, top=top, **law)
    return {name: np.asarray(value) for name, value in found._asdict().items()}


def _approach(decades: np.ndarray) -> tuple[np.ndarray, ...]:
    """Constant and remainder on the critical line: ``D = 2 L - 3 log(2 L) - log(2 pi) + 3 + o(1)``, ``L = log p``."""
    log_p = decades * np.log(10.0)
    cost = theory.gardner_cost(10.0**decades - 1)
    expansion = 2 * log_p - 3 * np.log(2 * log_p) - np.log(2 * np.pi) + 3
    return log_p, log_p / cost, cost - expansion


def claims(result: Result) -> list[Claim]:
    """Measured against theory, models against each other, answers without a certificate, the limit of the theory."""
    claims = []
    for place, embedding in enumerate(result.embeddings):
        original, decoupled = (_mean(result, model, place) for model in (0, 1))
        if embedding == "gaussian":
            claims.append(
                Claim.close_to(
                    "Decoupled, gaussian: the mean capacity is that of the finite-p theory",
                    OURS,
                    decoupled / result.theory,
                    1.0,
                    0.03,
                    quantity="measured / theory, every d",
                )
            )
        claims.append(
            Claim.close_to(
                f"The original and the decoupled model hold equally many pairs, {embedding}",
                PAPER,
                original / decoupled,
                1.0,
                TOLERANCE[embedding],
                quantity="original / decoupled, every d",
            )
        )
    over = [_mean(result, 1, place) / result.kinematic[:, place] for place in range(len(result.embeddings))]
    return [
        *claims,
        Claim.close_to(
            "Decoupled: the kinematic formula accounts for the tails of the embedding",
            OURS,
            np.mean(over, axis=1),
            1.0,
            0.04,
            quantity="measured / kinematic, mean over d, each embedding",
        ),
        Claim.at_most(
            "Calls without a certificate are rare",
            "specification, capacity",
            result.undecided.sum() / result.calls.sum(),
            0.02,
            quantity="undecided share of calls",
        ),
        *_limit(result),
    ]


def _mean(result: Result, model: int, place: int) -> np.ndarray:
    """Mean capacity of a law, shape (D,)."""
    return result.low[:, model * len(result.embeddings) + place].mean(axis=-1)


def _limit(result: Result) -> list[Claim]:
    """The theory tends to 1/2, and no measurement shows it."""
    p = _mean(result, 1, 0)[-1]
    return [
        Claim.at_most(
            "Theory: p log p / d^2 falls towards 1/2 along the critical line",
            PAPER,
            np.diff(result.constant) / (result.constant[:-1] - 0.5),
            0.0,
            quantity="change from decade to decade, as a share of the distance to 1/2",
        ),
        Claim.at_most(
            "Theory: D - (2 log p - 3 log(2 log p) - log 2π + 3) tends to 0, from p = 100 on",
            OURS,
            np.diff(np.abs(result.remainder[result.log_p >= np.log(99.0)])),
            0.0,
            quantity="change of its size from decade to decade",
        ),
        Claim.close_to(
            "A measured capacity shows the constant 1/2",
            "the limit, read as a statement about experiments",
            p * np.log(p) / result.dims[-1] ** 2,
            0.5,
            0.1,
            quantity=f"p log p / d^2, decoupled {result.embeddings[0]}, largest d",
            known_not_to_hold="the limit is approached like a logarithm: the theory of the same size is what is met",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Capacity against d, and the slow approach of the theory to its limit."""
    figure, (row,) = subplots(1, 2, size=(5.0, 3.9))
    axis, ratio = row
    axis.loglog(result.line_dims, result.line, color="black", lw=1.2, label="theory, finite p")
    ratio.axhline(1.0, color="black", lw=1.2)
    shift = (np.arange(4) - 1.5) * 0.012
    for place, name in enumerate(f"{model}, {e}" for model in MODELS for e in result.embeddings):
        number = NAMES.index(name)
        x = result.dims * (1 + shift[number])
        y, error = result.low[:, place].mean(axis=-1), standard_error(result.low[:, place])
        style = {"color": LAW_COLORS[number], "marker": MARKERS[number], "ls": "none", "capsize": 2, "label": name}
        axis.errorbar(x, y, error, **style)
        ratio.errorbar(x, y / result.theory, error / result.theory, **style)
    for place, name in enumerate(result.embeddings):
        number = EMBEDDINGS.index(name)
        y, error = result.kinematic[:, place], result.kinematic_error[:, place]
        options = {"color": LAW_COLORS[number], "ls": (":", "--")[number], "lw": 1.2}
        axis.loglog(result.dims, y, label=f"kinematic, {name}", **options)
        ratio.plot(result.dims, y / result.theory, **options)
        edges = (y - error) / result.theory, (y + error) / result.theory
        ratio.fill_between(result.dims, *edges, color=LAW_COLORS[number], alpha=0.15, lw=0)
    for one in row:
        one.set(xscale="log", xlabel="dimension d", xticks=result.dims, xticklabels=result.dims)
        one.minorticks_off()
    ticks = np.rint(result.theory).astype(int)
    axis.set(ylabel="pairs recalled p", yticks=ticks, yticklabels=ticks)
    ratio.set(ylabel="p / theory")
    axis.legend(fontsize=7.5)
    limit, (lines,) = subplots(1, 1, size=(5.0, 3.4))
    lines[0].plot(result.log_p / np.log(10), result.constant, marker="o", label="theory, finite p")
    lines[0].axhline(0.5, color=GREY, ls="--", label="limit")
    lines[0].set(xlabel="log₁₀ p", ylabel="p log p / d² on the critical line", ylim=(0.45, None))
    lines[0].legend()
    return {
        "Certified capacity against dimension, means of the draws with their standard errors": figure,
        "The theory approaches its limit 1/2 like a logarithm": limit,
    }
