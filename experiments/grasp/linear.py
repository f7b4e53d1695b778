"""When is the shared factor the leading direction of an adapter? A linear model, and its closed forms.

The fine-tune must supply ``M = (tau/K) sum_i a_i v_i^T + kappa rho m u w^T + N``: K task skills that share an energy,
and one factor u present in a share rho of the rows. An adapter trained by gradient descent on ``|M - b a|^2 / 2`` is
led by u once ``rho > rho* = tau / (K kappa m)``: the more complex the task, the easier the identification. The model is
a reconstruction; the paper's own is not known here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, ORANGE, subplots
from jaxspec.linalg import top_svd
from jaxspec.lora import identify_factors

OURS = "specification, linear model"


@dataclass(frozen=True)
class Config:
    """Settings of the model. The noise is that of 4000 rows with standard deviation 0.3."""

    seed: int = 900
    seeds: int = 4
    dim: int = 64
    rank: int = 4  # of the adapter
    skills: tuple[int, ...] = (2, 4, 8, 16, 32)  # K
    strengths: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # kappa rho m, tau = 1
    few_skills: tuple[int, ...] = (3, 6)  # where the boundary is sharp
    around: tuple[float, ...] = (0.8, 1.25)  # rho / rho* there
    noise: float = 0.3 / 4000**0.5
    rate: float = 0.5
    steps: int = 400
    init: float = 1e-2
    spikes: tuple[float, ...] = (1.2, 1.5, 2.0, 3.0)  # theta of a spike in pure noise
    spike_dim: int = 400
    spike_draws: int = 24
    growth_step: float = 2e-4  # of the flow of aligned modes
    growth_time: float = 5.0
    layers: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # that share a direction of strength 1
    own: tuple[float, ...] = (0.9, 1.5, 2.2, 2.6)  # strength of each layer's own direction


PRESETS = {"quick": Config(), "full": Config(seeds=64, spike_draws=200, growth_step=2e-5)}


class Result(NamedTuple):
    """What was measured. Skills K, strengths S, few skills F, seeds R.

    Attributes:
        skills: K of the grid, shape (K,).
        strengths: kappa rho m of the grid, shape (S,).
        cosines: ``|<u_hat, u>|`` of the adapter's leading direction, shape (K, S, R).
        few_skills: K near whose boundary was measured, shape (F,).
        around: rho / rho* there, shape (A,).
        near: cosines there, shape (F, A, R).
        noise_edge: largest singular value of the noise alone.
        spikes: theta, shape (T,).
        squared: ``cos^2`` of the leading left singular vector with the spike, shape (T, D).
        squared_law: the limit law's, shape (T,).
        times: of the flow, shape (P,).
        modes: singular values of ``b a``, shape (P, 4).
        modes_law: the sigmoid's, shape (P, 4).
        layers: number of layers, shape (L,).
        own: strength of each layer's own direction, shape (O,).
        stacked: ``|<u_hat, u>|`` of the stacked layers, shape (O, L).
        single: the same of the first layer by itself, shape (O, L).
        strongest: the stack's largest squared singular value, shape (O, L).
    """

    skills: Any
    strengths: Any
    cosines: Any
    few_skills: Any
    around: Any
    near: Any
    noise_edge: Any
    spikes: Any
    squared: Any
    squared_law: Any
    times: Any
    modes: Any
    modes_law: Any
    layers: Any
    own: Any
    stacked: Any
    single: Any
    strongest: Any


def run(config: Config, progress: Progress) -> Result:
    """Phase diagram, spikes in noise, growth of modes, stacked layers."""
    keys = jax.random.split(jax.random.key(config.seed), 2)
    grid = [(k, s) for k in config.skills for s in config.strengths]
    near = [(k, c / k) for k in config.few_skills for c in config.around]
    with progress.stage("adapters", total=1):
        found = np.asarray(_trained(grid + near, config, keys[0]))
        progress.advance()
    with progress.stage("spikes in noise", total=len(config.spikes)):
        squared = []
        for number, theta in enumerate(config.spikes):
            draws = jax.random.split(jax.random.fold_in(keys[1], number), config.spike_draws)
            squared.append(np.asarray(_spiked(draws, theta, config.spike_dim)))
            progress.advance()
    with progress.stage("modes and layers", total=2):
        times, modes, law = _growth(config.growth_step, config.growth_time)
        progress.advance()
        stacked, single, strongest = _layers(config.layers, config.own)
        progress.advance()
    theta = np.asarray(config.spikes)
    return Result(
        np.asarray(config.skills),
        np.asarray(config.strengths),
        found[: len(grid)].reshape(len(config.skills), len(config.strengths), -1),
        np.asarray(config.few_skills),
        np.asarray(config.around),
        found[len(grid) :].reshape(len(config.few_skills), len(config.around), -1),
        2 * config.noise * config.dim**0.5,
        theta,
        np.stack(squared),
        1 - (1 + theta**2) / (theta**2 * (theta**2 + 1)),
        times,
        modes,
        law,
        np.asarray(config.layers),
        np.asarray(config.own),
        stacked,
        single,
        strongest,
    )


def _trained(cases: list[tuple[int, float]], config: Config, key: Array) -> Float[Array, "cases seeds"]:
    """Cosines of adapters trained on every case and seed, all in one compiled program."""
    most = max(k for k, _ in cases)
    skills, strengths = (jnp.asarray(column) for column in zip(*cases, strict=True))

    def target(key, skills, strength):
        bases = jax.random.split(key, 3)
        outputs, inputs = (_orthonormal(k, config.dim, most + 1) for k in bases[:2])
        values = jnp.where(jnp.arange(most) < skills, 1 / skills, 0)
        values = jnp.concatenate([strength[None], values])
        noise = config.noise * jax.random.normal(bases[2], (config.dim, config.dim))
        return (outputs * values) @ inputs.T + noise, outputs[:, 0]

    def cosine(key, skills, strength):
        draw, start = jax.random.split(key)
        matrix, u = target(draw, skills, strength)
        a = config.init * jax.random.normal(start, (config.rank, config.dim))
        b = jnp.zeros((config.dim, config.rank))

        def step(factors, _):
            a, b = factors
            rest = matrix - b @ a
            return (a + config.rate * b.T @ rest, b + config.rate * rest @ a.T), None

        (a, b), _ = jax.lax.scan(step, (a, b), None, length=config.steps)
        return jnp.abs(_leading(a[None], b[None])[0] @ u)

    seeds = jax.vmap(cosine, in_axes=(0, None, None))
    return jax.jit(jax.vmap(seeds, in_axes=(None, 0, 0)))(jax.random.split(key, config.seeds), skills, strengths)


def _leading(a: Float[Array, "l r n"], b: Float[Array, "l d r"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """Leading direction of stacked layers as `identify_factors` gives it, and its strength."""
    report = identify_factors({"layers": {"a": a, "b": b}}, roles={"layers": "writes"}, max_factors=1, num_samples=1)
    return report.directions[:, 0], report.strengths[0]


def _orthonormal(key: Array, d: int, k: int) -> Float[Array, "d k"]:
    return top_svd(jax.random.normal(key, (d, k)), k).u


@partial(jax.jit, static_argnums=2)
def _spiked(keys: Array, theta: Float[Array, ""], d: int) -> Float[Array, " draws"]:
    """``cos^2`` between a spike of size theta and the leading left singular vector, entries of variance 1/d."""

    def draw(key):
        noise, left, right = jax.random.split(key, 3)
        u, v = (x / jnp.linalg.norm(x) for x in (jax.random.normal(k, (d,)) for k in (left, right)))
        x = theta * jnp.outer(u, v) + jax.random.normal(noise, (d, d)) / jnp.sqrt(d)
        return jnp.square(top_svd(x, 1, sweeps=60).u[:, 0] @ u)

    return jax.lax.map(draw, keys)


def _growth(step: float, time: float, modes: tuple[float, ...] = (1.0, 0.6, 0.3, 0.1), start: float = 1e-2):
    """Gradient descent from balanced factors aligned with the modes, and the sigmoid of its flow."""
    target, points = jnp.diag(jnp.asarray(modes)), 50
    each = round(time / step / points)
    a = b = jnp.sqrt(start) * jnp.eye(len(modes))

    def descend(factors, _):
        a, b = factors
        rest = target - b @ a
        return (a + step * b.T @ rest, b + step * rest @ a.T), None

    def stretch(factors, _):
        factors, _ = jax.lax.scan(descend, factors, None, length=each)
        return factors, jnp.diagonal(factors[1] @ factors[0])

    _, found = jax.jit(lambda f: jax.lax.scan(stretch, f, None, length=points))((a, b))
    times = step * each * np.arange(1, points + 1)
    s = np.asarray(modes)
    return times, np.asarray(found), s / (1 + (s / start - 1) * np.exp(-2 * s * times[:, None]))


def _layers(layers: tuple[int, ...], own: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Layers that share direction 0 with strength 1 and have one of their own each: stacked, and the first alone."""
    most = max(layers)
    d = most + 2
    a = jnp.broadcast_to(jnp.eye(2), (most, 2, 2))

    def one(count, strength):
        columns = jnp.stack([jnp.broadcast_to(jnp.eye(d)[0], (most, d)), strength * jnp.eye(d)[1 : most + 1]], axis=-1)
        b = jnp.where((jnp.arange(most) < count)[:, None, None], columns, 0)
        whole, strongest = _leading(a, b)
        alone, _ = _leading(a, jnp.where((jnp.arange(most) < 1)[:, None, None], columns, 0))
        return jnp.abs(whole[0]), jnp.abs(alone[0]), strongest**2

    over = jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(None, 0))
    return tuple(np.asarray(x) for x in jax.jit(over)(jnp.asarray(layers), jnp.asarray(own)))


def claims(result: Result) -> list[Claim]:
    """Both sides of the boundary, the limit law of a spike, growth of modes, the gain of stacking."""
    return [*_boundary_claims(result), *_closed_form_claims(result), *_stacking_claims(result)]


def _boundary_claims(result: Result) -> list[Claim]:
    """The adapter follows the factor on one side of rho* and not on the other."""
    skill = 1 / result.skills[:, None]
    mean = result.cosines.mean(axis=-1)
    above = result.strengths >= 1.5 * np.maximum(skill, 0.1)
    below = result.strengths <= 0.6 * skill
    near = result.near.mean(axis=-1)
    needed = np.where(mean >= 0.5, result.strengths, 2 * result.strengths.max()).min(axis=1)
    return [
        Claim.at_least(
            "Above rho* the adapter's leading direction is the factor",
            OURS,
            mean[above],
            0.95,
            quantity="mean |cos| where kappa rho m ≥ 1.5 max(tau/K, 0.1)",
        ),
        Claim.at_most(
            "Below rho* it is not",
            OURS,
            mean[below],
            0.3,
            quantity="mean |cos| where kappa rho m ≤ 0.6 tau/K",
        ),
        Claim.at_least(
            "A more complex task makes identification easier: the strength needed falls with K",
            "abstract, identification",
            -np.diff(needed).max(),
            0.0,
            quantity="least fall, from one K to the next, of the smallest strength with mean |cos| ≥ 0.5",
        ),
        Claim.at_most(
            "For few skills the switch lies between 0.8 and 1.25 of rho*: not yet below it",
            OURS,
            near[:, result.around < 1],
            0.3,
            quantity="mean |cos| at 0.8 rho*",
        ),
        Claim.at_least(
            "... and already above it", OURS, near[:, result.around > 1], 0.9, quantity="mean |cos| at 1.25 rho*"
        ),
    ]


def _closed_form_claims(result: Result) -> list[Claim]:
    """A spike in noise, and the growth of modes."""
    told = result.spikes >= 1.5
    return [
        Claim.at_most(
            "A spike in pure noise is recovered as the limit law says",
            "Benaych-Georges & Nadakuditi 2012",
            np.abs(result.squared.mean(axis=-1) - result.squared_law)[told],
            0.03,
            quantity="|mean cos² − law| for theta ≥ 1.5",
        ),
        Claim.at_most(
            "Aligned modes grow one after the other along the sigmoid",
            "Saxe, McClelland & Ganguli 2014",
            np.abs(result.modes / result.modes_law - 1),
            1e-3,
            quantity="relative difference",
        ),
    ]


def _stacking_claims(result: Result) -> list[Claim]:
    """Layers that share a direction of strength 1, each with one of its own."""
    wins = result.layers > result.own[:, None] ** 2
    predicted = np.maximum(result.layers, result.own[:, None] ** 2)
    return [
        Claim.at_least(
            "Stacked layers show what they share as soon as L s² > t²",
            OURS,
            np.where(wins, result.stacked, 1 - result.stacked),
            0.999,
            quantity="|cos| where L s² > t², 1 − |cos| elsewhere",
        ),
        Claim.at_most(
            "... with the eigenvalue max(L s², t²)",
            OURS,
            np.abs(result.strongest / predicted - 1),
            1e-5,
            quantity="relative difference",
        ),
        Claim.at_most(
            "A single layer shows its own direction where that is stronger",
            OURS,
            result.single[result.own > 1],
            1e-3,
            quantity="|cos| of the first layer alone",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """The phase diagram with its boundary, and the closed forms."""
    diagram, axes = subplots(1, 1, size=(5.0, 3.6))
    axis = axes[0, 0]
    k, s = np.log2(result.skills.astype(float)), np.log10(result.strengths)
    mesh = axis.pcolormesh(k, s, result.cosines.mean(axis=-1).T, vmin=0, vmax=1, cmap="viridis", shading="nearest")
    diagram.colorbar(mesh, ax=axis, label="mean |cos| with the factor")
    line = np.linspace(k.min() - 0.5, k.max() + 0.5, 100)
    axis.plot(line, np.log10(np.clip(0.5**line, 10 ** (s.min() - 0.2), None)), color="white", label="ρ*")
    axis.axhline(np.log10(result.noise_edge), color="white", ls=":", label="noise edge")
    axis.set(xlabel="task skills K", ylabel="factor strength κρm", xticks=k, yticks=s)
    axis.set_xticklabels([str(x) for x in result.skills])
    axis.set_yticklabels([f"{x:g}" for x in result.strengths])
    axis.legend(facecolor="grey", frameon=True)
    forms, row = subplots(1, 3, size=(3.6, 3.0))
    spike, growth, layers = row[0]
    spike.plot(result.spikes, result.squared_law, color="black", label="law")
    spike.plot(result.spikes, result.squared, ".", color=BLUE, alpha=0.5)
    spike.set(xlabel="spike θ", ylabel="cos²", title="a spike in noise")
    growth.plot(result.times, result.modes_law, color="black")
    growth.plot(result.times, result.modes, "--", color=ORANGE)
    growth.set(xlabel="time", ylabel="singular values of b a", title="growth of modes")
    for number, strength in enumerate(result.own):
        layers.plot(result.layers, result.stacked[number], ".-", label=f"t = {strength:g}")
    layers.set(xlabel="layers", ylabel="|cos| of the stack", title="shared strength 1, own strength t")
    layers.legend()
    return {
        "Where the factor leads the adapter: cosine with the true one over task complexity and strength": diagram,
        "Closed forms and what was measured: a spike in noise, growth of modes, stacked layers": forms,
    }
