"""Measured spectra over the predicted bulk: digits with 1, 10 and 64 outputs, and a checkpoint of one's own.

An illustration, measured and not predicted: real images are no points of the theory. The handwritten digits are those
of scikit-learn (UCI, CC BY 4.0). For a matrix of your own:

    python -m experiments run dmft_spectral_dynamics.checkpoint --checkpoint model.safetensors --tensor NAME
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import overlay
from jaxspec.linalg import singular_values
from jaxspec.peeled import read_tensor_rows

TENSOR = "hidden.weight"
PIXELS = 64


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 31
    seeds: int = 3  # networks for each number of outputs
    outputs: tuple[int, ...] = (1, 10, 64)  # odd or even, the digit, the image itself
    images: int = 500
    width: int = 400
    steps: int = 100
    eta: float = 0.5
    gamma0: float = 2.0
    sigma_w: float = 1.0
    checkpoint: str = ""  # a safetensors file to show; empty: that of the first network with 10 outputs
    tensor: str = TENSOR  # the matrix in it


PRESETS = {"quick": Config(), "full": Config(seeds=10, images=1797, width=2000)}


class Result(NamedTuple):
    """What was measured on the matrix between two hidden layers.

    Attributes:
        outputs: numbers of outputs, shape (C,).
        loss: of the training, first and last over first, shape (C, seeds).
        before: singular values outside the bulk before training, shape (C, seeds).
        counts: after training, shape (C, seeds).
        distance: Kolmogorov-Smirnov distance of the other singular values from the law, shape (C, seeds).
        estimated: variance of the bulk, estimated from the trained matrix, over the known one, shape (C, seeds).
        spectra: singular values of the first network after training, shape (C, width).
        edge: of the bulk, of a network.
        shown: singular values of the matrix in the checkpoint, shape (n,).
        shown_edges: of its bulk, shape (2,).
        shown_above: how many are above it.
        grid: singular values, shape (points,).
        density: of the law of the bulk, shape (points,).
        file_error: relative difference between the matrix in the file and in memory; 0 for a user's file.
    """

    outputs: Any
    loss: Any
    before: Any
    counts: Any
    distance: Any
    estimated: Any
    spectra: Any
    edge: Any
    shown: Any
    shown_edges: Any
    shown_above: Any
    grid: Any
    density: Any
    file_error: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    images, digits = _images(config)
    cells, spectra, kept = [], [], None
    for outputs in config.outputs:
        targets, runs = _targets(images, digits, outputs), []
        with progress.stage(f"{outputs} outputs", total=config.seeds):
            for seed in range(config.seeds):
                runs.append(_network(config, images, targets, seed))
                progress.advance()
        cells.append([own[0] for own in runs])
        spectra.append(np.asarray(runs[0][1]))
        kept = np.asarray(runs[0][2]) if outputs == 10 or kept is None else kept
    loss, before, counts, distance, estimated = np.moveaxis(np.array(cells, float), 2, 0)
    with progress.stage("checkpoint"):
        shown, bulk, error = _checkpoint(config, kept)
    edge = 2 * config.sigma_w
    return Result(
        np.array(config.outputs), loss, before, counts, distance, estimated, np.stack(spectra), np.asarray(edge),
        shown, np.asarray(bulk.edges), np.asarray(bulk.count), np.asarray(bulk.grid), np.asarray(bulk.density),
        np.asarray(error),
    )  # fmt: skip


def _images(config):
    data = load_digits()
    chosen = np.random.default_rng(config.seed).permutation(len(data.target))[: config.images]
    images = data.data[chosen] - data.data[chosen].mean(axis=0)
    return (images / images.std()).astype(np.float32), data.target[chosen]


def _targets(images, digits, outputs):
    """Odd or even; the digit; or the image: columns of variance 1 over all images."""
    if outputs == 1:
        columns = np.where(digits % 2, 1.0, -1.0)[:, None]
    elif outputs == 10:
        columns = np.eye(10)[digits]
    else:
        columns = images[:, :outputs]
    columns = columns - columns.mean(axis=0)
    return (columns / columns.std()).astype(np.float32)


def _network(config, images, targets, seed):
    """Two hidden layers of tanh in the muP scaling, by gradient descent on all images."""
    n, outputs = config.width, targets.shape[1]
    keys = jax.random.split(jax.random.key(config.seed + 1000 * outputs + seed), 3)
    shapes = [(n, PIXELS), (n, n), (outputs, n)]
    params = [config.sigma_w * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    x, y = jnp.asarray(images), jnp.asarray(targets)

    def loss(params):
        first, second, readout = params
        signal = jnp.tanh(second @ jnp.tanh(first @ x.T / PIXELS**0.5) / n**0.5)
        return jnp.sum((y.T - readout @ signal / (config.gamma0 * n)) ** 2) / (2 * len(x))

    rate = config.eta * config.gamma0**2 * n

    @jax.jit
    def train(params):
        def update(params, _):
            value, grads = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), value

        return jax.lax.scan(update, params, None, length=config.steps)

    trained, losses = train(params)
    values = [singular_values(w[1]) / n**0.5 for w in (params, trained)]
    start, end, free = (
        overlay(values[0], (n, n), config.sigma_w**2),
        overlay(values[1], (n, n), config.sigma_w**2),
        overlay(values[1], (n, n)),
    )
    numbers = losses[-1] / losses[0], start.count, end.count, end.distance, free.sigma2 / config.sigma_w**2
    return [float(number) for number in numbers], values[1], trained[1]


def _checkpoint(config, matrix):
    """The spectrum of a matrix in a file over its bulk, its variance estimated."""
    with tempfile.TemporaryDirectory() as folder:
        path = config.checkpoint or str(Path(folder) / "digits.safetensors")
        if not config.checkpoint:
            save_file({TENSOR: matrix}, path)
        read = np.asarray(read_tensor_rows(path, config.tensor if config.checkpoint else TENSOR), np.float32)
    if read.ndim != 2:
        raise ValueError(f"tensor {config.tensor} has shape {read.shape}; expected a matrix")
    error = 0.0 if config.checkpoint else np.max(np.abs(read - matrix)) / np.max(np.abs(matrix))
    values = singular_values(jnp.asarray(read))
    return np.asarray(values), overlay(values, read.shape), error


def claims(result: Result) -> list[Claim]:
    """What the paper says of synthetic data, looked for on real data."""
    mean = result.counts.mean(axis=1)
    few = result.outputs <= 10
    return [
        Claim.at_most("Before training nothing is outside the bulk", SPEC, result.before, 1, quantity="outliers"),
        Claim.at_most("The networks learn", SPEC, result.loss, 0.9, quantity="last loss over first"),
        Claim.at_least("Training makes outliers", f"{PAPER}; {SPEC}", result.counts, 1, quantity="outliers"),
        Claim.at_least(
            "More outputs, more outliers",
            f"{PAPER}; {SPEC}",
            np.diff(mean) if len(mean) > 1 else np.nan,
            1,
            quantity="rise of their mean number from one task to the next",
        ),
        Claim.at_most(
            "With up to ten outputs the bulk stays",
            f"{PAPER}; {SPEC}",
            result.distance[few],
            0.05,
            quantity="KS distance",
        ),
        Claim.close_to(
            "The trained matrix alone tells the variance of its bulk (up to ten outputs)",
            SPEC,
            result.estimated[few],
            1.0,
            0.05,
            quantity="estimated over known",
        ),
        Claim.at_most("The file holds the matrix", SPEC, result.file_error, 0, quantity="relative difference"),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Spectra."""
    count = len(result.outputs)
    figure, axes = subplots(1, count, size=(3.4, 3.1))
    for i, outputs in enumerate(result.outputs):
        ax = axes[0, i]
        ax.hist(result.spectra[i], bins=60, density=True, color=COLORS[i % 7], alpha=0.5)
        ax.axvline(float(result.edge), color=COLORS[6], ls=":")
        ax.set(xlabel="singular value", ylabel="density", yscale="log", title=f"{outputs} outputs")
    own, axes = subplots(1, 1, size=(5.0, 3.3))
    axes[0, 0].hist(result.shown, bins=80, density=True, color=COLORS[0], alpha=0.5, label="checkpoint")
    axes[0, 0].plot(result.grid, result.density, color=COLORS[3], label="bulk of its untrained entries")
    axes[0, 0].set(xlabel="singular value", ylabel="density", yscale="log", ylim=(1e-4 * result.density.max(), None))
    axes[0, 0].set_title(f"{int(result.shown_above)} singular values outside the bulk")
    axes[0, 0].legend()
    return {"Digits: the matrix between the hidden layers (dotted: edge of the bulk)": figure, "A checkpoint": own}
