"""The theory elsewhere: momentum, weight decay with a schedule, a third layer, past the edge of stability, ReLU."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.dmft_spectral_dynamics._theory import SPEC, settled, single, trajectory
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.dmft import LinearConfig, simulate_linear, simulate_mlp, solve_linear, solve_nonlinear

ROWS = {"momentum": slice(0, 1), "weight decay on a cosine": slice(1, 2), "three layers": slice(2, 5)}
NAMES = ("momentum", "decay", "three layers")


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 712
    dimension: int = 240  # inputs of the linear networks
    seeds: int = 12
    steps: int = 24
    recorded: tuple[int, ...] = (4, 8, 12, 16, 20, 24)  # updates after which spectra are taken
    momentum: float = 0.5
    weight_decay: float = 1.0  # the rate falls as half a cosine to a tenth
    edge_rates: tuple[float, ...] = (0.2, 0.25, 0.3)  # learning rates: below the edge, just past it, farther
    edge_dimension: int = 120
    relu_sites: int = 30000
    relu_width: int = 600
    relu_steps: int = 20  # at a rate of 0.05, far below the edge of stability: at 0.1 the mode comes to 0.7 to 1.2
    relu_seeds: int = 24


PRESETS = {"quick": Config(), "full": Config(dimension=1000, seeds=24, edge_dimension=600, relu_width=4096)}


class Result(NamedTuple):
    """What was measured. K times, M matrices: momentum, decay, and W1, W2, W3 of three layers.

    Attributes:
        recorded: numbers of updates, shape (K,).
        theory: largest singular value, NaN inside the bulk, shape (M, steps).
        margin: escape margin, shape (M, steps).
        edges: of the bulk after every update, shape (M, steps).
        simulated: of networks, shape (M, seeds, K).
        edge_rates: learning rates, shape (E,).
        edge_theory: training loss, shape (E, steps + 1).
        edge_simulated: of networks, shape (E, seeds, steps + 1).
        edge_mode: eta times the leading eigenvalue of the tangent kernel over 2 in theory, shape (E, K).
        relu_outputs: outputs in theory after every update, shape (T, P).
        relu_simulated: of networks, shape (seeds, T, P).
        relu_top: largest singular value of the hidden matrix in theory at the end.
        relu_found: of networks, shape (seeds,).
    """

    recorded: Any
    theory: Any
    margin: Any
    edges: Any
    simulated: Any
    edge_rates: Any
    edge_theory: Any
    edge_simulated: Any
    edge_mode: Any
    relu_outputs: Any
    relu_simulated: Any
    relu_top: Any
    relu_found: Any


def relu(h: jax.Array) -> jax.Array:
    """Positive part."""
    return jnp.maximum(h, 0.0)


def _cases(config):
    cosine = 0.12 * (0.55 + 0.45 * np.cos(np.pi * np.arange(config.steps) / config.steps))
    return (
        LinearConfig(1, 2.0, 3.0, 4.0, 0.05, 0.5, 0.2, momentum=config.momentum),
        LinearConfig(1, 2.0, 3.0, 4.0, jnp.asarray(cosine), 0.5, 0.2, weight_decay=config.weight_decay),
        LinearConfig(3, 1.0, 3.0, 3.0, 0.07, 0.5),
    )


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    rows = []
    for index, name in enumerate(NAMES):
        rows.extend(_linear(config, index, name, progress))
    theory, margin, edges, simulated = (np.stack(part) for part in zip(*rows, strict=True))
    beyond = _past_the_edge(config, progress)
    return Result(
        np.array(config.recorded), theory, margin, edges, simulated, np.array(config.edge_rates), *beyond,
        *_relu(config, progress),
    )  # fmt: skip


def _linear(config, index, name, progress):
    with progress.stage(f"theory, {name}"), jax.enable_x64(True):
        cfg = _cases(config)[index]
        times = jnp.arange(1, config.steps + 1)
        layers = solve_linear(cfg, config.steps).layers
        found = [tuple(np.asarray(part) for part in trajectory(fields, times)) for fields in layers]
        kept = np.cumprod(1 - np.broadcast_to(np.asarray(cfg.eta * cfg.weight_decay), config.steps))
        edges = [kept * np.sqrt(cfg.sigma2) * (1 + np.sqrt(float(fields.aspect))) for fields in layers]
    keys = jax.random.split(jax.random.key(config.seed + index), config.seeds)
    with progress.stage(f"networks, {name}"):

        def train(key):
            return simulate_linear(
                key, _cases(config)[index], config.dimension, config.steps, config.recorded, top=1
            ).singular_values[:, :, 0]

        simulated = np.moveaxis(single(train, keys), 2, 0)
    return [(*pair, edge, sim) for pair, edge, sim in zip(found, edges, simulated, strict=True)]


def _past_the_edge(config, progress):
    theory, simulated, modes = [], [], []
    keys = jax.random.split(jax.random.key(config.seed + 10), config.seeds)
    with progress.stage("past the edge", total=len(config.edge_rates)):
        for eta in config.edge_rates:
            with jax.enable_x64(True):
                cfg = LinearConfig(1, 2.0, 6.0, 4.0, jnp.asarray(eta), 0.25)
                solution = solve_linear(cfg, config.steps, ntk_times=config.recorded)
                theory.append(np.asarray(solution.train))
                modes.append(eta / 2 * np.asarray(solution.ntk_top))

            def train(key, eta=eta):
                cfg = LinearConfig(1, 2.0, 6.0, 4.0, jnp.asarray(eta), 0.25)
                return simulate_linear(key, cfg, config.edge_dimension, config.steps).train

            simulated.append(single(train, keys))
            progress.advance()
    return np.stack(theory), np.stack(simulated), np.stack(modes)


def _relu(config, progress):
    data, sites, nets = jax.random.split(jax.random.key(config.seed + 20), 3)
    x = np.asarray(jax.random.normal(data, (3, 8)))
    y = np.array([1.0, -1.0, 1.0])
    options = {"depth": 2, "eta": 0.05, "gamma0": 4.0, "steps": config.relu_steps, "activation": relu, "sigma_w": 1.2}
    with progress.stage("theory, ReLU"), jax.enable_x64(True):
        points = jnp.asarray(x, float)
        kx = points @ points.T / 8
        more = {"num_sites": config.relu_sites, "response": "stein"}
        solution = solve_nonlinear(sites, kx, jnp.asarray(y), **options, **more)
        top = np.asarray(trajectory(solution.layers[0], jnp.array([config.relu_steps]))[0][0])
        outputs = np.asarray(solution.f)

    def train(key):
        points, targets = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
        return simulate_mlp(
            key, points, targets, width=config.relu_width, record=(config.relu_steps,), top=1, **options
        )

    with progress.stage("networks, ReLU"):
        found = single(train, jax.random.split(nets, config.relu_seeds))
    return outputs, found.f, top, found.singular_values[:, 0, 0, 0]


def claims(result: Result) -> list[Claim]:
    """Where the theory holds, and where a finite network leaves it."""
    at = result.recorded - 1
    quiet = settled(result.theory, result.margin)[:, at]
    error = np.abs(result.simulated.mean(axis=1) / result.theory[:, at] - 1)
    return [
        *(
            Claim.at_most(
                f"Outliers follow the theory with {name}",
                SPEC,
                error[rows][quiet[rows]],
                0.02,
                quantity="|theory - mean of networks| / theory, margin above 0.3 and not steep",
            )
            for name, rows in ROWS.items()
        ),
        *_edge_claims(result),
        Claim.at_most(
            "A ReLU network follows the theory: outputs",
            "ours",
            np.abs(result.relu_simulated.mean(axis=0) - result.relu_outputs),
            0.05,
            quantity="|theory - mean of networks|",
        ),
        Claim.at_most(
            "and its outlier",
            "ours",
            np.abs(result.relu_found.mean() / result.relu_top - 1),
            0.02,
            quantity="|theory - mean of networks| / theory, last update",
        ),
    ]


def _edge_claims(result):
    """Where the theory stays exact around the edge of stability."""
    start = result.edge_theory[:, :1]
    away = np.abs(result.edge_simulated.mean(axis=1) - result.edge_theory) / start
    late = result.edge_theory.shape[1] // 2
    turns = [np.sign(np.diff(path[late:])) for path in (result.edge_theory[1], result.edge_simulated[1].mean(axis=0))]
    return [
        Claim.at_most(
            "Below the edge of stability the loss is that of the theory",
            "ours",
            away[0],
            0.05,
            quantity="|theory - mean of networks| over the first loss",
        ),
        Claim.at_most(
            "Just past it too: the loss oscillates",
            "ours",
            away[1],
            0.1,
            quantity="|theory - mean of networks| over the first loss",
        ),
        Claim.at_least(
            "with period two in theory and in networks",
            "ours",
            min(np.mean(turns[0] == turns[1]), np.mean(turns[0][1:] == -turns[0][:-1])),
            1,
            quantity="share of updates in the second half at which both turn, and turn alike",
        ),
        Claim.at_least(
            "Farther past it the path is sensitive: networks leave the theory",
            "ours",
            np.max(away[2, late:]),
            0.1,
            quantity="|theory - mean of networks| over the first loss, second half, largest",
        ),
        Claim.at_most(
            "though not in the first updates",
            "ours",
            away[2, :5],
            0.05,
            quantity="|theory - mean of networks| over the first loss, four updates",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Outliers, losses around the edge, outputs of a ReLU network."""
    names = ("momentum", "decay on a cosine", "W1 of three", "W2 of three", "W3 of three")
    figure, axes = subplots(1, 5, size=(2.9, 3.0))
    times = np.arange(1, result.theory.shape[1] + 1)
    for i, (ax, name) in enumerate(zip(axes[0], names, strict=True)):
        ax.plot(times, result.theory[i], color=COLORS[0], label="theory")
        ax.plot(times, result.edges[i], color=COLORS[6], ls=":", label="edge of the bulk")
        _networks(ax, result.recorded, result.simulated[i])
        ax.set(xlabel="updates", ylabel="largest singular value", title=name)
    axes[0, 0].legend()
    edge, axes = subplots(1, len(result.edge_rates), size=(3.4, 3.0))
    for i, (ax, eta) in enumerate(zip(axes[0], result.edge_rates, strict=True)):
        ax.plot(result.edge_theory[i], color=COLORS[0], label="theory")
        _networks(ax, np.arange(result.edge_theory.shape[1]), result.edge_simulated[i])
        ax.set(xlabel="updates", ylabel="training loss", title=f"eta = {eta:g}")
    axes[0, 0].legend()
    relu_figure, axes = subplots(1, 1, size=(4.6, 3.2))
    for n in range(result.relu_outputs.shape[1]):
        axes[0, 0].plot(result.relu_outputs[:, n], color=COLORS[n % 7], label=f"point {n + 1}")
        _networks(axes[0, 0], np.arange(len(result.relu_outputs)), result.relu_simulated[..., n], COLORS[n % 7], "")
    axes[0, 0].set(xlabel="updates", ylabel="output")
    axes[0, 0].legend()
    return {
        "Other ways of training (bars: standard error over networks)": figure,
        "Around the edge of stability": edge,
        "A ReLU network": relu_figure,
    }


def _networks(ax, times, found, color=COLORS[3], label="networks"):
    error = found.std(0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else None
    ax.errorbar(times, found.mean(0), error, fmt="o", ms=3, color=color, label=label or None)
