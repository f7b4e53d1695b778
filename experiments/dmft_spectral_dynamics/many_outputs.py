"""With as many outputs as inputs no outlier separates: the whole bulk moves, and its edge converges with width."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import PAPER, SPEC
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import FrozenConfig, extensive_frozen, extensive_modes, generalized_mp
from jaxspec.linalg import singular_values, spectral_norm

ETA, GAMMA0, SIGMA2 = 0.1, 1.5, 0.5


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 12
    dimension: int = 300  # inputs, and outputs where they are extensive, both layers trained
    frozen_dimension: int = 500  # the same, readout frozen: edges of finite matrices lie inside by the power -2/3 of it
    frozen_widths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # over inputs, readout frozen
    draws: int = 3  # networks with a frozen readout at each width
    specified_dimension: int = 300  # the specification's size of them
    specified_draws: int = 30  # six, at first, left 2.51 %, within noise of the criterion
    times: tuple[int, ...] = (0, 1, 3, 10, 30)
    trained_widths: tuple[int, ...] = (150, 300, 600, 1200, 2400)  # both layers trained
    outputs: tuple[float, ...] = (1, 3, 30, 300)  # both layers trained, width 600
    width: int = 600
    steps: int = 30
    points: int = 250  # of the predicted densities


PRESETS = {
    "quick": Config(),
    "full": Config(dimension=1000, frozen_dimension=1000, points=1000),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        widths: over inputs, readout frozen, shape (W,).
        times: shape (T,).
        edges: predicted, shape (W, T).
        largest: singular value of the network, mean over draws, shape (W, T).
        specified_error: of the edges at the specification's size, relative, mean over draws, shape (W, T).
        distance: Kolmogorov-Smirnov distance between prediction and network, the largest of all draws, shape (W, T).
        grid: singular values at which the last prediction is shown, shape (W, points).
        density: predicted at the last time, mass 1, shape (W, points).
        frozen: singular values at the last time, padded with NaN, shape (W, frozen_dimension).
        trained_widths: shape (V,).
        trained_edges: largest singular value with both layers trained, shape (V,).
        trained_limit: of infinite width.
        outputs: numbers of outputs, shape (C,).
        outliers: singular values above 1.02 times the initial edge, shape (C,).
        moved: Kolmogorov-Smirnov distance from the initial spectrum, shape (C,).
    """

    widths: Any
    times: Any
    edges: Any
    largest: Any
    specified_error: Any
    distance: Any
    grid: Any
    density: Any
    frozen: Any
    trained_widths: Any
    trained_edges: Any
    trained_limit: Any
    outputs: Any
    outliers: Any
    moved: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    specified = replace(config, frozen_dimension=config.specified_dimension, draws=config.specified_draws)
    indices = range(len(config.frozen_widths))
    with progress.stage("frozen readout", total=2 * len(indices)):
        frozen = [_frozen(config, index, progress) for index in indices]
        tops = [_largest(specified, index, progress) for index in indices]
    edges, largest, distance, grid, density, spectra = (np.stack(part) for part in zip(*frozen, strict=True))
    d = config.dimension
    key = jax.random.key(config.seed + 1)
    b = GAMMA0 * jax.random.normal(jax.random.fold_in(key, 0), (d, d)) / np.sqrt(d)
    with progress.stage("both layers, widths"):
        trained = [
            np.asarray(_train(jax.random.fold_in(key, width), b, width, config.steps)[1])[0]
            for width in config.trained_widths
        ]
        modes = extensive_modes(singular_values(b), ETA, config.steps, SIGMA2, SIGMA2)
    with progress.stage("both layers, outputs"):
        counts, moved = zip(*[_outputs(config, int(c)) for c in config.outputs], strict=True)
    return Result(
        np.array(config.frozen_widths),
        np.array(config.times),
        edges,
        largest,
        np.abs(np.stack(tops) / edges - 1),
        distance,
        grid,
        density,
        spectra,
        np.array(config.trained_widths),
        np.array(trained),
        np.asarray(modes.singular_values[-1].max()),
        np.array(config.outputs),
        np.array(counts),
        np.array(moved),
    )


def _frozen(config, index, progress):
    nu = config.frozen_widths[index]
    drawn = [[np.sort(np.asarray(singular_values(w))) for w in networks] for networks in _networks(config, index)]
    rows = []
    for step, time in enumerate(config.times):
        with jax.enable_x64(True):
            bulk = extensive_frozen(FrozenConfig(nu, 1.0, GAMMA0, ETA, SIGMA2), time)
            edge = float(bulk.edge)
            grid = jnp.linspace(1e-4, edge, config.points)
            density = np.asarray(generalized_mp(grid, bulk.population, bulk.weights, nu)[0])
        mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
        distances = []
        for spectra in drawn:
            s = spectra[step]
            law = np.interp(s, grid, mass / mass[-1], left=0, right=1)
            empirical = np.arange(len(s) + 1) / len(s)
            distances.append(max(np.max(empirical[1:] - law), np.max(law - empirical[:-1])))
        rows.append((edge, np.mean([spectra[step][-1] for spectra in drawn]), max(distances)))
    progress.advance()
    spectrum = np.full(config.frozen_dimension, np.nan)
    spectrum[: len(drawn[0][-1])] = drawn[0][-1]
    return *np.array(rows).T, np.asarray(grid), density / min(nu, 1.0), spectrum


def _largest(config, index, progress):
    """Largest singular values at the times, mean over the networks."""
    drawn = [[float(spectral_norm(w)) for w in networks] for networks in _networks(config, index)]
    progress.advance()
    return np.mean(drawn, axis=0)


def _networks(config, index):
    """First layers at the times, network by network."""
    for draw in range(config.draws):
        yield _first_layers(config, config.frozen_widths[index], config.seed + 100 * index + 1000 * draw)


def _first_layers(config, nu, seed):
    """One first layer at the times."""
    d = config.frozen_dimension
    width = round(nu * d)
    keys = jax.random.split(jax.random.key(seed), 3)
    v = jax.random.normal(keys[0], (d, width)) / np.sqrt(width)
    w = jax.random.normal(keys[1], (width, d)) * np.sqrt(SIGMA2 / width)
    target = GAMMA0 * jax.random.normal(keys[2], (d, d)) / np.sqrt(d)
    done = 0
    for time in config.times:
        w = jax.block_until_ready(_descend(w, v, target, time - done))
        done = time
        yield w


@jax.jit
def _descend(w, v, target, updates):
    return jax.lax.fori_loop(0, updates, lambda _, w: w + ETA * v.T @ (target - v @ w), w)


def _train(key, target, width, steps):
    """Both layers; singular values of the first one before and after."""
    outputs, d = target.shape
    first, second = jax.random.split(key)
    w = jax.random.normal(first, (width, d)) * np.sqrt(SIGMA2 / width)
    v = jax.random.normal(second, (outputs, width)) * np.sqrt(SIGMA2 / width)

    def update(_, state):
        w, v = state
        error = target - v @ w
        return w + ETA * v.T @ error, v + ETA * error @ w.T

    trained, _ = jax.jit(lambda state: jax.lax.fori_loop(0, steps, update, state))((w, v))
    return singular_values(w), singular_values(trained)


def _outputs(config, outputs):
    key = jax.random.key(config.seed + 7 * outputs)
    target = jax.random.normal(key, (outputs, config.dimension))
    target = 3 * target / singular_values(target)[0]
    before, after = (np.asarray(s) for s in _train(key, target, config.width, config.steps))
    edge = np.sqrt(SIGMA2) * (1 + np.sqrt(config.dimension / config.width))
    points = np.sort(np.concatenate([before, after]))
    laws = [np.searchsorted(np.sort(s), points, side="right") / len(s) for s in (before, after)]
    return int(np.sum(after > 1.02 * edge)), float(np.max(np.abs(laws[0] - laws[1])))


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    trained = result.outputs
    few, many = trained <= 3, trained == trained.max()
    return [
        Claim.at_most(
            "Frozen readout: edges of the moving bulk",
            f"{PAPER}; {SPEC}",
            np.abs(result.largest / result.edges - 1),
            0.025,
            quantity="|theory - network| / theory",
        ),
        Claim.at_most(
            "Frozen readout: edges at the specification's 300 inputs",
            SPEC,
            result.specified_error,
            0.025,
            quantity="|theory - network| / theory",
        ),
        Claim.at_most(
            "Frozen readout: the whole bulk", f"{PAPER}; {SPEC}", result.distance, 0.03, quantity="KS distance"
        ),
        Claim.at_most(
            "Both layers: the edge falls towards its limit with width",
            f"{PAPER}; {SPEC}",
            np.diff(np.abs(result.trained_edges - result.trained_limit)),
            0,
            quantity="rise of the distance from the limit with width",
        ),
        Claim.at_most(
            "Both layers: the limit is reached",
            SPEC,
            np.abs(result.trained_edges[-1] / result.trained_limit - 1),
            0.01,
            quantity="relative distance at the largest width",
        ),
        Claim.at_most(
            "Few outputs: exactly one outlier for each",
            f"{PAPER}; {SPEC}",
            np.abs(result.outliers[few] - trained[few]),
            0,
            quantity="|outliers - outputs|",
        ),
        Claim.at_most("Few outputs: the bulk stays", PAPER, result.moved[few], 0.02, quantity="KS distance"),
        Claim.at_least("As many outputs as inputs: it moves", PAPER, result.moved[many], 0.3, quantity="KS distance"),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Bulks and edges."""
    figure, axes = subplots(1, 2, size=(4.4, 3.4))
    for i, nu in enumerate(result.widths):
        axes[0, 0].plot(result.grid[i], result.density[i], color=COLORS[i % 7], label=f"N/D = {nu:g}")
        spectrum = result.frozen[i][np.isfinite(result.frozen[i])]
        axes[0, 0].hist(spectrum, bins=40, density=True, color=COLORS[i % 7], alpha=0.25)
    axes[0, 0].set(xlabel="singular value", ylabel="density", title="frozen readout, last time", ylim=(0, 2))
    axes[0, 0].legend()
    axes[0, 1].semilogx(result.trained_widths, result.trained_edges, "o-", color=COLORS[0])
    axes[0, 1].axhline(float(result.trained_limit), color=COLORS[6], ls=":")
    axes[0, 1].set(xlabel="width", ylabel="largest singular value", title="both layers trained")
    return {"Extensive outputs: bulks (lines: theory) and the edge against width": figure}
