"""Which frequencies of a cyclic target survive a budget, and at which budget each of them appears."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, LINES, subplots
from experiments.symmetry_transfer._targets import CYCLIC
from jaxspec.peeled import mode_onsets, solve_cyclic

SOURCE = "abstract; specification, section 5 and E2"
# Budgets E at which |z^_k| leaves 0, k = 1, 2, ...; 0: there from the start, inf: never. Specification, section 5.
STATED = {
    "geometric, n = 7": (0.0, 0.853156, 0.923656),
    "asymmetric, n = 7": (0.0, 0.423617, 0.373881),
    "geometric, n = 12": (0.0, 0.745541, 1.406149, 1.648413, 1.704739, 1.81347),
}
SLOW = "geometric, n = 12, decay 2"
CLOSED = 1e-8  # amplitudes below are 0 of the projection and rounding


@dataclass(frozen=True)
class Config:
    """Settings of the sweep."""

    seed: int = 0  # unused: nothing is random
    budgets: int = 61  # between 0.05 and the largest
    largest: float = 3.05


PRESETS = {"quick": Config(), "full": Config(budgets=601)}


class Result(NamedTuple):
    """What was measured; F is the number of frequencies of a target, n // 2.

    Attributes:
        names: of the targets, shape (4,).
        budgets: E, shape (B,).
        amplitudes: |z^_k| of each target, k = 1 .. n // 2, padded by NaN, shape (4, B, 6).
        onsets: first budget of every frequency, padded by NaN, shape (4, 6).
        at_three: |z^_2| of the geometric kernel of 12 at E = 3.
        gaps: largest duality gap of the sweep, nats, shape (4,).
    """

    names: Any
    budgets: Any
    amplitudes: Any
    onsets: Any
    at_three: Any
    gaps: Any


def run(config: Config, progress: Progress) -> Result:
    """Sweeps all budgets of each target in one batch."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    budgets = np.linspace(0.05, config.largest, config.budgets)
    shape = (len(CYCLIC), len(budgets), 6)
    amplitudes, onsets, gaps = np.full(shape, np.nan), np.full((len(CYCLIC), 6), np.nan), np.zeros(len(CYCLIC))
    at_three = np.nan
    with progress.stage("targets", total=len(CYCLIC)):
        for c, (name, kernel) in enumerate(CYCLIC.items()):
            p = kernel()
            solve = jax.jit(jax.vmap(lambda E, p=p: solve_cyclic(p, E, tol=1e-12, checked=False)))
            found = solve(jnp.append(budgets, 3.0))
            modes = np.abs(np.fft.rfft(np.asarray(found.logits), axis=-1))[:, 1:]
            amplitudes[c, :, : modes.shape[1]] = modes[:-1]
            onsets[c, : modes.shape[1]] = mode_onsets(p, budgets)
            gaps[c] = found.gap.max()
            if name == "geometric, n = 12":
                at_three = modes[-1, 1]
            progress.advance()
    return Result(np.asarray(list(CYCLIC)), budgets, amplitudes, onsets, at_three, gaps)


def claims(result: Result) -> list[Claim]:
    """The onsets, and what is odd about them."""
    onsets = dict(zip(result.names, result.onsets, strict=True))
    rows = [
        Claim.at_most(
            f"Frequencies appear one after the other as the budget grows: {name}",
            SOURCE,
            np.abs(onsets[name][: len(stated)] - stated),
            1e-4,
            quantity="distance of the onsets from the stated ones",
        )
        for name, stated in STATED.items()
    ]
    _, second, third, *_ = onsets["asymmetric, n = 7"]
    slow = onsets[SLOW]
    return [
        *rows,
        Claim.at_least(
            "They need not appear in the order of their frequency",
            SOURCE,
            second - third,
            0.01,
            quantity="onset of k = 2 minus that of k = 3, asymmetric target",
        ),
        Claim(
            "With decay 2 the third frequency of 12 is the second to appear",
            SOURCE,
            "least onset after the first: k = 3 at 0.952511 ± 0.0001",
            slow[2],
            abs(slow[2] - 0.952511) <= 1e-4 and slow[2] == np.min(slow[1:]),
        ),
        Claim.at_most(
            "A frequency can switch off again: k = 2 of the geometric kernel of 12 at E = 3",
            SOURCE,
            result.at_three,
            CLOSED,
            quantity="|z^_2|",
        ),
        Claim.at_least(
            "and modes that the targets' logarithm lacks never appear",
            SOURCE,
            np.min(slow[[3, 5]]),
            np.inf,
            quantity="onsets of k = 4 and 6, decay 2",
        ),
        Claim.at_most("Every point is certified", SOURCE, result.gaps, 1e-11, quantity="duality gap, nats"),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Amplitudes against the budget."""
    figure, axes = subplots(1, len(result.names), size=(3.4, 3.0), sharey=True)
    for ax, name, modes, onsets in zip(axes[0], result.names, result.amplitudes, result.onsets, strict=True):
        for k in range(6):
            if np.isfinite(modes[:, k]).any():
                ax.plot(result.budgets, modes[:, k], LINES[k // 4], color=COLORS[k], label=f"k = {k + 1}")
                if np.isfinite(onsets[k]):
                    ax.axvline(onsets[k], color=COLORS[k], lw=0.6, alpha=0.6)
        ax.set(title=name, xlabel="budget E")
    axes[0, 0].set(ylabel="|z^_k|")
    axes[0, 2].legend()
    return {"Amplitude of every frequency of the optimal logits (thin lines: onsets)": figure}
