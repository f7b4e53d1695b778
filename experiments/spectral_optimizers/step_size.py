"""Is it the direction or the step size? Line search against one tuned rate on a random-feature model.

With the best step for the full loss at every iteration, gradient descent beats Muon by far: the ranking reverses. With
one tuned rate Muon wins, because the best step of a spectral direction changes smoothly along a run, and that of
gradient descent jumps.

Limits of these statements: seeds differ widely, so they are made of medians over many and of weak bounds on each. The
best step of a normalised update falls with the loss: "constant" means smooth, realised by a fixed decay, and not
literally constant. A greedy line search is not optimal for Muon either: its own tuned run beats it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, band, subplots
from experiments.spectral_optimizers._random_features import (
    Model,
    along,
    batch_gradient,
    loss,
    sample_covariance,
    teacher,
)
from jaxspec.optim import MatrixDims, scale_by_freon, scale_by_kaon
from jaxspec.optim.diagnostics import roughness

SOURCE = "abstract; specification, section 7.2"
GD, MUON = "GD", "Muon"
METHODS = (GD, MUON, "Kaon", "Kaon iid")
SCHEDULES = ("constant", "linear decay")


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    seed: int = 1000  # first seed
    seeds: int = 64  # problems for line search and roughness
    tuned_seeds: int = 16  # problems for the tuned rates, the first of those, and of the harder ones
    side: int = 24  # outputs, and features
    rank: int = 24  # of the teacher
    power: float = 1.0  # decay of the variances of the features
    batch: int = 96  # fresh features per step
    steps: int = 60
    rates: int = 8  # tried, from 10^-1.75 to 1, for every method
    hard_power: float = 2.0  # of the illustration in which the best step of GD jumps most
    hard_rank: int = 1


PRESETS = {"quick": Config(), "full": Config(seeds=512, tuned_seeds=256, rates=15)}


class Result(NamedTuple):
    """What was measured. Losses are over the initial one, along a run: ``steps + 1`` of them.

    Attributes:
        methods: names, shape (M,).
        line_search: losses with the best step for the full loss at every iteration, shape (M, S, steps + 1).
        best_steps: those steps eta*, shape (M, S, steps).
        alignment: ``<g, D> / <g~, D>``, median over steps, shape (M, S).
        potential: ``<g~, D>^2 / <D, H D>`` over the loss before the step, median over steps, shape (M, S).
        rates: learning rates tried, shape (R,).
        tuned: final losses of every schedule, shape (M, 2, R, T): constant and linear decay.
        hard_steps: eta* of GD and Muon on the harder problem (rank-one teacher, steeper features), shape (2, T, steps).
    """

    methods: Any
    line_search: Any
    best_steps: Any
    alignment: Any
    potential: Any
    rates: Any
    tuned: Any
    hard_steps: Any


class Trajectory(NamedTuple):
    """One method on a stack of problems, step by step along the first axis.

    Attributes:
        losses: before every step, and at the end.
        steps: eta* of every step.
        alignment: of every direction.
        potential: of every direction, over the loss before the step.
    """

    losses: Array
    steps: Array
    alignment: Array
    potential: Array


def transformation(name: str, key: Array) -> optax.GradientTransformation:
    """The map from mini-batch gradients, a stack of matrices, to directions; no momentum, sizes of polar factors."""
    options: dict[str, Any] = {
        "beta": 0.0,
        "nesterov": False,
        "bias_correction": False,
        "shape_scale": "none",
        "dimension_numbers": MatrixDims(-2, -1),
    }
    if name == GD:
        return optax.identity()
    if name == MUON:
        return scale_by_freon(0.5, eps=0.0, engine="svd", **options)
    if name == "Kaon":
        return scale_by_kaon(in_scale=1.0, **options)
    return scale_by_kaon(key, method="iid", **options)


def run(config: Config, progress: Progress) -> Result:
    """Line search on all problems, every rate and schedule on some of them."""
    rates = np.logspace(-1.75, 0, config.rates)
    easy, hard, tuned = [], [], []
    with jax.enable_x64(True), progress.stage("methods", total=2 * len(METHODS)):
        problems = _problems(config, config.seeds, config.rank, config.power)
        hard_problems = _problems(config, config.tuned_seeds, config.hard_rank, config.hard_power)
        for name in METHODS:
            easy.append(jax.tree.map(np.asarray, _descend(config, name, *problems, None)))
            progress.advance(message=f"{name}, line search")
            if name in (GD, MUON):  # gradients of rank one leave Kaon, scaled by their own norm, nothing to act on
                hard.append(np.asarray(_descend(config, name, *hard_problems, None).steps))
            tuned.append(_tune(config, name, *problems, rates))
            progress.advance(message=f"{name}, tuned rates")
    line = Trajectory(*(np.moveaxis(np.asarray(column), 1, -1) for column in zip(*easy, strict=True)))
    return Result(
        methods=np.asarray(METHODS),
        line_search=line.losses,
        best_steps=line.steps,
        alignment=np.median(line.alignment, axis=-1),
        potential=np.median(line.potential, axis=-1),
        rates=rates,
        tuned=np.asarray(tuned),
        hard_steps=np.moveaxis(np.asarray(hard), 1, -1),
    )


def _problems(config: Config, count: int, rank: int, power: float) -> tuple[Model, Array]:
    """A stack of problems, and of keys for their mini-batches; seed by seed independent of how many there are."""
    keys = jax.vmap(jax.random.key)(config.seed + jnp.arange(count))
    split = jax.vmap(jax.random.split)(keys)
    made = jax.vmap(partial(teacher, side=config.side, rank=rank, power=power))(split[:, 0])
    return Model(made.target, made.scales[0]), split[:, 1]


def _tune(config: Config, name: str, problems: Model, keys: Array, rates: np.ndarray) -> np.ndarray:
    """Final losses over initial ones, shape (2, R, T): all rates and schedules in one stack of runs."""
    target, keys = problems.target[: config.tuned_seeds], keys[: config.tuned_seeds]
    copies = len(SCHEDULES) * len(rates)
    stacked = Model(jnp.tile(target, (copies, 1, 1)), problems.scales)
    decay = 1 - jnp.arange(config.steps) / config.steps
    plan = jnp.asarray(rates)[:, None] * jnp.stack([jnp.ones(config.steps), decay])[:, None]
    plan = jnp.repeat(plan.reshape(copies, -1), len(target), axis=0).T
    done = _descend(config, name, stacked, jnp.tile(keys, copies), plan)
    return np.asarray(done.losses[-1]).reshape(len(SCHEDULES), len(rates), len(target))


@partial(jax.jit, static_argnames=("config", "name"))
def _descend(config: Config, name: str, problems: Model, keys: Array, plan: Array | None) -> Trajectory:
    """Run all problems of a stack from W = 0; ``plan`` holds the rate of every step and run, None: line search."""
    tx = transformation(name, jax.random.key(config.seed))
    start = jnp.zeros_like(problems.target)
    initial = loss(problems, start)

    def step(carry, inputs):
        weights, state = carry
        number, rate = inputs
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        covariance = jax.vmap(partial(sample_covariance, problems, batch=config.batch))(step_keys)
        noisy = batch_gradient(problems, weights, covariance)
        direction, state = tx.update(noisy, state)
        local = along(problems, weights, noisy, direction)
        best = local.slope / local.curvature
        value = loss(problems, weights)
        seen = Trajectory(
            value / initial, best, local.slope / local.batch_slope, local.batch_slope**2 / local.curvature / value
        )
        weights = weights - (best if plan is None else rate)[:, None, None] * direction
        return (weights, state), seen

    rates = jnp.zeros((config.steps, len(initial))) if plan is None else plan
    (weights, _), seen = jax.lax.scan(step, (start, tx.init(start)), (jnp.arange(config.steps), rates))
    return seen._replace(losses=jnp.concatenate([seen.losses, (loss(problems, weights) / initial)[None]]))


def claims(result: Result) -> list[Claim]:
    """Medians over the problems, and weaker bounds on each of them."""
    place = {name: m for m, name in enumerate(result.methods)}
    final = result.line_search[..., -1]
    tuned = best_tuned(result)
    shared = final[:, : tuned.shape[-1]]
    rough = np.asarray(roughness(jnp.asarray(result.best_steps)))
    gd, muon = place[GD], place[MUON]
    reversal, steady = final[muon] / final[gd], rough[gd] / rough[muon]
    worse, wins = tuned[gd] / shared[gd], tuned[gd] / tuned[muon]
    greedy = shared[muon] / tuned[muon]
    return [
        _median("With line search gradient descent beats Muon: the ranking reverses", reversal, 20, "loss, Muon / GD"),
        _median("GD with one tuned rate is far worse than with line search", worse, 15, "loss, tuned / line search"),
        _median("With one tuned rate Muon beats gradient descent", wins, 10, "loss, GD / Muon"),
        _median("Muon's tuned run beats its own greedy line search", greedy, 10, "loss, line search / tuned"),
        _median("The best step of Muon is smoother than that of GD", steady, 3, "roughness of log eta*, GD / Muon"),
        _every("With line search GD beats Muon on every problem", reversal, 5, "loss, Muon / GD"),
        _every("Tuned Muon beats tuned GD on every problem", wins, 1, "loss, GD / Muon"),
        _every("Tuned Muon beats its line search on every problem", greedy, 1, "loss, line search / tuned"),
        _every("Muon's best step is smoother on every problem", steady, 2, "roughness of log eta*, GD / Muon"),
        Claim.at_least(
            "GD with one tuned rate is worse than with line search on nearly every problem",
            SOURCE,
            np.mean(worse > 1),
            14 / 16,
            quantity="share of problems",
        ),
    ]


def best_tuned(result: Result) -> np.ndarray:
    """Final loss of the best rate and schedule of every method and problem, shape (M, T); a diverged run is never it.

    Args:
        result: what was measured.

    Returns:
        Losses over the initial one.
    """
    finite = np.where(np.isfinite(result.tuned), result.tuned, np.inf)
    return finite.min(axis=(1, 2))


def _median(statement: str, ratios: np.ndarray, bound: float, quantity: str) -> Claim:
    return Claim.at_least(statement, SOURCE, np.median(ratios), bound, quantity=f"median of {quantity}")


def _every(statement: str, ratios: np.ndarray, bound: float, quantity: str) -> Claim:
    return Claim.at_least(statement, SOURCE, ratios, bound, quantity=f"smallest {quantity}")


def figures(result: Result) -> dict[str, Figure]:
    """Losses under line search, the best steps of both problems, and tuned final losses."""
    return {
        "Loss with the best step at every iteration: median and range over problems": _loss_figure(result),
        "The best step along a run: smooth for spectral directions, rough for gradient descent": _steps_figure(result),
        "Final loss with one rate, by schedule (solid: constant; dashed: linear decay)": _tuned_figure(result),
    }


def _loss_figure(result: Result) -> Figure:
    figure, axes = subplots(size=(5.6, 3.8))
    for name, losses, color in zip(result.methods, result.line_search, COLORS, strict=False):
        band(axes[0, 0], np.arange(losses.shape[-1]), losses, label=name, color=color)
    axes[0, 0].set(xlabel="step", ylabel="loss / initial loss", yscale="log")
    axes[0, 0].legend()
    return figure


def _steps_figure(result: Result) -> Figure:
    figure, axes = subplots(1, 2, size=(4.6, 3.6))
    titles = ("anisotropic features, full-rank teacher", "steeper features, rank-one teacher")
    for axis, steps, title in zip(axes[0], (result.best_steps, result.hard_steps), titles, strict=True):
        for name, values, color in zip(result.methods, steps[:, 0], COLORS, strict=False):
            axis.semilogy(np.where(values > 0, values, np.nan), color=color, label=name)
        axis.set(xlabel="step", title=title)
    axes[0, 0].set_ylabel("best step eta*, first problem")
    axes[0, 0].legend(loc="lower left")
    return figure


def _tuned_figure(result: Result) -> Figure:
    figure, axes = subplots(size=(5.6, 3.8))
    for name, losses, color in zip(result.methods, result.tuned, COLORS, strict=False):
        for values, line in zip(losses, ("-", "--"), strict=True):
            middle = np.median(np.where(np.isfinite(values), values, np.inf), axis=-1)
            shown = np.where(middle < 10, middle, np.nan)
            axes[0, 0].loglog(result.rates, shown, "o", ls=line, color=color, label=name if line == "-" else None)
    axes[0, 0].set(xlabel="learning rate", ylabel="final loss / initial loss, median over problems")
    axes[0, 0].legend()
    return figure
