"""Unfoldings of a tensor: ``A_g(X) = transpose(X, g + rest).reshape(prod n_g, -1)`` for a subset g of modes, and back.

Rows run over the modes in g, columns over the others, each in increasing order of the mode and C order of the index.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Shaped

Modes = int | Sequence[int]


def unfold(x: Shaped[Array, "..."], modes: Modes) -> Shaped[Array, "rows columns"]:
    """Matrix whose rows are indexed by ``modes`` and whose columns by the other modes.

    Args:
        x: tensor with N >= 2 modes.
        modes: one mode, or a proper non-empty subset of range(N); their order does not matter.

    Returns:
        The unfolding, a permutation of the entries of x: its norms and inner products are those of x.

    Raises:
        ValueError: for a subset that is empty, repeated, out of range, or all modes.

    Example:
        >>> import jax.numpy as jnp
        >>> unfold(jnp.arange(8).reshape(2, 2, 2), 1)
        Array([[0, 1, 4, 5],
               [2, 3, 6, 7]], dtype=int32)
    """
    rows, columns = split_modes(x.ndim, modes)
    return jnp.transpose(x, rows + columns).reshape(math.prod(x.shape[mode] for mode in rows), -1)


def fold(matrix: Shaped[Array, "rows columns"], modes: Modes, shape: Sequence[int]) -> Shaped[Array, "..."]:
    """Tensor of the given shape whose unfolding by ``modes`` is ``matrix``.

    Args:
        matrix: unfolding.
        modes: as in `unfold`.
        shape: of the tensor.

    Returns:
        The tensor; ``fold(unfold(x, modes), modes, x.shape)`` is x.

    Raises:
        ValueError: for a bad subset, or a matrix of another shape than the unfolding has.
    """
    rows, columns = split_modes(len(shape), modes)
    order = rows + columns
    expected = (math.prod(shape[mode] for mode in rows), math.prod(shape[mode] for mode in columns))
    if matrix.shape != expected:
        raise ValueError(f"matrix has shape {matrix.shape}; expected {expected} for modes {rows} of {tuple(shape)}")
    inverse = sorted(range(len(shape)), key=order.__getitem__)
    return jnp.transpose(matrix.reshape([shape[mode] for mode in order]), inverse)


def split_modes(ndim: int, modes: Modes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Row modes and column modes of an unfolding, each increasing.

    Args:
        ndim: number of modes of the tensor.
        modes: one mode or a subset.

    Returns:
        The pair (rows, columns).

    Raises:
        ValueError: for a subset that is empty, repeated, out of range, or all modes.
    """
    rows = (modes,) if isinstance(modes, int) else tuple(modes)
    if not rows or len(set(rows)) != len(rows) or len(rows) >= ndim or not all(0 <= mode < ndim for mode in rows):
        raise ValueError(f"modes is {modes}; expected some, not all, of 0..{ndim - 1}, each once")
    return tuple(sorted(rows)), tuple(mode for mode in range(ndim) if mode not in rows)
