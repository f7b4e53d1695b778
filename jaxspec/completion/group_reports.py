"""What follows a fit: errors per group, whether a group helps, intervals for entries, weights for another fit."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxspec.checks import check_given, check_numbers
from jaxspec.completion import validation
from jaxspec.completion.cross_validation import Solver, held_out
from jaxspec.completion.group_layout import Groups, Layout, by_group, check_groups, layout
from jaxspec.linalg import singular_values
from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.solvers.stopping import safe_ratio


class GroupErrors(NamedTuple):
    """Result of `group_errors`: errors of the rows of each group; 0 for a group in which no entry counts.

    Attributes:
        rmse: root mean square error, in the units of the data, (G,).
        relative: over the root mean square of the truth, (G,).
        count: number of entries that count, (G,).
    """

    rmse: Float[Array, " G"]
    relative: Float[Array, " G"]
    count: Float[Array, " G"]


def group_errors(Mhat: Any, M: Any, groups: Groups, where: Any = None) -> GroupErrors:
    """``||S_g (Mhat - M)||_F / sqrt(count_g)`` per group, and relative to the same norm of M.

    Args:
        Mhat: estimate, (n, d).
        M: truth or held-out data, (n, d); NaN allowed where it does not count.
        groups: of the rows.
        where: entries that count; None: those at which M is finite.

    Returns:
        A `GroupErrors`: ``rmse``, ``relative`` and ``count`` of each group.

    Raises:
        ValueError: for shapes that do not fit.
        TypeError: for groups that `make_groups` did not build.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.completion import make_groups
        >>> group_errors(jnp.ones((3, 2)), jnp.zeros((3, 2)), make_groups([[0, 1], [2]], 3)).rmse
        Array([1., 1.], dtype=float32)
    """
    check_groups(groups)
    M, where, _ = validation.table(M, where, warn=False, names=("M", "where"))
    Mhat = jnp.asarray(Mhat, M.dtype)
    if Mhat.shape != M.shape or M.shape[0] != groups.n:
        raise ValueError(f"Mhat and M have shapes {Mhat.shape} and {M.shape}; expected one, of {groups.n} rows")
    return _group_errors(Mhat, M, (where > 0).astype(M.dtype), layout(groups))


@jax.jit
def _group_errors(Mhat: Array, M: Array, seen: Array, place: Layout) -> GroupErrors:
    error, truth = seen * (Mhat - M), seen * M
    scale = jnp.maximum(power_of_two_scale(error, axis=None), power_of_two_scale(truth, axis=None))
    total = lambda x: by_group(x, place, lambda stack: jnp.sum(stack, axis=(-2, -1)))  # noqa: E731
    count, errors, sizes = total(seen), total((error / scale) ** 2), total((truth / scale) ** 2)
    rmse = scale * jnp.sqrt(errors / jnp.maximum(count, 1))
    return GroupErrors(rmse, jnp.sqrt(safe_ratio(errors, sizes)), count)


class PairedTest(NamedTuple):
    """Result of `paired_hold_out`.

    Attributes:
        first: root mean square error of the first solver on the held-out entries.
        second: of the second one.
        gain: mean square error of the second minus that of the first: > 0 where the first predicts better.
        standard_error: of ``gain``, over rows (the entries of a row share their group and their factors).
        z: gain over standard error: > 0 where the first solver predicts better, < 0 where the second does; beyond 2 in
            size the difference is more than chance.
    """

    first: Float[Array, ""]
    second: Float[Array, ""]
    gain: Float[Array, ""]
    standard_error: Float[Array, ""]
    z: Float[Array, ""]


def paired_hold_out(
    first: Solver,
    second: Solver,
    Y: Any,
    W: Any = None,
    lams: Sequence[Any] | None = None,
    key: PRNGKeyArray | None = None,
    *,
    folds: int = 5,
) -> PairedTest:
    """Whether one solver predicts better than another, on the same held-out entries: does a group help?

    With ``D_ij = W_ij ((Y - M_second)^2 - (Y - M_first)^2)``, M fitted without the fold of ij, and row sums D_i, w_i:
    ``gain = sum_i D_i / sum_i w_i`` and its variance ``R / (R - 1) sum_i (D_i - gain w_i)^2 / (sum_i w_i)^2`` over
    the R rows with data. The folds share their training data, so the standard error is a little too small.

    Args:
        first: solver, e.g. `Game` with the group.
        second: solver, e.g. `SoftImpute`, or `Game` without the group.
        Y: data, (n, d); NaN allowed where not observed.
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        lams: lam of the first and of the second; required.
        key: randomness of the folds; required.
        folds: number of folds, >= 2 (static).

    Returns:
        A `PairedTest`: both errors, the gain, its standard error, and z, which is positive where the first solver
        predicts better.

    Raises:
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxspec.completion import Game, SoftImpute, make_groups
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> parts = [jnp.outer(*jax.random.normal(key, (2, 12))) for key in keys]  # four groups of rank 1
        >>> groups = make_groups([range(12 * g, 12 * g + 12) for g in range(4)], 48)
        >>> test = paired_hold_out(Game(groups), SoftImpute(), jnp.concatenate(parts), None, [0.1, 1.0], keys[0])
        >>> bool(test.z > 2)
        True
    """
    check_given(lams=lams)
    Y, W, _ = validation.table(Y, W)
    both = validation.lambda_grid(jnp.stack([jnp.asarray(lam, Y.dtype) for lam in lams]), Y.dtype)
    if both.size != 2:
        raise ValueError(f"lams has {both.size} numbers; expected two, one per solver")
    hidden = held_out(W, key, 0.5, folds, 1)
    # In units of the data, so that squares neither overflow nor vanish.
    scale = power_of_two_scale(Y, axis=None)
    errors = [
        _held_out_residuals(solver, Y, W, lam[None], hidden) / scale
        for solver, lam in zip((first, second), both, strict=True)
    ]
    return _compared(W, *errors, scale)


@eqx.filter_jit
def _held_out_residuals(solver: Solver, Y: Array, W: Array, lam: Array, hidden: Array) -> Float[Array, "n d"]:
    def one(hide: Array) -> Array:
        return jnp.where(hide, Y - solver(Y, jnp.where(hide, 0, W), lam).M[0], 0)

    return jnp.sum(jax.lax.map(one, hidden), axis=0)


@jax.jit
def _compared(W: Array, first: Array, second: Array, scale: Array) -> PairedTest:
    total = jnp.sum(W)
    squares = [jnp.sum(W * error**2, axis=1) for error in (first, second)]
    difference, weight = squares[1] - squares[0], jnp.sum(W, axis=1)
    gain = jnp.sum(difference) / total
    rows = jnp.sum(weight > 0)
    spread = jnp.sum((difference - gain * weight) ** 2) * rows / jnp.maximum(rows - 1, 1)
    error = jnp.sqrt(spread) / total
    root = [scale * jnp.sqrt(jnp.sum(square) / total) for square in squares]
    return PairedTest(*root, gain * scale * scale, error * scale * scale, jnp.sign(gain) * safe_ratio(abs(gain), error))


class Intervals(NamedTuple):
    """Result of `completion_intervals`.

    Attributes:
        low: lower ends, ``M - radius``, in the units of the data, (n, d).
        high: upper ends, ``M + radius``, (n, d).
        M: the completion that they are centred at, fitted without the calibration entries, (n, d).
        radius: half their width, one number for the table, in the units of the data; infinite where there are too few
            calibration entries.
    """

    low: Float[Array, "n d"]
    high: Float[Array, "n d"]
    M: Float[Array, "n d"]
    radius: Float[Array, ""]


def completion_intervals(
    solver: Solver,
    Y: Any,
    W: Any = None,
    lam: Any = None,
    key: PRNGKeyArray | None = None,
    *,
    level: float = 0.9,
    frac: float = 0.2,
) -> Intervals:
    """``M +- q`` with q the ``ceil((m + 1) level)``-th smallest of m held-out ``|Y - M|``: split conformal prediction.

    Covers a new observation with probability at least ``level``, whatever the noise and however wrong the model, if the
    missing entry and the m hidden ones are exchangeable (entries missing at random within the table). Where the missing
    ones are harder than the observed ones (structured missingness) it covers less.

    Args:
        solver: as in `cv_lambda`.
        Y: data, (n, d); NaN allowed where not observed.
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        lam: of the fit, chosen without the hidden entries or on other data; required.
        key: randomness of the calibration entries; required.
        level: probability of coverage, in (0, 1).
        frac: share of the observed entries to calibrate on.

    Returns:
        An `Intervals`: ``low`` and ``high`` for every entry of the table, their centre ``M`` and half-width
        ``radius``, which is infinite where there are too few calibration entries for the level.

    Raises:
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax
        >>> from jaxspec.completion import SoftImpute
        >>> Y = jax.random.normal(jax.random.key(0), (20, 10))
        >>> intervals = completion_intervals(SoftImpute(), Y, None, 20.0, jax.random.key(1))  # M = 0: nothing is fitted
        >>> 1.2 < float(intervals.radius) < 2.1  # 90% of a standard normal variable lies within 1.64
        True

    Reference:
        Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005.
    """
    check_numbers(0, 1, ends="()", level=level)
    check_given(lam=lam)
    Y, W, _ = validation.table(Y, W)
    (lam,) = validation.numbers(Y.dtype, lam=lam)
    hidden = held_out(W, key, frac, None, 1)[0]
    return _calibrated(solver, Y, W, lam.reshape(1), hidden, jnp.asarray(level, Y.dtype))


@eqx.filter_jit
def _calibrated(solver: Solver, Y: Array, W: Array, lam: Array, hidden: Array, level: Array) -> Intervals:
    M = solver(Y, jnp.where(hidden, 0, W), lam).M[0]
    scores = jnp.sort(jnp.where(hidden, jnp.abs(Y - M), jnp.inf).ravel())
    # Rounding must not turn (m + 1) level = 9 into a tenth.
    needed = jnp.ceil((jnp.sum(hidden) + 1) * level * (1 - 4 * jnp.finfo(Y.dtype).eps)).astype(jnp.int32)
    radius = scores[jnp.clip(needed - 1, 0, scores.size - 1)]
    radius = jnp.where(needed <= jnp.sum(hidden), radius, jnp.inf)
    return Intervals(M - radius, M + radius, M, radius)


def adaptive_groups(M: Any, groups: Groups, *, power: float = 1.0) -> Groups:
    """Groups reweighted by a fit: ``factor_g ~ t_g^-power`` with ``t_g = ||S_g M||_* / ||S_g M||_F``.

    ``t_g^2``, between 1 and the rank, is the effective rank of the group in the fit. Groups that are simple there are
    shrunk more in the next fit and groups that are not (useless ones, above all) less. The factors have the mean of the
    old ones.

    Args:
        M: a completion, (n, d).
        groups: of the rows, the factors of which are multiplied.
        power: >= 0; 0: no change.

    Returns:
        The groups with new factors; a group that is 0 in M counts as simple.

    Raises:
        ValueError: for shapes that do not fit, or a power out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.completion import make_groups
        >>> M = jnp.concatenate([jnp.eye(2), jnp.ones((2, 2))])  # a group of rank 2 and one of rank 1
        >>> [round(factor, 2) for factor in adaptive_groups(M, make_groups([[0, 1], [2, 3]], 4)).factors]
        [0.83, 1.17]

    Reference:
        The adaptive lasso of Zou (2006) for nuclear norms; whether it predicts better is for `paired_hold_out` to say.
    """
    check_groups(groups)
    M = jnp.asarray(M, jnp.result_type(M, jnp.float32))
    if M.ndim != 2 or M.shape[0] != groups.n:
        raise ValueError(f"M has shape {M.shape}; expected {groups.n} rows, as groups")
    check_numbers(0, power=power)
    t = np.asarray(_effective_ranks(M, layout(groups)), float)
    old = np.array(groups.factors)
    used = (old > 0) & np.array([rows.size > 0 for rows in groups.rows])
    factors = np.where(used, old * np.maximum(t, 1) ** -power, old)
    if not used.any():
        return groups
    return groups.with_factors(np.where(used, factors * (old[used].mean() / factors[used].mean()), old))


@jax.jit
def _effective_ranks(M: Float[Array, "n d"], where: Layout) -> Float[Array, " G"]:
    """Roots of the effective ranks."""

    def root(stack: Array) -> Array:
        s = singular_values(stack)
        relative = s / jnp.where(s[..., :1] > 0, s[..., :1], 1)
        return safe_ratio(jnp.sum(relative, axis=-1), jnp.sqrt(jnp.sum(relative**2, axis=-1)))

    return by_group(M, where, root)


@jax.jit
def group_ranks(M: Float[Array, "n d"], where: Layout) -> Float[Array, " G"]:
    """Number of singular values of ``S_g M`` above 1e-4 of the largest, what a tolerance of 1e-4 can tell.

    Args:
        M: a completion.
        where: layout of the groups.

    Returns:
        One rank per group.
    """

    def rank(stack: Array) -> Array:
        s = singular_values(stack)
        return jnp.sum(s > 1e-4 * s[..., :1], axis=-1)

    return by_group(M, where, rank)
