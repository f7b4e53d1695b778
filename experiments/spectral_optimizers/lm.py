"""A byte-level language model trained with every exponent of the spectrum, with random spectra, and with Adam.

One learning rate serves all maps, because every update has the size of a polar factor. Loss is measured on text that
was not trained on, in nats per byte; the text is the standard library of the running Python, so that figures move a
little with its version. Where several learning rates are tried, each optimiser gets its best.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments._gpt import Shape
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from experiments.spectral_optimizers._text import Text, standard_library_text
from experiments.spectral_optimizers._training import Recipe, Run, gradient_of_batch, matrix_transformation, train
from jaxspec.linalg.decompositions import svd

SOURCE = "abstract; specification, section 7.1"
MUON, INVERTED, SGD_DIRECTION, SIGNED = "c=0.5", "c=0.75", "c=0", "signed noise"
SHOWN_MAPS = ("c=0.25", MUON, INVERTED, "Kaon")


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 0  # first seed
    seeds: int = 1  # runs of every cell
    width: int = 96  # of the residual stream
    heads: int = 4
    layers: int = 2
    context: int = 64  # bytes
    batch: int = 16  # windows per step
    steps: int = 100
    validation: int = 256  # fixed windows
    warmup: int = 10  # steps of linear warm-up; then linear decay to a tenth
    eps: float = 1e-3  # regularisation of the powers, relative to the Frobenius norm
    optimizers: tuple[str, ...] = ("Adam", SGD_DIRECTION, MUON, INVERTED, "Kaon", SIGNED)
    rates: tuple[float, ...] = (0.02,)  # peak learning rates of the spectral maps
    adam_rates: tuple[float, ...] = (3e-3,)  # of Adam on the matrices, as many
    sgd_rates: tuple[float, ...] = (0.1,)  # of SGD and truncated SGD, as many


PRESETS = {
    "quick": Config(),
    # 192 runs of 3000 steps: hours on one accelerator, divided by the number of devices
    "full": Config(
        seeds=3,
        width=512,
        heads=8,
        layers=8,
        context=512,
        batch=64,
        steps=3000,
        warmup=100,
        optimizers=(
            "Adam",
            SGD_DIRECTION,
            "c=0.25",
            "c=0.4",
            MUON,
            "c=0.6",
            "c=0.6667",
            INVERTED,
            "c=0.9",
            "c=1",
            "Kaon",
            "Kaon T=8",
            "Kaon iid",
            SIGNED,
            "SGD",
            "truncated SGD",
        ),
        rates=(0.005, 0.01, 0.02, 0.04),
        adam_rates=(1e-3, 3e-3, 5e-3, 1e-2),
        sgd_rates=(0.05, 0.1, 0.2, 0.5),
    ),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        optimizers: names, shape (O,).
        rates: peak learning rate of the matrices, shape (O, L).
        validation: final loss on the validation text, nats per byte, shape (O, L, S) for S seeds.
        train: loss of every batch, first seed, shape (O, L, steps).
        spectrum: singular values of the gradient of one matrix after a Muon run, over the largest, shape (r,).
        maps: names of the maps of that gradient, shape (M,).
        mapped: ``u_i^T F(G) v_i`` for every map, in units of a polar factor, shape (M, r).
        text: first digits of the SHA-256 of the text.
    """

    optimizers: Any
    rates: Any
    validation: Any
    train: Any
    spectrum: Any
    maps: Any
    mapped: Any
    text: Any


def recipe(config: Config) -> Recipe:
    """How every run trains."""
    return Recipe(
        shape=Shape(config.width, config.heads, config.layers, config.context),
        batch=config.batch,
        steps=config.steps,
        validation=config.validation,
        warmup=config.warmup,
        eps=config.eps,
    )


def run(config: Config, progress: Progress) -> Result:
    """Trains every optimiser at every learning rate from every seed."""
    text, how = standard_library_text(), recipe(config)
    table = np.asarray([_rates(config, name) for name in config.optimizers])
    cells = [*table.shape, config.seeds]
    validation, curves = np.full(cells, np.nan), np.full([*table.shape, config.steps], np.nan)
    muon_run = None
    with progress.stage("training steps", total=int(np.prod(cells)) * config.steps):
        for o, r, s in np.ndindex(*cells):
            name = config.optimizers[o]
            done = train(text, how, name, table[o, r], config.seed + s, advance=progress.advance)
            validation[o, r, s] = done.validation
            if s == 0:
                curves[o, r] = done.train
            if name == MUON:
                muon_run = done
    spectrum, mapped = _one_update(config, text, muon_run)
    names, maps = np.asarray(config.optimizers), np.asarray(SHOWN_MAPS)
    return Result(names, table, validation, curves, spectrum, maps, mapped, text.digest)


def _rates(config: Config, name: str) -> tuple[float, ...]:
    if name == "Adam":
        return config.adam_rates
    return config.sgd_rates if name in ("SGD", "truncated SGD") else config.rates


def _one_update(config: Config, text: Text, trained: Run | None) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of the gradient of the first layer's ``up`` kernel, and what the maps make of them."""
    if trained is None:
        raise ValueError(f"optimizers is {config.optimizers}; the figure of one update needs {MUON!r} among them")
    key = jax.random.key(config.seed)
    gradient = gradient_of_batch(trained.model, text, recipe(config), key).blocks.up[:1]
    u, s, vt = svd(gradient[0])
    rows = []
    for name in SHOWN_MAPS:
        tx = matrix_transformation(name, key, beta=0.0, eps=config.eps, shape_scale="none")
        image, _ = jax.jit(tx.update)({"up": gradient}, tx.init({"up": gradient}))
        rows.append(np.einsum("mr,mn,rn->r", u, image["up"][0], vt))
    return np.asarray(s / s[0]), np.asarray(rows)


def claims(result: Result) -> list[Claim]:
    """The orderings of the paper, on every seed."""
    loss = {name: _at_best_rate(values) for name, values in zip(result.optimizers, result.validation, strict=True)}
    rows = [
        Claim.at_most(
            "Kaon, whose spectrum is random, trains as well as Muon",
            SOURCE,
            np.abs(loss["Kaon"] - loss[MUON]),
            0.05,
            quantity="|loss(Kaon) - loss(Muon)|, nats/byte",
        ),
        Claim.at_least(
            "An inverted spectrum (c = 3/4) trains better than Muon",
            SOURCE,
            loss[MUON] - loss[INVERTED],
            0.04,
            quantity="loss(Muon) - loss(c = 3/4), nats/byte",
        ),
        Claim.at_least(
            "Muon trains better than Adam",
            SOURCE,
            loss["Adam"] - loss[MUON],
            0.12,
            quantity="loss(Adam) - loss(Muon), nats/byte",
        ),
        Claim.at_least(
            "The direction of SGD at the same size of update (c = 0) trains worse than Adam",
            SOURCE,
            loss[SGD_DIRECTION] - loss["Adam"],
            0.0,
            quantity="loss(c = 0) - loss(Adam), nats/byte",
        ),
    ]
    if SIGNED in loss:
        rows.append(
            Claim.at_least(
                "Negative control: random singular values of both signs do not train as well as non-negative ones",
                "specification, section 2",
                loss[SIGNED] - loss["Kaon"],
                0.15,
                quantity="loss(signed) - loss(Kaon), nats/byte",
            )
        )
    return rows


def _at_best_rate(values: np.ndarray) -> np.ndarray:
    """Losses of all seeds at the rate of least mean loss; NaN (a run that diverged) is never the best."""
    means = values.mean(axis=-1)
    return values[int(np.argmin(np.where(np.isfinite(means), means, np.inf)))]


def figures(result: Result) -> dict[str, Figure]:
    """Loss against exponent, training curves, one update's spectra, and loss against learning rate if it was varied."""
    drawn = {
        "Validation loss against the exponent c of the update U S^(1-2c) V^T": _against_exponent(result),
        "Training curves, at the best learning rate of each optimiser": _curves(result),
        "What the maps make of the spectrum of one gradient": _spectra(result),
    }
    if result.rates.shape[1] > 1:
        drawn["Validation loss against learning rate"] = _sensitivity(result)
    return drawn


def _against_exponent(result: Result) -> Figure:
    figure, axes = subplots(size=(6.2, 4.0))
    axis = axes[0, 0]
    powers = [o for o, name in enumerate(result.optimizers) if name.startswith("c=")]
    exponents = [float(result.optimizers[o].removeprefix("c=")) for o in powers]
    for r, color in zip(range(result.rates.shape[1]), COLORS, strict=False):
        losses = result.validation[powers, r]
        axis.plot(exponents, losses.mean(axis=-1), "o-", color=color, label=f"lr {result.rates[powers[0], r]:g}")
        axis.plot(exponents, losses, "_", color=color)
    others = [o for o in range(len(result.optimizers)) if o not in powers]
    for o, color in zip(others, COLORS[::-1], strict=False):
        level = _at_best_rate(result.validation[o]).mean()
        axis.axhline(level, color=color, ls=":")
        axis.annotate(result.optimizers[o], (1, level), xycoords=("axes fraction", "data"), fontsize=8, color=color)
    axis.set(xlabel="exponent c  (0: SGD, 1/2: Muon)", ylabel="validation loss, nats/byte")
    axis.legend(title="powers; dashes: seeds; dotted: others")
    return figure


def _curves(result: Result) -> Figure:
    figure, axes = subplots(size=(6.2, 4.0))
    window = max(1, result.train.shape[-1] // 20)
    for o, name in enumerate(result.optimizers):
        means = result.validation[o].mean(axis=-1)
        best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
        smooth = np.convolve(result.train[o, best], np.ones(window) / window, mode="valid")
        steps = np.arange(len(smooth)) + (window - 1) / 2
        axes[0, 0].plot(steps, smooth, color=COLORS[o % len(COLORS)], ls="-" if o < len(COLORS) else "--", label=name)
    axes[0, 0].set(xlabel="step", ylabel=f"training loss, mean of {window} steps, nats/byte")
    axes[0, 0].legend(ncols=2)
    return figure


def _spectra(result: Result) -> Figure:
    figure, axes = subplots(size=(6.2, 4.0))
    axis = axes[0, 0]
    axis.loglog(result.spectrum, result.spectrum / np.sqrt(np.mean(result.spectrum**2)), "k:", label="c=0 (gradient)")
    for name, values, color, marker in zip(result.maps, result.mapped, COLORS, MARKERS, strict=False):
        axis.loglog(result.spectrum, values, marker, color=color, ms=3, label=name)
    axis.set(xlabel="singular value of the gradient / largest", ylabel="singular value of the update")
    axis.legend()
    return figure


def _sensitivity(result: Result) -> Figure:
    figure, axes = subplots(size=(6.2, 4.0))
    axis = axes[0, 0]
    for o, name in enumerate(result.optimizers):
        color, line = COLORS[o % len(COLORS)], "-" if o < len(COLORS) else "--"
        axis.semilogx(result.rates[o], result.validation[o].mean(axis=-1), "o", ls=line, color=color, label=name)
    axis.set(xlabel="peak learning rate", ylabel="validation loss, nats/byte")
    axis.legend(ncols=2)
    return figure
