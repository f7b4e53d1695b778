"""Does the best learning rate carry over from narrow to wide models? The scale "mup" against the scale "rms".

Under "mup" an update of a ``fan_in x fan_out`` matrix has spectral norm ``lr sqrt(fan_out / fan_in)``, which moves the
features of a layer equally at every width. Under "rms" it has ``0.2 lr sqrt(max(fan_in, fan_out))``, the entries of an
Adam update: their effect grows like the square root of the width, and the best rate should fall like its inverse.

Everything else follows the rule for feature learning at every width, under both scales: embeddings and gains get the
same Adam everywhere, the head Adam with a rate that falls like the inverse of the width. (With one rate for the head,
narrow models learn it too slowly, and the best rate of their matrices rises to make up for it.)

Limit: transfer is claimed to a step of the grid, a factor of two. Between its points, by the minimum of a parabola, the
best rate under mup still fell like the power -0.2 to -0.6 of the width in three runs of this length.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments._gpt import Shape
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from experiments.spectral_optimizers._text import standard_library_text
from experiments.spectral_optimizers._training import Recipe, train

SOURCE = "spectral condition for feature learning (Yang, Simon & Bernstein 2023), applied to our update"
MUP, RMS = "mup", "rms"
SCALES = (MUP, RMS)


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 0  # first seed
    seeds: int = 1
    optimizer: str = "c=0.5"  # of the matrices; 0.5 is Muon
    widths: tuple[int, ...] = (32, 64, 128)
    head_size: int = 16  # width of a head: wider models have more heads
    reference_width: int = 64  # at which the head gets the rate of the embeddings
    layers: int = 1
    context: int = 64  # bytes
    batch: int = 8  # windows per step
    steps: int = 100
    warmup: int = 10
    eps: float = 1e-2  # regularisation of the power, relative to the Frobenius norm
    validation: int = 256  # fixed windows
    mup_rates: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08, 0.16)  # a grid of constant ratio
    rms_rates: tuple[float, ...] = (0.00625, 0.0125, 0.025, 0.05, 0.1)  # the same updates as those at width 64


PRESETS = {
    "quick": Config(),
    "full": Config(
        seeds=3,
        widths=(32, 64, 128, 256, 512, 1024),
        layers=4,
        context=256,
        batch=32,
        steps=1000,
        warmup=50,
        mup_rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        rms_rates=(0.0015625, 0.003125, 0.00625, 0.0125, 0.025, 0.05, 0.1),
    ),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        scales: names of the scales, shape (2,).
        widths: of the models, shape (W,).
        rates: peak learning rates, shape (2, L).
        validation: final loss, nats per byte, shape (2, W, L, S).
    """

    scales: Any
    widths: Any
    rates: Any
    validation: Any


def run(config: Config, progress: Progress) -> Result:
    """Trains every width at every rate under both scales."""
    text = standard_library_text()
    rates = np.asarray([config.mup_rates, config.rms_rates])
    cells = (len(SCALES), len(config.widths), rates.shape[1], config.seeds)
    validation = np.full(cells, np.nan)
    with progress.stage("runs", total=int(np.prod(cells))):
        for index in np.ndindex(*cells):
            scale, width, rate, seed = index
            how = _recipe(config, config.widths[width], SCALES[scale])
            done = train(text, how, config.optimizer, rates[scale, rate], config.seed + seed)
            validation[index] = done.validation
            progress.advance(message=f"{SCALES[scale]}, width {config.widths[width]}, lr {rates[scale, rate]:g}")
    return Result(np.asarray(SCALES), np.asarray(config.widths), rates, validation)


def _recipe(config: Config, width: int, scale: str) -> Recipe:
    return Recipe(
        shape=Shape(width, max(1, width // config.head_size), config.layers, config.context),
        batch=config.batch,
        steps=config.steps,
        validation=config.validation,
        warmup=config.warmup,
        eps=config.eps,
        shape_scale=scale,
        head_rate=config.reference_width / width,
    )


def best_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """Minimum of the parabola in ``log lr`` through the least loss and its neighbours; NaN at an end of the grid.

    Args:
        rates: a grid of constant ratio, ascending, shape (L,).
        losses: at the rates, shape (L,).

    Returns:
        The rate.
    """
    place = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
    if not 0 < place < len(rates) - 1 or not np.all(np.isfinite(losses[place - 1 : place + 2])):
        return float("nan")
    left, middle, right = losses[place - 1 : place + 2]
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return float(rates[place] * (rates[1] / rates[0]) ** shift)


def _best_rates(result: Result) -> np.ndarray:
    means = result.validation.mean(axis=-1)
    return np.asarray([[best_rate(r, row) for row in rows] for r, rows in zip(result.rates, means, strict=True)])


def claims(result: Result) -> list[Claim]:
    """How far the rate of least loss moves on the grid between the narrowest and the widest model."""
    means = result.validation.mean(axis=-1)
    places = np.argmin(np.where(np.isfinite(means), means, np.inf), axis=-1)
    mup, rms = places.max(axis=-1) - places.min(axis=-1)
    widths = f"from width {result.widths[0]} to {result.widths[-1]}"
    return [
        Claim.at_most(
            f"Under mup the best learning rate stays put {widths}", SOURCE, mup, 1, quantity="steps of the grid"
        ),
        Claim.at_least(
            f"Under rms it moves further {widths} (an end of the grid counts as the best rate)",
            SOURCE,
            rms - mup,
            1,
            quantity="steps of the grid more than under mup",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Loss against learning rate, one curve per width, one panel per scale."""
    figure, axes = subplots(1, 2, size=(4.6, 3.8), sharey=True)
    best, means = _best_rates(result), result.validation.mean(axis=-1)
    for axis, scale, rates, losses, minima in zip(axes[0], result.scales, result.rates, means, best, strict=True):
        for width, row, minimum, color, marker in zip(result.widths, losses, minima, COLORS, MARKERS, strict=False):
            axis.semilogx(rates, row, marker=marker, color=color, label=f"width {width}")
            axis.axvline(minimum, color=color, ls=":", lw=1)
        axis.set(xlabel="peak learning rate", title=f'scale "{scale}"')
    axes[0, 0].set_ylabel("validation loss, nats/byte")
    axes[0, 1].legend(title="dotted: best rate")
    return {"Validation loss against learning rate at several widths": figure}
