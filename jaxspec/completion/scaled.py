"""The completion problem in units in which its data are about 1: what the engine sees.

With T' = T / scale and X' = X / scale, the exact problem keeps its duals W; the noisy one has lam' = lam / scale and
W' = W / scale.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxspec.checks import is_concrete
from jaxspec.linalg.scaling import power_of_two_scale, safe_divide
from jaxspec.solvers import Block, DataTerm

Number = float | int | Float[Array, ""]


class Problem(NamedTuple):
    """What is to be solved, in the units of the data.

    Attributes:
        tensor: the data, 0 where not observed.
        mask: True where observed.
        obs_weights: weights per entry, or None.
        lam: None: exact; else the weight of the regulariser.
        box: least and largest value of a free entry, or None each.
        truth: true tensor, or None.
    """

    tensor: Array
    mask: Array
    obs_weights: Array | None
    lam: Array | None
    box: tuple[Array | None, Array | None]
    truth: Array | None


class ScaledProblem(NamedTuple):
    """The problem in units of ``scale``: what the engine sees.

    Attributes:
        scale: power of two that the data were divided by.
        dual_unit: what the duals were divided by: 1 (exact) or ``scale`` (noisy).
        data_term: of the engine.
        blocks: of the engine.
        support: True where the data term is not flat.
        target: data, 0 off the support.
    """

    scale: Array
    dual_unit: Array
    data_term: DataTerm
    blocks: tuple[Block, ...]
    support: Array
    target: Array


def positive_lam(lam: Number | None, dtype: Any) -> Array | None:
    """Weight of the regulariser as an array that is checked to be positive even where its value is traced.

    Args:
        lam: None or 0: the exact problem.
        dtype: of the data.

    Returns:
        None for the exact problem, else the array.
    """
    if lam is None or (is_concrete(lam) and float(lam) == 0):
        return None
    lam = jnp.asarray(lam, dtype)
    return eqx.error_if(
        lam, ~(lam > 0), "lam holds other values; expected numbers > 0 where traced: None is the exact problem"
    )


def rescale(problem: Problem, blocks: tuple[Block, ...], scale: Array) -> ScaledProblem:
    """The problem divided by ``scale``.

    Args:
        problem: in the units of the data.
        blocks: of the regulariser without lam.
        scale: power of two.

    Returns:
        The problem that the engine solves.
    """
    support = problem.mask if problem.obs_weights is None else problem.mask & (problem.obs_weights > 0)
    target = jnp.where(support, problem.tensor, 0) / scale
    lower, upper = (None if bound is None else bound / scale for bound in problem.box)
    if problem.lam is None:
        data_term = DataTerm.exact(target, support, lower=lower, upper=upper)
        return ScaledProblem(scale, jnp.ones_like(scale), data_term, blocks, support, target)
    weight = jnp.where(support, 1 if problem.obs_weights is None else problem.obs_weights, 0).astype(target.dtype)
    data_term = DataTerm.quadratic(target, weight, 0.0, lower=lower, upper=upper)
    blocks = tuple(block.scaled(problem.lam / scale) for block in blocks)
    return ScaledProblem(scale, scale, data_term, blocks, support, target)


def data_scale(tensor: Float[Array, "..."], mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """Power of two next to the root mean square of the observed entries; 1 if they are all 0.

    Args:
        tensor: the data.
        mask: True where observed.

    Returns:
        The scale.
    """
    observed = jnp.where(mask, tensor, 0)
    largest = power_of_two_scale(observed, axis=None)
    count = jnp.maximum(jnp.sum(mask), 1).astype(observed.dtype)
    rms = jnp.sqrt(jnp.sum((jax.lax.stop_gradient(observed) / largest) ** 2) / count)
    return largest * power_of_two_scale(rms, axis=None)


def first_penalty(blocks: tuple[Block, ...], target: Array) -> Array:
    """Penalty whose first threshold equals the largest singular value of the data, averaged over blocks.

    Args:
        blocks: of the engine.
        target: data, 0 where not observed.

    Returns:
        The penalty; 1 for data that are 0.

    Raises:
        ValueError: for a block without a gauge.
    """
    inverses = []
    for index, block in enumerate(blocks):
        if block.gauge is None:
            raise ValueError(f"rho is None; expected a number: block {index} has no gauge to choose it from")
        gauge = block.gauge(block.data, block.gather(block.data, target))
        inverses.append(safe_divide(1, gauge))
    mean = jnp.mean(jnp.stack(inverses))
    return jnp.where(mean > 0, mean, 1)
