"""Regularisers of the completion methods as `Block`s of the consensus ADMM: ``sum_i weight_i ||A_i X||_*``.

Matrices of equal shape (the unfoldings of a cube, row groups of similar size) are stacked into one block, whose
thresholding is one batched eigendecomposition; the matrix of a block is always wide (short side first), which changes
no singular value.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxspec.checks import is_concrete
from jaxspec.completion.group_layout import buckets, checked_rows, padded, take_rows
from jaxspec.completion.unfolding import Modes, fold, split_modes, unfold
from jaxspec.linalg import singular_values, spectral_norm
from jaxspec.prox import svt, tubal_norm, tubal_spectral_norm, tubal_svt
from jaxspec.solvers import Block

Weights = Sequence[float] | Float[Array, " m"] | Float[np.ndarray, " m"]


def unfoldings(
    shape: Sequence[int], weights: Weights | None = None, modes: Sequence[Modes] | None = None, *, method: str = "auto"
) -> tuple[Block, ...]:
    """``sum_i weights_i ||A_i X||_*`` over unfoldings of X: the sum of nuclear norms (SNN) by default.

    Args:
        shape: of the tensor, at least two modes.
        weights: alpha_i >= 0, used as given; None: 1/m each. An unfolding whose weight is a known 0 is left out; one
            whose weight is a traced 0 stays, and leaves no useful certificate.
        modes: row modes of each unfolding; None: every single mode.
        method: engine of the thresholding, see `jaxspec.prox.svt`.

    Returns:
        One block per shape of the wide unfolding, in the order of first appearance.

    Raises:
        ValueError: for a bad subset of modes, a wrong number of weights, a negative weight, or all weights 0.

    Reference:
        Liu, Musialski, Wonka, Ye, PAMI 2013.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) < 2:
        raise ValueError(f"shape is {shape}; expected at least two modes")
    modes = tuple(range(len(shape))) if modes is None else tuple(modes)
    if not modes:
        raise ValueError("modes is empty; expected at least one unfolding")
    splits = [split_modes(len(shape), subset) for subset in modes]
    weights = [1 / len(modes)] * len(modes) if weights is None else _checked_weights(weights, len(modes))
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, (rows, columns) in enumerate(splits):
        if isinstance(weights[index], float) and weights[index] == 0:
            continue
        sides = math.prod(shape[mode] for mode in rows), math.prod(shape[mode] for mode in columns)
        buckets.setdefault((min(sides), max(sides)), []).append(index)
    if not buckets:
        raise ValueError("weights are all 0; expected one > 0")
    return tuple(_unfolding_block(shape, splits, weights, members, method) for members in buckets.values())


def _checked_weights(weights: Any, count: int) -> list[Any]:
    if isinstance(weights, Sequence) or is_concrete(weights):
        values = [float(weight) for weight in weights]
        if any(not 0 <= weight < float("inf") for weight in values):
            raise ValueError(f"weights is {values}; expected finite numbers >= 0")
    else:
        values = list(weights)
    if len(values) != count:
        raise ValueError(f"weights has length {len(values)}; expected {count}, one per unfolding")
    return values


def _unfolding_block(
    shape: tuple[int, ...], splits: Sequence, weights: Sequence, members: list[int], method: str
) -> Block:
    short_sides = []
    for index in members:
        rows, columns = splits[index]
        wide = math.prod(shape[mode] for mode in rows) <= math.prod(shape[mode] for mode in columns)
        short_sides.append(rows if wide else columns)
    return Block(
        _GatherUnfoldings(shape, tuple(short_sides), tuple(members)),
        _ScatterUnfoldings(shape, tuple(short_sides)),
        NuclearProx(method),
        nuclear_value,
        nuclear_gauge,
        jnp.asarray(float(len(members))),
        jnp.stack([jnp.asarray(weights[index], dtype=jnp.result_type(float)) for index in members]),
    )


@dataclass(frozen=True)
class _GatherUnfoldings:
    """Stack of the wide unfoldings of one shape; equal by value, so that a second call compiles nothing."""

    shape: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    modes: tuple[int, ...]

    def __call__(self, data: PyTree, x: Array) -> Array:
        return jnp.stack([unfold(x, rows) for rows in self.rows])


@dataclass(frozen=True)
class _ScatterUnfoldings:
    shape: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]

    def __call__(self, data: PyTree, y: Array) -> Array:
        tensors = [fold(matrix, rows, self.shape) for matrix, rows in zip(y, self.rows, strict=True)]
        return functools.reduce(jnp.add, tensors)


@dataclass(frozen=True)
class NuclearProx:
    """Prox of ``sum_g threshold_g ||y_g||_*`` for a stack of matrices; ``data`` holds the thresholds first.

    Attributes:
        method: engine of the thresholding.
    """

    method: str = "auto"

    def __call__(self, data: PyTree, v: Array, step: Array) -> tuple[Array, Array]:
        """Thresholded stack and its value."""
        thresholds = self.thresholds(data, v.dtype)
        y, norms = svt(v, thresholds * step, method=self.method, return_norm=True)
        return y, jnp.sum(thresholds * norms)

    @staticmethod
    def thresholds(data: PyTree, dtype: Any) -> Array:
        """The thresholds in ``data``, shape (groups,)."""
        return (data[0] if isinstance(data, tuple) else data).astype(dtype)


def nuclear_value(data: PyTree, y: Array) -> Array:
    """``sum_g threshold_g ||y_g||_*`` from true singular values.

    Args:
        data: thresholds, or a tuple that starts with them.
        y: stack of matrices.

    Returns:
        The value.
    """
    return jnp.sum(NuclearProx.thresholds(data, y.dtype) * jnp.sum(singular_values(y), axis=-1))


def nuclear_gauge(data: PyTree, w: Array) -> Array:
    """``max_g ||w_g||_2 / threshold_g``; infinity if a w_g with threshold 0 is not 0.

    Args:
        data: thresholds, or a tuple that starts with them.
        w: stack of matrices.

    Returns:
        The gauge.
    """
    thresholds = NuclearProx.thresholds(data, w.dtype)
    norms = spectral_norm(w)
    zero = thresholds == 0
    return jnp.max(jnp.where(zero, jnp.where(norms > 0, jnp.inf, 0), norms / jnp.where(zero, 1, thresholds)))


def tensor_train(shape: Sequence[int], *, method: str = "auto") -> tuple[Block, ...]:
    """Unfoldings by the leading modes (0,), (0, 1), ..., with weights proportional to min(rows, columns), sum 1.

    Args:
        shape: of the tensor.
        method: engine of the thresholding.

    Returns:
        The blocks.

    Reference:
        Bengua, Phien, Tuan, Do, "Efficient tensor completion for color image and video recovery: low-rank tensor
        train", 2017.
    """
    modes = [tuple(range(k)) for k in range(1, len(shape))]
    sides = [min(math.prod(shape[: len(subset)]), math.prod(shape[len(subset) :])) for subset in modes]
    return unfoldings(shape, [side / sum(sides) for side in sides], modes, method=method)


def square(shape: Sequence[int], *, method: str = "auto") -> tuple[Block, ...]:
    """The one unfolding whose number of rows and of columns are as equal as possible.

    Args:
        shape: of the tensor.
        method: engine of the thresholding.

    Returns:
        One block.

    Reference:
        Mu, Huang, Wright, Goldfarb, "Square deal", ICML 2014.
    """
    ndim = len(shape)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(ndim), k) for k in range(1, ndim))
    best = min(
        subsets, key=lambda g: abs(math.log(max(1, math.prod(shape[m] for m in g)) ** 2 / max(1, math.prod(shape))))
    )
    return unfoldings(shape, [1.0], [best], method=method)


def tubal(shape: Sequence[int]) -> tuple[Block, ...]:
    """Tubal nuclear norm of a three-way tensor, ``1/n_3 sum_k ||fft(X, axis 3)_k||_*``.

    Args:
        shape: (n_1, n_2, n_3).

    Returns:
        One block.

    Raises:
        ValueError: for a tensor that is not three-way.

    Reference:
        Zhang, Aeron, "Exact tensor completion using t-SVD", 2017.
    """
    if len(shape) != 3:
        raise ValueError(f"shape is {tuple(shape)}; expected three modes for the tubal norm")
    return (Block(_identity, _identity, _tubal_prox, _tubal_value, _tubal_gauge, jnp.asarray(1.0), jnp.asarray(1.0)),)


def _identity(data: PyTree, x: Array) -> Array:
    return x


def _tubal_prox(data: PyTree, v: Array, step: Array) -> tuple[Array, Array]:
    weight = data.astype(v.dtype)
    y, norm = tubal_svt(v, weight * step, return_norm=True)
    return y, weight * norm


def _tubal_value(data: PyTree, y: Array) -> Array:
    return data.astype(y.dtype) * tubal_norm(y)


def _tubal_gauge(data: PyTree, w: Array) -> Array:
    return tubal_spectral_norm(w) / data.astype(w.dtype)


def row_groups(
    shape: Sequence[int],
    groups: Sequence[Sequence[int]],
    weights: Weights | None = None,
    *,
    pad_ratio: float = 1.5,
    method: str = "auto",
) -> tuple[Block, ...]:
    """``sum_g weights_g ||X[G_g, :]||_*`` over (overlapping) groups of rows of a matrix.

    Groups of similar size share a block: their rows are padded with zeros to the largest of them, which changes
        nothing.

    Args:
        shape: (n, d) of the matrix.
        groups: row indices of each group, without repetition inside a group. An empty group is left out.
        weights: >= 0, one per group; None: 1 each. A group whose weight is a known 0 is left out.
        pad_ratio: largest ratio of padded to true size inside a block, >= 1.
        method: engine of the thresholding.

    Returns:
        The blocks, by increasing size of the groups.

    Raises:
        ValueError: for an index out of range or repeated inside a group, wrong weights, or no group left.
    """
    n = int(shape[0])
    if len(shape) != 2:
        raise ValueError(f"shape is {tuple(shape)}; expected two modes for groups of rows")
    weights = [1.0] * len(groups) if weights is None else _checked_weights(weights, len(groups))
    rows = [checked_rows(index, group, n) for index, group in enumerate(groups)]
    kept = [g for g, group in enumerate(rows) if group.size and not (isinstance(weights[g], float) and weights[g] == 0)]
    if not kept:
        raise ValueError("groups has no group with rows and a positive weight; expected at least one")
    dtype = jnp.result_type(float)
    return tuple(
        row_block(
            n,
            jnp.asarray(padded([rows[kept[k]] for k in bucket], n)),
            jnp.stack([jnp.asarray(weights[kept[k]], dtype) for k in bucket]),
            method,
        )
        for bucket in buckets([rows[g].size for g in kept], pad_ratio)
    )


def row_block(
    n: int, index: Int[Array, "groups rows"], thresholds: Float[Array, " groups"], method: str = "auto"
) -> Block:
    """``sum_g threshold_g ||X[index_g, :]||_*`` for groups of one bucket; y has the shape (groups, rows, d).

    Args:
        n: number of rows of X.
        index: rows of each group; n pads.
        thresholds: >= 0, one per group.
        method: engine of the thresholding.

    Returns:
        The block.
    """
    count = _row_counts(n, index, thresholds.dtype)
    prox = NuclearProx(method)
    return Block(_gather_rows, _ScatterRows(n), prox, nuclear_value, nuclear_gauge, count, (thresholds, index))


@functools.partial(jax.jit, static_argnums=(0, 2), inline=True)
def _row_counts(n, index, dtype):
    return jnp.zeros(n + 1, dtype).at[index].add(1)[:-1, None]


def _gather_rows(
    data: tuple[Array, Int[Array, "groups rows"]], x: Float[Array, "n d"]
) -> Float[Array, "groups rows d"]:
    return take_rows(x, data[1])


@dataclass(frozen=True)
class _ScatterRows:
    rows: int

    def __call__(self, data: tuple[Array, Int[Array, "groups rows"]], y: Float[Array, "groups rows d"]) -> Array:
        return jnp.zeros((self.rows + 1, y.shape[-1]), y.dtype).at[data[1]].add(y)[:-1]
