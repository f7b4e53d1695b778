"""Which matrices of an adapter act on the residual stream, and equal shapes among them side by side."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.lora.adapters import Adapter, Scale, checked_adapter, checked_factors, scale_of
from jaxspec.lora.roles import Roles, role_of

Side = Literal["writes", "reads"]


class Matrix(NamedTuple):
    """One leaf of an adapter, or of the base model, with a side on the stream.

    Attributes:
        path: its name.
        side: which of its sides is on the stream: ``"writes"`` the rows, ``"reads"`` the columns.
        shape: ``(*batch, out, in)``.
    """

    path: str
    side: str
    shape: tuple[int, ...]


class Stack(NamedTuple):
    """Matrices of equal shape on the same side.

    Attributes:
        a: (L, r, in).
        b: (L, out, r).
        scale: (L,), the factor of ``b a``.
        side: as in `Matrix`.
        leaves: the leaves, in order; each has as many of the L matrices as its batch axes hold.
    """

    a: Float[Array, "L r n"]
    b: Float[Array, "L m r"]
    scale: Float[Array, " L"]
    side: str
    leaves: tuple[Matrix, ...]


def stream_matrices(
    shapes: Mapping[str, tuple[int, ...]],
    roles: Roles,
    *,
    side: Side,
    width: int | None = None,
    default_role: str | None = None,
    none_is_an_error: bool = True,
) -> tuple[list[Matrix], int | None]:
    """Matrices with the given side on a stream of the given width.

    Args:
        shapes: ``(*batch, out, in)`` of every leaf.
        roles: as in `jaxspec.lora.resolve_roles`. The role decides, never the shape: a square matrix says nothing about
            its sides.
        side: side of interest; a role ``"both"`` counts on either side.
        width: of the stream; default the only one that occurs.
        default_role: role of the paths that ``roles`` does not know.
        none_is_an_error: whether it is an error that there is none.

    Returns:
        The matrices in the order of ``shapes``, and the width.

    Raises:
        ValueError: unknown role of a matrix that may be on the stream; several widths, or none.
    """
    named = {path: role_of(roles, path, default_role) for path in shapes}
    found = [Matrix(path, side, shape) for path, shape in shapes.items() if named[path] in (side, "both")]
    widths = sorted({_stream_side(matrix) for matrix in found})
    if width is None and len(widths) > 1:
        raise ValueError(f"width is None and the sides of {side!r} matrices on the stream are {widths}; name one")
    width = widths[0] if width is None and widths else width
    unknown = [path for path, role in named.items() if role is None and (width is None or width in shapes[path][-2:])]
    if unknown:
        raise ValueError(f"roles does not know {unknown}, which may be on the stream; give their role, or default_role")
    found = [matrix for matrix in found if _stream_side(matrix) == width]
    if not found and none_is_an_error:
        raise ValueError(f"roles select no matrix that {side} with width {width}; paths are {list(shapes)}")
    return found, width


def stacked(
    adapter: Adapter,
    scale: Scale,
    roles: Roles,
    *,
    side: Side,
    width: int | None = None,
    default_role: str | None = None,
) -> tuple[list[Stack], int]:
    """The adapter's matrices on the stream, those of equal shape in one stack.

    Args:
        adapter: ``{path: {"a": (*batch, r, in), "b": (*batch, out, r)}}``.
        scale: factor of ``b a``, one for all or one a path.
        roles: as in `stream_matrices`, like the rest.
        side: which side.
        width: of the stream.
        default_role: role of unknown paths.

    Returns:
        The stacks, in float32 or wider, and the width.

    Raises:
        ValueError: a leaf without partner, ranks or batch axes that differ, entries that are not finite, a path without
            scale; see `stream_matrices`.
        TypeError: no mapping, or a leaf that is not real floating point.
    """
    factors = {path: checked_factors(path, leaf, dora=True) for path, leaf in checked_adapter(adapter).items()}
    shapes = {path: (*a.shape[:-2], b.shape[-2], a.shape[-1]) for path, (a, b) in factors.items()}
    found, width = stream_matrices(shapes, roles, side=side, width=width, default_role=default_role)
    groups = {}
    for matrix in found:
        a, b = factors[matrix.path]
        dtype = jnp.promote_types(compute_dtype(a, f"{matrix.path}/a"), compute_dtype(b, f"{matrix.path}/b"))
        groups.setdefault((matrix.side, a.shape[-2:], b.shape[-2:], dtype), []).append((matrix, a, b))
    return [_stack(key[-1], members, scale) for key, members in groups.items()], width


def per_matrix(name: str, values: Mapping[str, Any], stack: Stack) -> Float[Array, " L"]:
    """Numbers given by path, in the order of the stack's matrices.

    Args:
        name: of the argument, for messages.
        values: by path, one number or as many as the leaf's batch axes hold, (*batch,).
        stack: the matrices.

    Returns:
        One number a matrix, (L,).

    Raises:
        ValueError: a path is missing, or a shape does not fit the batch axes.
    """
    found, batches = [], []
    for matrix in stack.leaves:
        batch = matrix.shape[:-2]
        if matrix.path not in values:
            raise ValueError(f"{name} has no entry for {matrix.path}; expected one for every matrix")
        value = values[matrix.path]
        if jnp.shape(value) not in ((), batch):
            raise ValueError(f"{name} for {matrix.path} has shape {jnp.shape(value)}; expected {batch} or one number")
        found.append(value)
        batches.append(batch)
    return _end_to_end(found, tuple(batches), stack.a.dtype)


def by_path(values: Sequence[Shaped[Array, "..."]], stacks: Sequence[Stack]) -> dict[str, Shaped[Array, "..."]]:
    """The opposite of `per_matrix`: what was found for every matrix, by path.

    Args:
        values: for every stack, (L, ...).
        stacks: the stacks.

    Returns:
        By path, (*batch, ...).
    """
    found = {}
    for value, stack in zip(values, stacks, strict=True):
        paths, batches = zip(*((matrix.path, matrix.shape[:-2]) for matrix in stack.leaves), strict=True)
        found |= zip(paths, _divided(value, batches), strict=True)
    return found


def _stack(dtype, members, scale):
    leaves, a, b = zip(*members, strict=True)
    a, b = (_end_to_end(factors, tuple(x.shape for x in factors), dtype, matrices=True) for factors in (a, b))
    scales = {matrix.path: scale_of(scale, matrix.path) for matrix in leaves}
    unscaled = Stack(a, b, jnp.ones(a.shape[0], dtype), leaves[0].side, leaves)
    return unscaled._replace(scale=per_matrix("scale", scales, unscaled))


# One program each: an operation for every leaf would cost as much as the analysis.
@partial(jax.jit, static_argnames=("shapes", "dtype", "matrices"))
def _end_to_end(values, shapes, dtype, matrices=False):
    """Values of given shapes, their batch axes flattened, one after the other."""
    each = (jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x, shape in zip(values, shapes, strict=True))
    return jnp.concatenate([x.reshape(-1, *x.shape[-2:]) if matrices else x.reshape(-1) for x in each])


@partial(jax.jit, static_argnames="batches")
def _divided(value, batches):
    """The opposite: a part of the first axis for every batch."""
    ends = list(itertools.accumulate(math.prod(batch) for batch in batches))
    parts = jnp.split(value, ends[:-1])
    return [x.reshape(*batch, *value.shape[1:]) for x, batch in zip(parts, batches, strict=True)]


def _stream_side(matrix: Matrix) -> int:
    return matrix.shape[-2] if matrix.side == "writes" else matrix.shape[-1]
