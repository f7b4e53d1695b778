"""How finite networks scatter around the theory, foretold by small ones; and many outputs with both layers trained."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import SPEC, single, trajectory
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import LinearConfig, extensive_modes, finite_width, simulate_linear, solve_linear
from jaxspec.linalg import singular_values

ROW = LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5, 0.2)


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 909
    small: int = 60  # inputs of the networks that foretell
    small_seeds: int = 96
    sizes: tuple[int, ...] = (120, 240)  # inputs of the networks they are held against
    seeds: int = 32
    recorded: tuple[int, ...] = (4, 6, 8, 12, 16, 24)  # updates
    inputs: int = 200  # and outputs, both layers trained
    widths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)  # over inputs
    eta: float = 0.1
    sigma2: float = 0.5
    steps: int = 30


PRESETS = {
    "quick": Config(),
    "full": Config(
        small_seeds=512, sizes=(120, 240, 480, 960), seeds=64, inputs=500, widths=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    ),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        recorded: numbers of updates, shape (K,).
        theory: largest singular value, shape (K,).
        sizes: inputs, shape (S,).
        deviation: foretold standard deviation of a network, shape (S, K).
        measured: standard deviation of networks of that size, shape (S, K).
        shift: foretold mean minus theory, shape (S, K).
        shift_error: its standard error, shape (S, K).
        mean: of networks, shape (S, K).
        relative_error: of the foretold and of the measured standard deviation, shape (2,).
        widths: over inputs, both layers trained with as many outputs as inputs, shape (W,).
        distance: mean distance between sorted singular values of the first layer and their limit, shape (W,).
        spectra: singular values of the first layer, sorted, shape (W, inputs).
        limit: those of infinite width, sorted, shape (inputs,).
    """

    recorded: Any
    theory: Any
    sizes: Any
    deviation: Any
    measured: Any
    shift: Any
    shift_error: Any
    mean: Any
    relative_error: Any
    widths: Any
    distance: Any
    spectra: Any
    limit: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    last = config.recorded[-1]
    with progress.stage("theory"), jax.enable_x64(True):
        theory = np.asarray(trajectory(solve_linear(ROW, last).layers[0], jnp.array(config.recorded))[0])
    with progress.stage("small networks"):
        small = _networks(config, config.small, config.small_seeds)
    bars, found = [], []
    with progress.stage("larger networks", total=len(config.sizes)):
        for size in config.sizes:
            bars.append(finite_width(jnp.asarray(theory, jnp.float32), jnp.asarray(small), config.small, size))
            found.append(_networks(config, size, config.seeds))
            progress.advance()
    foretold = [np.stack([np.asarray(bar[i]) for bar in bars]) for i in (0, 2, 3)]
    errors = np.array([float(bars[0].relative_error), 1 / np.sqrt(2 * (config.seeds - 1))])
    with progress.stage("both layers, many outputs"):
        spectra, limit = _both_layers(config)
    return Result(
        np.array(config.recorded), theory, np.array(config.sizes), foretold[0],
        np.stack([values.std(axis=0, ddof=1) for values in found]), *foretold[1:],
        np.stack([values.mean(axis=0) for values in found]), errors, np.array(config.widths),
        np.mean(np.abs(spectra - limit), axis=1), spectra, limit,
    )  # fmt: skip


def _networks(config, dimension, seeds):
    """Largest singular value of every network at the recorded times, (seeds, K)."""
    keys = jax.random.split(jax.random.key(config.seed + dimension), seeds)

    def train(key):
        found = simulate_linear(key, ROW, dimension, config.recorded[-1], config.recorded, top=1)
        return found.singular_values[:, 0, 0]

    return single(train, keys)


def _both_layers(config):
    """First layer after training both on the same square target, and its limit of infinite width."""
    d = config.inputs
    key = jax.random.key(config.seed)
    target = 1.5 * jax.random.normal(jax.random.fold_in(key, 0), (d, d)) / np.sqrt(d)
    spectra = []
    for nu in config.widths:
        width = round(nu * d)
        first, second = jax.random.split(jax.random.fold_in(key, width))
        start = (
            jax.random.normal(first, (width, d)) * np.sqrt(config.sigma2 / width),
            jax.random.normal(second, (d, width)) * np.sqrt(config.sigma2 / width),
        )

        def update(_, state):
            w, v = state
            error = target - v @ w
            return w + config.eta * v.T @ error, v + config.eta * error @ w.T

        w, _ = jax.jit(lambda state, update=update: jax.lax.fori_loop(0, config.steps, update, state))(start)
        spectra.append(np.sort(np.asarray(singular_values(w))))
    modes = extensive_modes(singular_values(target), config.eta, config.steps, config.sigma2, config.sigma2)
    return np.stack(spectra), np.sort(np.asarray(modes.singular_values[-1]))


def claims(result: Result) -> list[Claim]:
    """How far the error bars go, and how fast the limit of many outputs is reached."""
    ratio = np.sqrt(np.mean(result.measured**2, axis=1) / np.mean(result.deviation**2, axis=1))
    sample = result.measured / np.sqrt(1 / (2 * result.relative_error[1] ** 2) + 1)
    away = np.abs(result.mean - result.theory - result.shift) / np.hypot(sample, result.shift_error)
    slope = np.polyfit(np.log(result.widths), np.log(result.distance), 1)[0]
    return [
        Claim.at_most(
            "Small networks foretell how networks of other sizes scatter",
            "ours",
            np.abs(np.log(ratio)),
            np.log(1.35),
            quantity="|log of measured over foretold standard deviation|, root mean square over times",
        ),
        Claim.at_most(
            "and where their mean lies", "ours", away, 4, quantity="|mean - theory - shift| in standard errors"
        ),
        Claim.at_most(
            "The shift of the mean is small",
            SPEC,
            np.abs(result.mean / result.theory - 1)[:, result.recorded >= 8],
            0.02,
            quantity="|mean of networks / theory - 1| from the eighth update on",
        ),
        # Noise of the initial weights is of size 1 / sqrt(N/D), but in a random basis: singular values do not see it to
        # first order.
        Claim.close_to(
            "As many outputs as inputs, both layers: the limit of infinite width is reached as 1 / (N/D)",
            "ours",
            slope,
            -1.0,
            0.25,
            quantity="slope of log distance against log width",
        ),
        Claim.at_most(
            "At N/D = 16 the first layer's spectrum is that of the limit within 2%",
            "ours",
            (result.distance / result.limit.mean())[result.widths >= 16],
            0.02,
            quantity="mean distance of sorted singular values over their mean",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Error bars and spectra."""
    figure, axes = subplots(1, len(result.sizes), size=(4.0, 3.3), sharey=True)
    for i, size in enumerate(result.sizes):
        ax, centre = axes[0, i], result.theory + result.shift[i]
        low, high = centre - result.deviation[i], centre + result.deviation[i]
        ax.plot(result.recorded, result.theory, color=COLORS[0], label="theory")
        ax.fill_between(result.recorded, low, high, color=COLORS[0], alpha=0.2, label="one network, foretold")
        ax.errorbar(result.recorded, result.mean[i], result.measured[i], fmt="o", color=COLORS[3], label="networks")
        ax.set(xlabel="updates", ylabel="largest singular value", title=f"D = {size}")
    axes[0, 0].legend()
    spectra, axes = subplots(1, 1, size=(4.8, 3.3))
    for i, width in enumerate(result.widths):
        axes[0, 0].plot(result.limit, result.spectra[i], ".", ms=3, color=COLORS[i % 7], label=f"N/D = {width:g}")
    axes[0, 0].plot(result.limit, result.limit, color="black", lw=0.8)
    axes[0, 0].set(xlabel="limit of infinite width", ylabel="singular value (sorted)")
    axes[0, 0].legend()
    return {
        "Scatter of finite networks (bars: standard deviation of one)": figure,
        "Both layers, as many outputs as inputs": spectra,
    }
