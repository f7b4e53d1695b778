"""A constant learning rate: hard Muon stalls at a floor of its own steps, the regularised form converges; so does Adam.

All optimisers see the same particle-scaled gradients of the mixture of experts.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments.muon_flow._problems import experts
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.optim import MatrixDims, regularized_muon, scale_by_muon

NAMES = ("regularised Muon", "optax.contrib.muon", "Muon, exact polar factor", "Adam")
SPEC = "specification, section 1 and E7"


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 41
    sequences: int = 16
    length: int = 6
    dim: int = 8
    key_dim: int = 4
    hidden: int = 8
    teachers: int = 4
    experts: int = 32
    tau: float = 2.0
    eps: float = 0.04  # of the momentum average
    beta: float = 0.95
    rates: tuple[float, ...] = (0.02,)
    steps: int = 400


PRESETS = {"quick": Config(), "full": Config(rates=(0.005, 0.02, 0.05))}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        rates: learning rates, shape (R,).
        losses: J after every step, shape (R, optimisers, T).
    """

    rates: Any
    losses: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    problem = experts(
        config.seed,
        sequences=config.sequences,
        length=config.length,
        dim=config.dim,
        key_dim=config.key_dim,
        hidden=config.hidden,
        teachers=config.teachers,
        tau=config.tau,
    )
    start = problem.block.init(problem.key, config.experts)

    def loss(x):
        field = jax.tree.map(lambda a: jnp.mean(a, axis=0), jax.vmap(problem.objective.feature)(x))
        return problem.objective.risk(field)

    def train(build):
        @jax.jit
        def run(rate):
            tx = build(rate)

            def step(carry, _):
                x, state = carry
                value, gradient = jax.value_and_grad(loss)(x)
                gradient = jax.tree.map(lambda g: config.experts * g, gradient)
                updates, state = tx.update(gradient, state, x)
                return (optax.apply_updates(x, updates), state), value

            (x, _), values = jax.lax.scan(step, (start, tx.init(start)), None, length=config.steps)
            return jnp.append(values, loss(x))

        return [np.asarray(run(rate)) for rate in jnp.asarray(config.rates)]

    losses = [train(build) for build in progress.track("optimisers", _optimisers(config))]
    return Result(np.array(config.rates), np.moveaxis(np.array(losses), 0, 1))


def _optimisers(config):
    """Functions of the learning rate, in the order of `NAMES`."""
    axes = MatrixDims(-2, -1)
    named = optax.contrib.MuonDimensionNumbers(-2, -1)

    def optax_muon(rate):
        return optax.contrib.muon(
            rate, beta=config.beta, muon_weight_dimension_numbers=lambda p: jax.tree.map(lambda _: named, p)
        )

    def exact(rate):
        matrices = scale_by_muon(beta=config.beta, engine="svd", dimension_numbers=axes)
        return optax.chain(matrices, optax.scale_by_learning_rate(rate))

    return (lambda rate: regularized_muon(rate, config.eps, beta=config.beta), optax_muon, exact, optax.adam)


def claims(result: Result) -> list[Claim]:
    """What the specification says."""
    final = result.losses[:, :, -1]
    small = result.rates <= 0.02
    return [
        Claim.at_most(
            "At every constant rate the regularised form ends at most at 1/20 of optax's Muon",
            SPEC,
            final[:, 0] / final[:, 1],
            1 / 20,
            quantity="ratio of the last J",
        ),
        Claim.at_most(
            "and of Muon with an exact polar factor", SPEC, final[:, 0] / final[:, 2], 1 / 20, quantity="ratio"
        ),
        Claim.at_most(
            "On this toy Adam at the same small rate is better still",
            SPEC,
            final[small, 3] / final[small, 0],
            1.0,
            quantity="Adam / regularised",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Losses of all optimisers."""
    figure, axes = subplots(1, len(result.rates), size=(4.8, 3.6), sharey=True)
    for axis, rate, losses in zip(axes[0], result.rates, result.losses, strict=True):
        for name, values, color in zip(NAMES, losses, COLORS, strict=False):
            axis.semilogy(np.maximum(values, 1e-20), color=color, label=name)
        axis.set(xlabel="step", title=f"learning rate {rate:g}")
    axes[0, 0].set_ylabel("J")
    axes[0, 0].legend()
    return {"A constant learning rate: the floor of hard Muon, and what has none": figure}
