"""Tables too large to hold: observed entries in coordinates, their products, and the triplets of sparse plus low rank.

With coefficients c of the observed entries, S is the sparse matrix that holds them: ``S F``, ``S^T F`` and the entries
of ``L R^T`` at the observed places go through the entries a chunk at a time, in memory O(nnz + (n + d) rank).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxspec.linalg import TopSVD, operator_top_svd
from jaxspec.linalg.normalisation import matmul

# Entries per step of a product: large enough to hide the loop, small enough for the cache.
_CHUNK = 2**16


class SparseTable(eqx.Module):
    """Observed entries of an n x d table, sorted by row, each once. Build one with `sparse_table`.

    Attributes:
        rows: (N,), N padded to a multiple of the chunk by entries of weight 0.
        columns: (N,).
        values: (N,).
        weights: (N,), >= 0.
        shape: (n, d) (static).
    """

    rows: Int[Array, " N"]
    columns: Int[Array, " N"]
    values: Float[Array, " N"]
    weights: Float[Array, " N"]
    shape: tuple[int, int] = eqx.field(static=True)


def sparse_table(rows: Any, columns: Any, values: Any, shape: Sequence[int], weights: Any = None) -> SparseTable:
    """Observed entries in coordinate form; entries given several times are averaged, their weights added.

    Args:
        rows: integers, (N,).
        columns: integers, (N,).
        values: (N,), finite; float32 or wider, anything else becomes float32.
        shape: (n, d).
        weights: >= 0, (N,); None: 1 each.

    Returns:
        The table.

    Raises:
        ValueError: for shapes that do not fit, an index out of range, or a value that is not finite.
        TypeError: for indices that are not integers.

    Example:
        >>> table = sparse_table([1, 0, 1], [0, 2, 0], [1.0, 5.0, 3.0], (2, 3))
        >>> [float(value) for value in table.values], [float(weight) for weight in table.weights]
        ([5.0, 2.0], [1.0, 2.0])
    """
    rows, columns, values = np.asarray(rows), np.asarray(columns), np.asarray(values)
    n, d = (int(side) for side in shape)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights)
    for name, array, side in (("rows", rows, n), ("columns", columns, d)):
        if array.shape != values.shape or array.ndim != 1:
            raise ValueError(f"{name} has shape {array.shape}; expected one axis, as long as values: {values.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
        if array.size and (array.min() < 0 or array.max() >= side):
            raise ValueError(f"{name} run from {array.min()} to {array.max()}; expected 0 to {side - 1}")
    if weights.shape != values.shape:
        raise ValueError(f"weights has shape {weights.shape}; expected that of values, {values.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"weights run from {weights.min()} to {weights.max()}; expected finite numbers >= 0")
    if not np.isfinite(values[weights > 0]).all():
        raise ValueError("values has entries that are not finite; expected finite ones where the weight is not 0")
    dtype = jnp.asarray(values[:0]).dtype if values.dtype in (np.float32, np.float64) else jnp.dtype(jnp.float32)
    rows, columns, values, weights = _merged(rows, columns, values, weights, d)
    pad = -len(rows) % min(_CHUNK, max(len(rows), 1)) if len(rows) else 1
    return SparseTable(
        jnp.asarray(np.pad(rows, (0, pad), mode="edge" if len(rows) else "constant"), jnp.int32),
        jnp.asarray(np.pad(columns, (0, pad)), jnp.int32),
        jnp.asarray(np.pad(values, (0, pad)), dtype),
        jnp.asarray(np.pad(weights, (0, pad)), dtype),
        (n, d),
    )


def product(table: SparseTable, coefficients: Array, factor: Array, *, transposed: bool) -> Array:
    """``S F``, (n, r), or with ``transposed`` ``S^T F``, (d, r), for the sparse S that holds the coefficients.

    Args:
        table: the places of the entries.
        coefficients: one per entry, (N,).
        factor: F, (d, r), or (n, r) for the transposed product.
        transposed: which of the two (static).

    Returns:
        The product.
    """
    into, out_of = (table.columns, table.rows) if transposed else (table.rows, table.columns)

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        i, j, c = chunk
        return total.at[i].add(c[:, None] * factor[j]), None

    zeros = jnp.zeros((table.shape[transposed], factor.shape[1]), factor.dtype)
    return jax.lax.scan(add, zeros, _chunked(table, into, out_of, coefficients))[0]


def entries(table: SparseTable, left: Array, right: Array) -> Array:
    """Entries of ``left right^T`` at the observed places.

    Args:
        table: the places.
        left: (n, r).
        right: (d, r).

    Returns:
        The entries, (N,).
    """
    one = lambda chunk: jnp.sum(left[chunk[0]] * right[chunk[1]], axis=-1)  # noqa: E731
    return jax.lax.map(one, _chunked(table, table.rows, table.columns)).ravel()


def top_triplets(
    table: SparseTable, coefficients: Array, left: Array, right: Array, basis: Array, *, rank: int, sweeps: int
) -> TopSVD:
    """Leading singular triplets of sparse plus low rank, ``S + left right^T``.

    Args:
        table: the places of the entries of S.
        coefficients: the entries, (N,).
        left: (n, r).
        right: (d, r).
        basis: block where the subspace iteration starts, (d, width).
        rank: number of triplets (static).
        sweeps: of the subspace iteration (static).

    Returns:
        The triplets and the block where a later call starts.
    """
    return operator_top_svd(
        lambda v: product(table, coefficients, v, transposed=False) + matmul(left, matmul(right.T, v)),
        lambda q: product(table, coefficients, q, transposed=True) + matmul(right, matmul(left.T, q)),
        table.shape,
        rank,
        oversample=basis.shape[1] - rank,
        sweeps=sweeps,
        start=basis,
        dtype=basis.dtype,
    )


def _chunked(table: SparseTable, *arrays: Array) -> tuple[Array, ...]:
    size = min(_CHUNK, table.rows.size)
    return tuple(array.reshape(-1, size) for array in arrays)


def _merged(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, weights: np.ndarray, d: int) -> tuple:
    key = rows.astype(np.int64) * d + columns
    order = np.argsort(key, kind="stable")
    key, values, weights = key[order], values[order], weights[order]
    values = np.where(weights > 0, values, 0)
    first = np.flatnonzero(np.diff(key, prepend=-1))
    if first.size < key.size:
        total = np.add.reduceat(weights, first)
        values = np.add.reduceat(weights * values, first) / np.where(total > 0, total, 1)
        weights, key = total, key[first]
    return key // d, key % d, values, weights
