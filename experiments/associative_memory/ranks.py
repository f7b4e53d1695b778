"""Memories of bounded rank: how many pairs a hidden layer of width m holds, against the Ky Fan bound of the theory.

The program is not convex: what is found is certified, what is not found proves nothing, so capacities are lower bounds.
Above them stand the certified capacity without a bound on the rank, and, for margins, a bound that holds for every
memory of rank m. The theory's bound is conjectured to be attained.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments._sweep import sweep
from experiments.associative_memory._laws import OURS, standard_error
from experiments.associative_memory._optimum import Feasible, bisected, draws, size_at
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, GREEN, ORANGE, subplots
from jaxspec.memory import Associations, fit_two_layer, fit_two_layer_adam, theory

LAW = ("original", "sphere")


@dataclass(frozen=True)
class Config:
    """Settings of the measurement; original model, sphere."""

    seed: int = 400
    seeds: int = 3  # draws
    dim: int = 20
    widths: tuple[int, ...] = (2, 5, 10, 20)  # hidden units m
    num_starts: int = 3
    steps: int = 1000  # of Adam
    learning_rate: float = 0.05
    load: float = 0.5  # of the capacity, where margins are compared


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=20, dim=48, widths=(2, 3, 5, 8, 10, 12, 20, 24, 36, 48), num_starts=4, steps=5000),
}


class Result(NamedTuple):
    """What was measured. Widths M, draws S.

    Attributes:
        dim: d.
        widths: m, shape (M,).
        found: largest n at which a memory of rank m was found by bisection, shape (M, S).
        adam_feasible: whether Adam on the soft minimum finds one there, shape (M, S).
        full: largest n certified feasible without a bound on the rank, shape (S,).
        bound: critical p of the theory for each width, shape (M,).
        margin: largest margin found at the fixed load, shape (M, S).
        upper: certified bound of the margin of every memory of rank m, shape (M, S).
        adam_margin: margin by Adam at the fixed load, shape (M, S).
        margin_bound: the theory's, shape (M,).
        s: singular values over sqrt d at the fixed load, shape (M, S, d).
    """

    dim: Any
    widths: Any
    found: Any
    adam_feasible: Any
    full: Any
    bound: Any
    margin: Any
    upper: Any
    adam_margin: Any
    margin_bound: Any
    s: Any


@dataclass(frozen=True)
class Narrow:
    """A memory of the first n pairs by Gauss-Newton."""

    width: int
    num_starts: int = 1
    max_outer: int = 0

    def __call__(self, key: jax.Array, a: Associations, n: jax.Array) -> tuple[jax.Array, ...]:
        """Margin, bound, and W."""
        found = fit_two_layer(key, a, self.width, n=n, num_starts=self.num_starts, max_outer=self.max_outer)
        return found.margin, found.upper, found.B @ found.A


@dataclass(frozen=True)
class Adam:
    """A memory of the first n pairs by Adam on the soft minimum."""

    width: int
    steps: int

    def __call__(self, a: Associations, n: jax.Array, learning_rate: jax.Array) -> jax.Array:
        """Margin."""
        return fit_two_layer_adam(a, self.width, n=n, steps=self.steps, learning_rate=learning_rate).margin


def run(config: Config, progress: Progress) -> Result:
    """Capacity without a bound on the rank, then every width."""
    d, seeds = config.dim, config.seeds
    critical = theory.critical_p(d)
    p, at = int(1.2 * critical) + 10, size_at(config.load, critical)
    a = draws(config.seed, p, d, LAW, seeds)
    keys = jax.random.split(jax.random.key(config.seed + 1), seeds)
    rates = np.full(seeds, config.learning_rate, np.float32)
    two = np.full(seeds, 2)
    full = bisected(lambda n: sweep(Feasible(), a, n), two, np.full(seeds, p + 1))
    rows = []
    for width in progress.track("widths", config.widths):
        search = Narrow(width, config.num_starts)
        found = bisected(lambda n, search=search: sweep(search, keys, a, n)[0] > 0, two, full + 1)
        margin, upper, W = sweep(Narrow(width, max_outer=12), keys, a, np.full(seeds, at))
        adam, at_capacity = (sweep(Adam(width, config.steps), a, n, rates) for n in (np.full(seeds, at), found))
        rows.append((found, at_capacity > 0, margin, upper, adam, np.linalg.svd(W, compute_uv=False) / np.sqrt(d)))
    found, adam_feasible, margin, upper, adam, s = (np.stack(column) for column in zip(*rows, strict=True))
    widths = np.asarray(config.widths)
    return Result(
        d,
        widths,
        found,
        adam_feasible,
        full,
        theory.critical_p(d, width=widths),
        margin,
        upper,
        adam,
        theory.margin(at, d, widths),
        s,
    )


def claims(result: Result) -> list[Claim]:
    """Ratio to the bound, Gauss-Newton against Adam, certified bounds of margins."""
    return _capacity_claims(result) + _margin_claims(result)


def _capacity_claims(result: Result) -> list[Claim]:
    ratio = result.found.mean(axis=-1) / result.bound
    wide = result.widths >= result.dim / 4
    narrow = result.widths == 2
    full = result.widths >= result.dim
    return [
        Claim.at_least(
            "A hidden layer of width m >= d/4 holds at least .9 of the Ky Fan bound of the theory",
            OURS,
            ratio[wide],
            0.9,
            quantity="pairs found / bound, mean of the draws, every such width",
        ),
        Claim.at_least(
            "One of width 2 holds more than the .59 of the bound at which Adam stops",
            OURS,
            ratio[narrow],
            0.7,
            quantity="pairs found / bound, mean of the draws",
        ),
        Claim.at_least(
            "At full width the factors find what the convex program certifies",
            OURS,
            result.found[full] / result.full,
            0.97,
            quantity="pairs found / certified capacity, every draw",
        ),
    ]


def _margin_claims(result: Result) -> list[Claim]:
    wide, half = result.widths >= result.dim / 4, result.widths >= result.dim / 2
    full = result.widths >= result.dim
    gain = (result.margin.mean(axis=-1) / result.adam_margin.mean(axis=-1))[wide]
    attained = result.margin / result.upper
    return [
        Claim.at_least(
            "Gauss-Newton on the factors finds larger margins than Adam",
            OURS,
            gain,
            1.0,
            quantity="margin / margin by Adam, mean of the draws, m >= d/4",
        ),
        Claim.at_most(
            "Where it finds a memory of the largest size, Adam often does not",
            OURS,
            result.adam_feasible.mean(),
            0.5,
            quantity="share of widths and draws where Adam finds one, too",
        ),
        Claim.at_least(
            "From m = d/2 on margins found are near the certified bound of every memory of that rank",
            OURS,
            attained[half],
            0.75,
            quantity="margin / certified bound, every draw",
        ),
        Claim.at_least(
            "From m = d/2 on they are certified global optima",
            "what one would like",
            attained[half & ~full],
            0.99,
            quantity="margin / certified bound, every draw",
            known_not_to_hold="the bound is that of a convex relaxation, which is not tight at half load; every start "
            "ends at the same margin, though",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Pairs and margins over the width, and the spectra."""
    figure, (row,) = subplots(1, 3, size=(4.0, 3.5))
    share = result.widths / result.dim
    pairs, margins, spectra = row
    pairs.plot(share, result.bound, color="black", lw=1.2, label="Ky Fan bound, theory")
    style = {"marker": "o", "capsize": 2}
    pairs.errorbar(share, result.found.mean(axis=-1), standard_error(result.found), color=BLUE, label="found", **style)
    pairs.axhline(result.full.mean(), color=GREEN, ls="--", label="certified, any rank")
    pairs.set(xlabel="width m / d", ylabel=f"pairs p, d = {result.dim}", ylim=(0, None))
    margins.plot(share, result.margin_bound, color="black", lw=1.2, label="Ky Fan bound, theory")
    margins.plot(share, result.upper.mean(axis=-1), "--", color=GREEN, marker="^", label="certified bound")
    margins.errorbar(
        share, result.margin.mean(axis=-1), standard_error(result.margin), color=BLUE, label="found", **style
    )
    margins.plot(share, result.adam_margin.mean(axis=-1), ":", color=ORANGE, marker="v", label="Adam")
    margins.set(xlabel="width m / d", ylabel="margin κ at half load", ylim=(0, None))
    for values, width in zip(result.s, result.widths, strict=True):
        spectra.plot(
            np.arange(1, width + 1) / result.dim, values[:, :width].mean(axis=0), marker=".", label=f"m = {width}"
        )
    spectra.set(xlabel="index / d", ylabel="singular value / √d", ylim=(0, None))
    for axis in row:
        axis.legend(fontsize=7.5)
    return {"Hidden layers of width m: pairs, margins at half load, singular values there": figure}
