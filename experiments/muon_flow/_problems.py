"""Objectives and runs that several parts share."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxspec.flow import Flow, FlowState, MeanFieldObjective, integrate, mean_field, moe

TARGET = np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, -2.0]])
PAPER = "arXiv:2605.23871, abstract"


def particles(count: int, rows: int, columns: int) -> np.ndarray:
    """Deterministic particles without symmetries, entries in [-1, 1], shape (count, rows, columns)."""
    i = np.arange(count)[:, None, None]
    a, b = np.arange(rows)[None, :, None], np.arange(columns)[None, None, :]
    return np.sin(1 + (i + 1) * 2**0.5 + (a + 1) * (i + 2) * 3**0.5 + (b + 1) * (i + 3) * 5**0.5)


class TanhFeature(eqx.Module):
    """``X -> tanh(x X^T)``, a hidden layer on fixed inputs.

    Attributes:
        inputs: (points, columns).
    """

    inputs: Float[Array, "points columns"]

    def __call__(self, particle: Float[Array, "rows columns"]) -> Float[Array, "points rows"]:
        """Outputs of one particle."""
        return jnp.tanh(self.inputs @ particle.T)


class HalfMean(eqx.Module):
    """Half the squared distance from a target, over the number of its rows.

    Attributes:
        target: (points, rows).
    """

    target: Float[Array, "points rows"]

    def __call__(self, z: Float[Array, "points rows"]) -> Float[Array, ""]:
        """The risk."""
        return jnp.sum((z - self.target) ** 2) / (2 * len(self.target))


def cosine_inputs(points: int, columns: int) -> np.ndarray:
    """Inputs ``cos((k + 1)(j + 1/2) pi / points)``."""
    return np.cos((np.arange(columns) + 1) * (np.arange(points)[:, None] + 0.5) * np.pi / points)


def tanh_problem(rows: int, columns: int, points: int) -> MeanFieldObjective:
    """A tanh layer fitted to sines.

    Args:
        rows: outputs.
        columns: inputs.
        points: data points.

    Returns:
        The objective.
    """
    phase = 2 * np.pi * (np.arange(rows) + 1) * (np.arange(points)[:, None] + 0.5) / points
    return MeanFieldObjective(
        TanhFeature(jnp.asarray(cosine_inputs(points, columns))), HalfMean(jnp.asarray(0.5 * np.sin(phase)))
    )


def itself(x: PyTree) -> PyTree:
    """The linear feature."""
    return x


def half_distance(z: Float[Array, "3 2"]) -> Float[Array, ""]:
    """``|z - TARGET|^2 / 2``."""
    return jnp.sum((z - TARGET) ** 2) / 2


QUADRATIC = MeanFieldObjective(itself, half_distance)


class Trace(NamedTuple):
    """Diagnostics of a run in chunks, joined: every array has one entry more than there were steps.

    Attributes:
        state: the last state.
        objective: ``J``.
        hamiltonian: ``H``.
        defect: ``H - H_0`` plus the trapezoid sum of the dissipation rate.
        converged: whether every value is finite and every equation was solved.
    """

    state: FlowState
    objective: Any
    hamiltonian: Any
    defect: Any
    converged: bool


def run_in_chunks(flow: Flow, state: FlowState, *, dt: float, num_steps: int, chunk: int = 20) -> Trace:
    """`integrate` in chunks of equal length: one compilation for all numbers of steps.

    Args:
        flow: the flow.
        state: the start.
        dt: step.
        num_steps: a multiple of ``chunk``.
        chunk: steps in one program.

    Returns:
        The joined diagnostics.
    """
    objective, hamiltonian, defect, converged = [], [], [], True
    for _ in range(num_steps // chunk):
        state, seen = integrate(flow, state, dt=dt, num_steps=chunk)
        skip = 1 if objective else 0
        offset = defect[-1][-1] if defect else 0.0
        objective.append(np.asarray(seen.objective)[skip:])
        hamiltonian.append(np.asarray(seen.hamiltonian)[skip:])
        defect.append(offset + np.asarray(seen.identity_defect)[skip:])
        converged = converged and bool(seen.converged.all())
    return Trace(state, *(np.concatenate(parts) for parts in (objective, hamiltonian, defect)), converged)


def orders(errors: Any) -> np.ndarray:
    """Observed orders between successive halvings of the step, along the last axis."""
    errors = np.asarray(errors)
    return np.log2(errors[..., :-1] / errors[..., 1:])


def slope(x: Any, y: Any) -> float:
    """Slope of the least-squares line in log-log coordinates."""
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])


class Experts(NamedTuple):
    """A mixture of experts that learns another one.

    Attributes:
        block: the layer.
        tokens: inputs, (sequences, length, dim).
        objective: distance from the teacher's outputs.
        key: for the student's experts.
    """

    block: moe.SmoothMoEBlock
    tokens: Array
    objective: MeanFieldObjective
    key: Array


def experts(
    seed: int, *, sequences: int, length: int, dim: int, key_dim: int, hidden: int, teachers: int, tau: float
) -> Experts:
    """Tokens are normal; the teacher's experts are 1.5 times as large as the student's at the start.

    Args:
        seed: of tokens, teacher and student.
        sequences: number of sequences.
        length: tokens in each.
        dim: width of a token.
        key_dim: width of queries and keys.
        hidden: width of an expert's network.
        teachers: number of experts of the teacher.
        tau: cap of the score.

    Returns:
        The problem.
    """
    block = moe.SmoothMoEBlock(dim, key_dim, hidden, tau)
    data, teacher, student = jax.random.split(jax.random.key(seed), 3)
    tokens = jax.random.normal(data, (sequences, length, dim))
    wise = jax.tree.map(lambda a: 1.5 * a, block.init(teacher, teachers))
    blank = moe.moe_objective(block, tokens, jnp.zeros_like(tokens))
    targets = block.output(mean_field(blank, wise), tokens)
    return Experts(block, tokens, moe.moe_objective(block, tokens, targets), student)
