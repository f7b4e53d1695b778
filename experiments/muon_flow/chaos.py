"""Propagation of chaos: N particles against the limit, which weighted quadrature particles give without noise."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.muon_flow._problems import PAPER, HalfMean, TanhFeature, cosine_inputs, slope
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from jaxspec.flow import MeanFieldObjective, coupling_error, field_path, gauss_hermite_particles, hamiltonian_flow

POINTS, SIDE = 8, 2


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 23
    eps: float = 0.5
    gamma: float = 1.0
    time: float = 2.0
    h: float = 0.05
    order: int = 10  # quadrature nodes per entry
    scale: float = 0.5  # standard deviation of an entry
    counts: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    repeats: int = 128  # at least
    total: int = 8192  # particles of all repeats, at least


PRESETS = {"quick": Config(), "full": Config(counts=tuple(2**k for k in range(4, 17)))}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        counts: N, shape (C,).
        coupling: root of the mean of ``|dX|^2 + |dP|^2`` over particles and repeats, shape (C,).
        field: the same of the field, shape (C,).
        limit: the limit's field in the first data point, shape (2,).
    """

    counts: Any
    coupling: Any
    field: Any
    limit: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    inputs = jnp.asarray(cosine_inputs(POINTS, SIDE))
    angle = 2 * np.pi * (np.arange(POINTS)[:, None] + 0.5) / POINTS
    target = jnp.asarray(0.4 * np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    objective = MeanFieldObjective(TanhFeature(inputs), HalfMean(target))
    steps = {"dt": config.h, "num_steps": round(config.time / config.h)}
    nodes, weights = gauss_hermite_particles((SIDE, SIDE), order=config.order, scale=config.scale)
    limit = hamiltonian_flow(objective, eps=config.eps, gamma=config.gamma, weights=weights)
    reference = field_path(limit, limit.init(nodes), **steps)
    flow = hamiltonian_flow(objective, eps=config.eps, gamma=config.gamma, polar_engine="closed")
    coupling, field = [], []
    for key, count in zip(
        jax.random.split(jax.random.key(config.seed), len(config.counts)),
        progress.track("particles", config.counts),
        strict=True,
    ):
        repeats = max(config.repeats, config.total // count)
        start = config.scale * jax.random.normal(key, (repeats, count, SIDE, SIDE))
        found = coupling_error(flow, start, reference, **steps)
        coupling.append(np.sqrt(np.mean(np.asarray(found.position_rms) ** 2 + np.asarray(found.momentum_rms) ** 2)))
        field.append(np.sqrt(np.mean(np.asarray(found.field_rms) ** 2)))
    return Result(np.array(config.counts), np.array(coupling), np.array(field), np.asarray(reference[-1, 0]))


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    spec = f"{PAPER}; specification, section 2.8 and E4"
    measured = [slope(result.counts, result.coupling), slope(result.counts, result.field)]
    level = result.counts * result.coupling**2
    return [
        Claim.close_to("N particles are N^(-1/2) from their limit", spec, measured, -0.5, 0.06, quantity="slope"),
        Claim.close_to("N times the squared error is one constant", spec, level, 0.39, 0.11, quantity="N E^2"),
        Claim.close_to(
            "The limit is that of two other quadratures",
            "specification, section 5",
            result.limit - (0.20266, 0.2133),
            0,
            2e-5,
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Error against N."""
    figure, axes = subplots(size=(4.8, 3.6))
    for values, name, color, marker in zip(
        (result.coupling, result.field), ("particles", "field"), COLORS, MARKERS, strict=False
    ):
        axes[0, 0].loglog(result.counts, values, marker=marker, color=color, label=name)
        axes[0, 0].loglog(result.counts, values[0] * (result.counts[0] / result.counts) ** 0.5, ":", color="grey", lw=1)
    axes[0, 0].set(xlabel="particles N", ylabel="root mean square distance to the limit")
    axes[0, 0].legend()
    return {"Distance to the limit against the number of particles (dotted: slope -1/2)": figure}
