"""Where the matrices are inside a parameter: axes, batches, fused blocks, and buckets of equal shapes.

A parameter of any shape is a batch of ``fan_in x fan_out`` matrices once its reduction and output axes are named; every
other axis is a batch axis. A function of singular values commutes with transposition, ``F(X^T) = F(X)^T``, so matrices
are always handed on with their short side first, and matrices of one shape and dtype, of whatever parameter, are
stacked and mapped in one call.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact, PyTree

from jaxspec.linalg.scaling import compute_dtype


@dataclass(frozen=True)
class MatrixDims:
    """Which axes of a parameter are the rows and the columns of its matrices; every other axis is a batch axis.

    A kernel that is applied as ``x @ w`` has its inputs on axis 0 and its outputs on axis 1, the default. Recipes:

    ============================================  ==================================================
    equinox / torch ``Linear`` (out, in)          ``MatrixDims(1, 0)``
    flax ``Conv`` kernel (h, w, in, out)          ``MatrixDims((0, 1, 2), 3)``; per pixel ``MatrixDims(2, 3)``
    equinox / torch ``Conv`` (out, in, h, w)      ``MatrixDims((1, 2, 3), 0)``
    flax attention kernel (d, heads, head_dim)    ``MatrixDims(0, (1, 2))``; per head ``MatrixDims(0, 2)``
    flax attention output (heads, head_dim, d)    ``MatrixDims((0, 1), 2)``; per head ``MatrixDims(1, 2)``
    experts or stacked layers (l, in, out)        ``MatrixDims(1, 2)``, or ``MatrixDims(-2, -1)``
    fused QKV (d, 3 heads head_dim)               `qkv_dims`
    ============================================  ==================================================

    Attributes:
        reduction: axis or axes over which the layer sums (``fan_in``); negative ones count from the end.
        output: axis or axes of the layer's outputs (``fan_out``).
        fused_axis: a reduction or output axis along which several matrices are concatenated.
        sections: relative lengths of the concatenated matrices along ``fused_axis``, for example ``(1, 1, 1)``.

    Example:
        >>> MatrixDims((0, 1, 2), 3)
        MatrixDims(reduction=(0, 1, 2), output=(3,), fused_axis=None, sections=())
    """

    reduction: int | tuple[int, ...] = (0,)
    output: int | tuple[int, ...] = (1,)
    fused_axis: int | None = None
    sections: tuple[int, ...] = ()

    def __post_init__(self):
        for name in ("reduction", "output"):
            axes = getattr(self, name)
            object.__setattr__(self, name, (axes,) if isinstance(axes, int) else tuple(axes))
        if (self.fused_axis is None) != (len(self.sections) == 0) or min(self.sections, default=1) < 1:
            raise ValueError(
                f"fused_axis is {self.fused_axis} and sections is {self.sections}; expected both or neither, "
                "and positive sections"
            )


Dims = MatrixDims | optax.contrib.MuonDimensionNumbers | None
DimsTree = PyTree | Callable[[PyTree], PyTree] | None


def qkv_dims(
    heads: int, kv_heads: int | None = None, *, per_head: bool = False, reduction: int = 0, axis: int = 1
) -> MatrixDims:
    """Layout of one kernel that holds queries, keys and values side by side, ``[W_q | W_k | W_v]``.

    Args:
        heads: number of query heads.
        kv_heads: number of key and of value heads (grouped-query attention); default ``heads``.
        per_head: every head is a matrix of its own, instead of ``W_q``, ``W_k`` and ``W_v``. Also right for kernels
            that interleave the three per head, since only the width of a head matters.
        reduction: the input axis.
        axis: the fused axis, of length ``(heads + 2 kv_heads) head_dim``.

    Returns:
        The layout, for ``dimension_numbers``.

    Raises:
        ValueError: a number of heads below 1.

    Example:
        >>> qkv_dims(8, 2).sections
        (8, 2, 2)
        >>> qkv_dims(8, reduction=1, axis=2)  # the same for layers stacked on axis 0
        MatrixDims(reduction=(1,), output=(2,), fused_axis=2, sections=(1, 1, 1))
    """
    kv_heads = heads if kv_heads is None else kv_heads
    if heads < 1 or kv_heads < 1:
        raise ValueError(f"heads is {heads} and kv_heads is {kv_heads}; expected numbers >= 1")
    if per_head:
        sections = (1,) * (heads + 2 * kv_heads)
    else:
        sections = (1, 1, 1) if heads == kv_heads else (heads, kv_heads, kv_heads)
    return MatrixDims(reduction, axis, axis, sections)


class Piece(NamedTuple):
    """One block of equal matrices inside a parameter (all static).

    Attributes:
        start: first index along the fused axis.
        stop: one past the last index along the fused axis.
        view: shape that the block is reshaped to first.
        order: permutation of the view's axes to batch, reduction, output.
        batch: number of matrices.
        fan_in: product of the reduction axes.
        fan_out: product of the output axes.
    """

    start: int
    stop: int
    view: tuple[int, ...]
    order: tuple[int, ...]
    batch: int
    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class LeafLayout:
    """How one parameter becomes batches of matrices and back.

    Attributes:
        path: where the parameter sits in its tree, for messages.
        axis: the fused axis (0 without one).
        pieces: the blocks, in order along the fused axis.
    """

    path: str
    axis: int
    pieces: tuple[Piece, ...]

    def split(self, x: Inexact[Array, "..."]) -> list[Inexact[Array, "_ _ _"]]:
        """Batches of matrices ``(batch, m, n)``, ``m <= n``, one per piece."""
        return [_to_matrices(x, self.axis, piece, whole=len(self.pieces) == 1) for piece in self.pieces]

    def join(self, matrices: Sequence[Inexact[Array, "_ _ _"]], shape: tuple[int, ...]) -> Inexact[Array, "..."]:
        """The parameter of the given shape whose `split` is ``matrices``."""
        blocks = [_from_matrices(y, self.axis, piece, shape) for y, piece in zip(matrices, self.pieces, strict=True)]
        return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=self.axis)

    @property
    def min_side(self) -> int:
        """Shortest side of any matrix of the parameter."""
        return min(min(piece.fan_in, piece.fan_out) for piece in self.pieces)


def leaf_layout(path: str, shape: tuple[int, ...], dims: Dims = None) -> LeafLayout:
    """The layout of one parameter.

    Args:
        path: where it sits in its tree, for messages.
        shape: its shape.
        dims: its matrix axes; None means a single matrix, inputs on axis 0.

    Returns:
        The layout.

    Raises:
        ValueError: fewer than two axes; three or more without ``dims``; axes that overlap or do not exist; a fused axis
            that is a batch axis or does not divide into its sections.

    Example:
        >>> leaf_layout("['conv']", (3, 3, 8, 16), MatrixDims((0, 1, 2), 3)).pieces[0][-3:]
        (1, 72, 16)
    """
    if len(shape) < 2:
        raise ValueError(
            f"leaf {path} has shape {shape}; expected a matrix. The full optimisers send parameters with dimension "
            "numbers None to AdamW; to route others see matrix_partition"
        )
    if dims is None and len(shape) > 2:
        raise ValueError(
            f"leaf {path} has shape {shape} and no dimension numbers; name its matrix axes in dimension_numbers, for "
            "example MatrixDims(reduction=-2, output=-1) for stacked matrices"
        )
    dims = _as_matrix_dims(dims)
    reduction, output = (_axes(path, shape, name, getattr(dims, name)) for name in ("reduction", "output"))
    if set(reduction) & set(output):
        raise ValueError(f"leaf {path}: reduction axes {reduction} and output axes {output} overlap")
    if dims.fused_axis is None:
        return LeafLayout(path, 0, (_piece(0, shape[0], shape, reduction, output),))
    (axis,) = _axes(path, shape, "fused_axis", (dims.fused_axis,))
    unit, rest = divmod(shape[axis], sum(dims.sections))
    if rest or axis not in reduction + output:
        raise ValueError(
            f"leaf {path} has shape {shape}; fused_axis {axis} must be a reduction or output axis and divide into "
            f"sections {dims.sections}"
        )
    return LeafLayout(path, axis, _fused_pieces(shape, axis, dims.sections, unit, reduction, output))


def tree_layouts(tree: PyTree, dimension_numbers: DimsTree = None) -> list[LeafLayout]:
    """Layouts of all leaves, in the order of `jax.tree.leaves`.

    Args:
        tree: parameters or updates; ``None`` and `optax.MaskedNode` hold no leaves.
        dimension_numbers: a tree (or prefix of one) of `MatrixDims`, `optax.contrib.MuonDimensionNumbers` or None, or a
            function from the tree to one.

    Returns:
        One layout per leaf.

    Raises:
        ValueError: see `leaf_layout`.
        TypeError: a leaf that is not floating point, or dimension numbers of another type.
    """
    return [leaf_layout(path, jnp.shape(x), dims) for path, x, dims, _ in leaves_with_dims(tree, dimension_numbers)]


def leaves_with_dims(tree: PyTree, dimension_numbers: DimsTree = None) -> list[tuple[str, Any, Dims, bool]]:
    """Path, value and dimension numbers of every leaf, in the order of `jax.tree.leaves`.

    Args:
        tree: as in `tree_layouts`.
        dimension_numbers: as in `tree_layouts`.

    Returns:
        Of every leaf also whether the dimension numbers are of a tree that holds it, not of the leaf alone.

    Raises:
        TypeError: dimension numbers of another type.
    """
    prefix = dimension_numbers(tree) if callable(dimension_numbers) else dimension_numbers
    found = []

    def descend(path, dims, subtree):
        if not isinstance(dims, Dims):
            raise TypeError(
                f"dimension numbers at {jax.tree_util.keystr(path)} are {dims!r}; expected MatrixDims, "
                "optax.contrib.MuonDimensionNumbers or None"
            )
        for rest, leaf in jax.tree_util.tree_flatten_with_path(subtree)[0]:
            found.append((jax.tree_util.keystr(path + rest), leaf, dims, bool(rest)))

    jax.tree_util.tree_map_with_path(descend, prefix, tree, is_leaf=lambda node: isinstance(node, Dims))
    return found


def buckets(
    pieces: Sequence[Sequence[Inexact[Array, "_ _ _"]]],
) -> list[list[tuple[int, int]]]:
    """Group non-empty batches of matrices by shape and dtype.

    Args:
        pieces: for every leaf, its batches.

    Returns:
        For every group, the (leaf, piece) numbers of its members, in order.
    """
    groups = {}
    for leaf, batches in enumerate(pieces):
        for number, matrices in enumerate(batches):
            if matrices.size:
                groups.setdefault((matrices.shape[1:], matrices.dtype), []).append((leaf, number))
    return list(groups.values())


def stack(batches: Sequence[Array]) -> Array:
    """Concatenate along the batch axis, without a copy where there is one batch."""
    return batches[0] if len(batches) == 1 else jnp.concatenate(batches)


def check_dtypes(tree: PyTree) -> None:
    """Raise `TypeError` naming the first leaf that is neither floating point nor complex."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        compute_dtype(leaf, f"leaf {jax.tree_util.keystr(path)}", allow_complex=True)


def _as_matrix_dims(dims):
    if dims is None:
        return MatrixDims()
    if isinstance(dims, optax.contrib.MuonDimensionNumbers):
        axes = (dims.reduction_axis, dims.output_axis)
        return MatrixDims(*(a if isinstance(a, int) else tuple(a) for a in axes))
    return dims


def _axes(path, shape, name, axes):
    if not axes:
        raise ValueError(f"leaf {path}: {name} names no axis")
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(f"leaf {path} has shape {shape}; {name} {axes} names an axis that it does not have")
    wrapped = tuple(axis % len(shape) for axis in axes)
    if len(set(wrapped)) < len(wrapped):
        raise ValueError(f"leaf {path} has shape {shape}; {name} {axes} names an axis twice: they overlap")
    return wrapped


def _piece(start, stop, view, reduction, output):
    batch = tuple(axis for axis in range(len(view)) if axis not in reduction + output)
    sizes = (math.prod(view[axis] for axis in axes) for axes in (batch, reduction, output))
    return Piece(start, stop, view, batch + reduction + output, *sizes)


def _fused_pieces(shape, axis, sections, unit, reduction, output):
    if len(set(sections)) == 1:
        # Equal sections become one more batch axis: one reshape instead of a slice per section.
        view = (*shape[:axis], len(sections), shape[axis] // len(sections), *shape[axis + 1 :])
        shifted = (tuple(a + (a >= axis) for a in axes) for axes in (reduction, output))
        return (_piece(0, shape[axis], view, *shifted),)
    pieces, start = [], 0
    for section in sections:
        stop = start + section * unit
        view = (*shape[:axis], stop - start, *shape[axis + 1 :])
        pieces.append(_piece(start, stop, view, reduction, output))
        start = stop
    return tuple(pieces)


@partial(jax.jit, static_argnums=(1, 2, 3), inline=True)
def _to_matrices(x, axis, piece, whole):
    block = x if whole else jax.lax.slice_in_dim(x, piece.start, piece.stop, axis=axis)
    matrices = block.reshape(piece.view).transpose(piece.order).reshape(piece.batch, piece.fan_in, piece.fan_out)
    return matrices.mT if piece.fan_in > piece.fan_out else matrices


@partial(jax.jit, static_argnums=(1, 2, 3), inline=True)
def _from_matrices(y, axis, piece, shape):
    y = y.mT if piece.fan_in > piece.fan_out else y
    block = y.reshape([piece.view[a] for a in piece.order]).transpose(_inverse(piece.order))
    return block.reshape((*shape[:axis], piece.stop - piece.start, *shape[axis + 1 :]))


def _inverse(order):
    return tuple(sorted(range(len(order)), key=order.__getitem__))
