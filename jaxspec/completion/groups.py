"""Groups of rows of a table: overlapping, unbalanced, empty, single-row and duplicate ones; from labels or indices.

``S_g`` selects the rows of group g, ``c_i`` counts the groups that contain row i, ``W`` is 0 where nothing is observed.
Groups of similar size are stacked into buckets, padded with rows of zeros, so that one batched factorisation serves a
bucket.

Reference: Golubovic, Shen, Allen, Zikry, "Group-Aware Matrix Estimation and Latent Subspace Recovery",
arXiv:2605.20559, 2026 (the estimator); the weights and the layout are this library's.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxspec.checks import check_integers, check_numbers
from jaxspec.completion import validation
from jaxspec.completion.group_layout import Groups, Layout, by_group, check_groups, checked_rows, layout, memberships
from jaxspec.linalg import spectral_norm, top_svd
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide

# Name of the group of all rows that `make_groups` can add.
EVERYONE = "all rows"


def make_groups(
    groups: Any, n: int, *, pad_ratio: float = 1.5, min_size: int = 1, everyone: float | None = None
) -> Groups:
    """Groups of the n rows of a table.

    Args:
        groups: row indices of each group, a sequence of sequences; or a pandas DataFrame of labels with one row per row
            of the table: every level of every column is a group, and a missing label puts the row into no group of that
            column; or a pandas Series of labels, which is one column.
        n: number of rows.
        pad_ratio: largest ratio of padded to true size inside a bucket, >= 1. Never changes a result.
        min_size: smaller groups are left empty (index arrays) or out (DataFrame).
        everyone: factor of the weight of one more group that holds all rows; None: no such group.

    Returns:
        The groups.

    Raises:
        ValueError: for an index out of range or repeated inside a group, labels of another length, or an option out of
            range.
        TypeError: for indices that are not integers, such as labels in a list or an array.

    Example:
        >>> make_groups([[0, 1, 2], [2, 3]], 4).names
        ('0', '1')
    """
    check_integers(1, n=n, min_size=min_size)
    check_numbers(1, pad_ratio=pad_ratio)
    check_numbers(0, everyone=everyone)
    if hasattr(groups, "to_frame") and hasattr(groups, "iloc"):
        groups = groups.to_frame("label" if groups.name is None else groups.name)
    if hasattr(groups, "columns") and hasattr(groups, "iloc"):
        rows, names, attributes = _from_labels(groups, n, min_size)
    else:
        rows = [checked_rows(index, group, n) for index, group in enumerate(groups)]
        rows = [group if group.size >= min_size else group[:0] for group in rows]
        names = attributes = [str(index) for index in range(len(rows))]
    factors = [1.0] * len(rows)
    if everyone is not None:
        rows, names, attributes = [*rows, np.arange(n)], [*names, EVERYONE], [*attributes, EVERYONE]
        factors.append(float(everyone))
    rows = [group.astype(np.int32) for group in rows]
    for group in rows:
        group.flags.writeable = False
    return Groups(n, tuple(rows), tuple(names), tuple(attributes), tuple(factors), float(pad_ratio))


def _from_labels(frame: Any, n: int, min_size: int) -> tuple[list[np.ndarray], list[str], list[str]]:
    if len(frame) != n:
        raise ValueError(f"groups has {len(frame)} rows; expected n = {n}, as the table")
    rows, names, attributes = [], [], []
    for position, column in enumerate(frame.columns):
        codes, levels = frame.iloc[:, position].factorize(sort=True)  # a missing label has the code -1
        for code, level in enumerate(levels):
            members = np.flatnonzero(codes == code)
            if members.size >= min_size:
                rows.append(members)
                names.append(level_name(column, level))
                attributes.append(str(column))
    return rows, names, attributes


def level_name(column: Any, level: Any) -> str:
    """Name of the group of a level; 1 and 1.0, which a missing label makes of it, are the same level.

    Args:
        column: name of the column.
        level: the label.

    Returns:
        ``"column=level"``.
    """
    whole = isinstance(level, float | np.floating) and float(level).is_integer()
    return f"{column}={int(level) if whole else level}"


def weights_of(W: Shaped[Array, "n d"], where: Layout, factors: Float[Array, " G"]) -> Float[Array, " G"]:
    """`game_weights` of a layout.

    Args:
        W: weights of the observations, 0 = missing.
        where: layout of the groups.
        factors: of the weights; groups with factor 0 are left out and do not count for c_i.

    Returns:
        The weights.
    """
    seen = (W > 0).astype(factors.dtype)
    count = memberships(where, (factors > 0).astype(factors.dtype))
    # One table with the columns that the three means and maxima need: the mask, and c_i.
    table = jnp.concatenate([seen, count[:, None], jnp.ones_like(count)[:, None]], axis=1)

    def weight(stack: Array) -> Array:
        mask, shared, inside = stack[..., :-2], stack[..., -2], stack[..., -1]
        spread = jnp.sqrt(jnp.max(jnp.sum(mask, -1), -1)) + jnp.sqrt(jnp.max(jnp.sum(mask, -2), -1, initial=0))
        return spread * jnp.sum(inside, -1) / jnp.maximum(jnp.sum(shared, -1), 1)

    return factors * by_group(table, where, weight)


def game_weights(W: Any, groups: Groups) -> Float[Array, " G"]:
    """``w_g = factor_g (sqrt(r_g) + sqrt(k_g)) / mean_{i in g} c_i``: the scale of the noise inside a group.

    r_g, k_g: largest number of observed entries in a row, respectively column, of the group. Masked noise of standard
    deviation sigma has an operator norm of about ``sigma (sqrt(r_g) + sqrt(k_g))`` there, and the noise of a row is
    shared by its c_i groups, so ``lambda_g = lam w_g`` has ``lam = kappa sigma`` with kappa about 1.

    Args:
        W: (n, d), 0 = missing.
        groups: of the rows.

    Returns:
        The weights; 0 for a group without observations. They put the lambda grid into the units of the noise; uniform
        weights of the same mean predict about as well.

    Raises:
        ValueError: for a W of another length than the groups.

    Example:
        >>> import jax.numpy as jnp
        >>> game_weights(jnp.ones((4, 4)), make_groups([[0, 1, 2, 3]], 4))
        Array([4.], dtype=float32)
    """
    check_groups(groups)
    W = jnp.asarray(W)
    _check_rows("W", W, groups)
    where = layout(groups)
    return jax.jit(weights_of)(W, where, where.factors)


def lambda_max(Y: Any, W: Any = None, groups: Groups | None = None) -> Float[Array, ""]:
    """``max_g ||S_g (W Y / c)||_2 / w_g``: a scalar ``lam`` this large gives the completion 0 (one group: only then).

    Args:
        Y: data, (n, d); NaN allowed where not observed.
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        groups: of the rows; None: one group of all rows of weight 1, i.e. soft-impute.

    Returns:
        The bound, in the units of the data (times those of W): where paths start. With groups, rows in no group are not
        penalised and stay as they are.

    Raises:
        ValueError: for bad input.

    Example:
        >>> import jax.numpy as jnp
        >>> float(lambda_max(jnp.diag(jnp.array([3.0, 2.0]))))
        3.0
    """
    Y, W, _ = validation.table(Y, W)
    if groups is None:
        return spectral_norm(W * Y)
    check_groups(groups)
    _check_rows("Y", Y, groups)
    where = layout(groups)
    return jax.jit(largest_lambda)(Y, W, where, where.factors)


def largest_lambda(
    Y: Float[Array, "n d"], W: Float[Array, "n d"], where: Layout, factors: Float[Array, " G"]
) -> Float[Array, ""]:
    """`lambda_max` of a layout.

    Args:
        Y: data, finite.
        W: weights.
        where: layout of the groups.
        factors: of the weights.

    Returns:
        The bound.
    """
    weights = weights_of(W, where, factors).astype(Y.dtype)
    count = memberships(where, (factors > 0).astype(Y.dtype))
    norms = by_group(W * Y / jnp.maximum(count, 1)[:, None], where, spectral_norm)
    return jnp.max(safe_divide(norms, weights), initial=0)


def _check_rows(name: str, table: Array, groups: Groups | Layout) -> None:
    if table.ndim != 2 or table.shape[0] != groups.n:
        raise ValueError(f"{name} has shape {table.shape}; expected {groups.n} rows, as groups")


def group_sin_theta(Mhat: Any, M: Any, groups: Groups | Layout, rank: int) -> Float[Array, " G"]:
    """``||sin Theta(Vhat_g, V_g)||_F / sqrt(r) = sqrt(1 - ||Vhat_g^T V_g||_F^2 / r)`` per group, in [0, 1].

    V_g, Vhat_g: the r leading right singular vectors of ``S_g M`` and ``S_g Mhat``, r the smaller of ``rank`` and the
    numerical rank of ``S_g M``. Directions that an estimate of lower rank lacks count as missed.

    Args:
        Mhat: estimate, (n, d).
        M: truth, (n, d).
        groups: of the rows, or their layout (whose arrays may be traced).
        rank: largest r, >= 1 (static).

    Returns:
        One error per group; 0 where the true rows are empty or zero.

    Raises:
        ValueError: for shapes that do not fit, or a rank below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> M = jnp.outer(jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 4.0]))
        >>> group_sin_theta(M.at[2].set(jnp.array([4.0, -3.0])), M, make_groups([[0, 1], [2]], 3), 1)
        Array([0., 1.], dtype=float32)
    """
    if not isinstance(groups, Layout):
        check_groups(groups)
    Mhat, M = jnp.asarray(Mhat), jnp.asarray(M)
    Mhat, M = (x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32) for x in (Mhat, M))
    _check_rows("Mhat", Mhat, groups)
    if Mhat.shape != M.shape:
        raise ValueError(f"Mhat has shape {Mhat.shape}; expected that of M, {M.shape}")
    check_integers(1, rank=rank)

    where = layout(groups) if isinstance(groups, Groups) else groups
    return _sin_theta(jnp.concatenate([Mhat, M], axis=1), where, rank)


@partial(jax.jit, static_argnames="rank")
def _sin_theta(both: Float[Array, "n d2"], where: Layout, rank: int) -> Float[Array, " G"]:
    def error(pair: Array) -> Array:
        estimate, truth = (_row_space(stack, rank) for stack in jnp.split(pair, 2, axis=-1))
        # The residual itself, not 1 minus the common part: small angles keep their digits.
        missed = truth - matmul(matmul(truth, estimate.mT), estimate)
        r = jnp.round(jnp.sum(truth**2, axis=(-2, -1)))
        return jnp.minimum(jnp.sqrt(jnp.sum(missed**2, axis=(-2, -1)) / jnp.maximum(r, 1)), 1)

    return by_group(both, where, error)


def _row_space(stack: Float[Array, "groups rows d"], rank: int) -> Float[Array, "groups r d"]:
    """Leading right singular vectors as rows, zero beyond the numerical rank."""
    short = min(stack.shape[-2:])
    _, s, vt, _ = top_svd(stack, min(rank, short), dense_below=short)
    floor = max(stack.shape[-2:]) * jnp.finfo(s.dtype).eps * s[..., :1]
    return vt * (s > floor)[..., None]
