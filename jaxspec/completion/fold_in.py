"""Rows that were not there when the table was completed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxspec.checks import check_given
from jaxspec.completion import validation
from jaxspec.completion.group_layout import Groups, Layout, check_groups, layout, take_rows
from jaxspec.completion.groups import EVERYONE, level_name
from jaxspec.completion.result import CompletionResult
from jaxspec.linalg import eigh
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import power_of_two_scale

# Width of a direction that a group does not use, over its largest singular value.
_UNUSED = 1e-2


def fold_in(
    result: CompletionResult,
    groups: Groups,
    Y: Any,
    W: Any = None,
    labels: Any = None,
    *,
    ridge: float | Float[Array, ""] = 0.0,
) -> Float[Array, "m d"]:
    """Completes new rows from a fit, ``min_r 1/2 sum_j w_j (y_j - r_j)^2 + ridge/2 |r|^2 + 1/2 r Q r^T`` per row.

    ``Q = sum_g lambda_g (A_g^T A_g + delta_g^2)^(-1/2)`` over the groups of the row, ``A_g = S_g M``: to first order
    what the row adds to the penalty, since ``tr (A^T A + r^T r)^(1/2) <= tr (A^T A)^(1/2) + 1/2 r (A^T A)^(-1/2) r^T``.
    delta_g, a hundredth of the largest singular value, lets a row leave the row space of its group at a price. One
    d x d solve per row, against a whole completion for refitting.

    Args:
        result: of `game`, or of `soft_impute` with ``groups = make_groups([], n, everyone=1.0)``.
        groups: of the rows of the fit.
        Y: new rows, (m, d); NaN allowed where not observed.
        W: weights >= 0, (m, d), 0 = missing; None: 1 where Y is finite.
        labels: which groups the new rows are in; required: a pandas DataFrame with the columns that the groups
            came from (unknown or missing labels: in no group of that column), or booleans (m, G).
        ridge: as in the fit.

    Returns:
        The completed rows. A row in no group keeps its observed entries, the others are 0.

    Raises:
        ValueError: for shapes that do not fit, or bad values.
        TypeError: for groups that `make_groups` did not build.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.completion import game, make_groups
        >>> Y = jnp.outer(jnp.arange(1.0, 5.0), jnp.array([1.0, 2.0, 3.0]))
        >>> groups = make_groups([[0, 1, 2, 3]], 4)
        >>> fit = game(Y, None, groups, 0.001)
        >>> fold_in(fit, groups, jnp.array([[2.0, jnp.nan, 6.0]]), None, [[True]]).round(0)
        Array([[2., 4., 6.]], dtype=float32)
    """
    check_groups(groups)
    check_given(labels=labels)
    Y, W, dtype = validation.table(Y, W, warn=False)
    M = jnp.asarray(result.M, Y.dtype)
    if M.shape != (groups.n, Y.shape[1]):
        raise ValueError(f"result has shape {M.shape}; expected {(groups.n, Y.shape[1])}: rows of groups, columns of Y")
    lam = jnp.broadcast_to(jnp.asarray(result.lam, Y.dtype), (len(groups),))
    members = jnp.asarray(_memberships(labels, groups, Y.shape[0]))
    (ridge,) = validation.numbers(Y.dtype, ridge=ridge)
    return _folded(M, layout(groups), lam, Y, W, members, ridge=ridge).astype(dtype)


def _memberships(labels: Any, groups: Groups, m: int) -> Bool[np.ndarray, "m G"]:
    if not hasattr(labels, "columns"):
        members = np.asarray(labels, bool)
        if members.shape != (m, len(groups)):
            raise ValueError(f"labels has shape {members.shape}; expected ({m}, {len(groups)})")
        return members
    if len(labels) != m:
        raise ValueError(f"labels has {len(labels)} rows; expected {m}, as Y")
    members = np.zeros((m, len(groups)), bool)
    for g, (name, attribute) in enumerate(zip(groups.names, groups.attributes, strict=True)):
        if attribute == EVERYONE:
            members[:, g] = True
        elif attribute not in labels.columns:
            raise ValueError(f"labels has the columns {list(labels.columns)}; expected {attribute!r} among them")
        else:
            codes, levels = labels[attribute].factorize()
            same = [code for code, level in enumerate(levels) if level_name(attribute, level) == name]
            members[:, g] = np.isin(codes, same)
    return members


@eqx.filter_jit
def _folded(
    M: Array, where: Layout, lam: Array, Y: Array, W: Array, members: Array, *, ridge: Array
) -> Float[Array, "m d"]:
    scale = power_of_two_scale(M, axis=None)
    prices = jnp.zeros((lam.size, M.shape[1], M.shape[1]), M.dtype)
    after = None
    for index, ids in zip(where.index, where.ids, strict=True):
        stack = take_rows(M / scale, index)
        squares, vectors = eigh(matmul(stack.mT, stack), after=after)
        after = vectors
        delta = jnp.maximum(_UNUSED**2 * jnp.max(squares, axis=-1, keepdims=True), jnp.finfo(M.dtype).eps ** 2)
        price = lam[ids, None] / scale / jnp.sqrt(jnp.maximum(squares, 0) + delta)
        prices = prices.at[ids].set(matmul(vectors * price[:, None, :], vectors.mT))

    def one(row: tuple[Array, Array, Array]) -> Array:
        y, w, inside = row
        diagonal = w + ridge
        system = jnp.tensordot(inside.astype(M.dtype), prices, 1, precision=jax.lax.Precision.HIGHEST)
        # A row in no group: nothing holds its missing entries, which are 0.
        free = (diagonal == 0) & (jnp.diagonal(system) == 0)
        system = system + jnp.diag(jnp.where(free, 1, diagonal))
        return jax.scipy.linalg.solve(system, w * y, assume_a="pos")

    return jax.lax.map(one, (Y, W, members), batch_size=64)
