"""Is it more than chance? Null models for the statistics of `geometry` and `circular`.

Three questions, three nulls: shuffled orders of the same tokens (`permutation_test`), Gaussian rows (`gaussian_test`)
and other tokens of the same table (`token_set_test`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxspec.chance import upper_p_value
from jaxspec.checks import check_integers, finite, warn_caller
from jaxspec.peeled.checks import floating
from jaxspec.peeled.circular import all_orders, check_symmetric, rounding_slack

# Statistics computed at once; bounds the memory.
_CHUNK = 256
_LARGEST_EXACT = 9


class PermutationTest(NamedTuple):
    """Result of `permutation_test`.

    Attributes:
        statistic: of the given order.
        p_value: share of orders whose statistic is as large.
        null_mean: mean of the statistic over the orders.
        null_std: its standard deviation.
        exact: whether all orders were tried.
    """

    statistic: float
    p_value: float
    null_mean: float
    null_std: float
    exact: bool


class NullTest(NamedTuple):
    """Result of `gaussian_test` and `token_set_test`.

    Attributes:
        statistic: of the given rows.
        p_value: share of draws, the given rows among them, whose statistic is as extreme.
        null_mean: mean of the statistic over the draws.
        null_std: its standard deviation.
    """

    statistic: float
    p_value: float
    null_mean: float
    null_std: float


def permutation_test(
    stat: Callable[[Array], Array],
    G: Any,
    *,
    key: Key[Array, ""] | None = None,
    exact_limit: int = 8,
    num_samples: int = 20000,
) -> PermutationTest:
    """How often a shuffled order of the tokens is as structured: ``stat(G[o][:, o]) >= stat(G)``, ties included.

    Args:
        stat: Gram matrix -> number, large where there is structure, unchanged by rotations and reflections of the
            order: `harmonic_score`, `circulant_r2`. A module's function: a fresh lambda compiles again.
        G: symmetric, (n, n).
        key: random key; only needed beyond ``exact_limit``.
        exact_limit: largest n for which all ``(n - 1)! / 2`` orders are tried, at most 9 (static).
        num_samples: random orders beyond (static); then ``p = (1 + count) / (1 + num_samples)``.

    Returns:
        The test. `circulant_r2` cannot reach a p-value below the share of equivalent orders (3/360 for n = 7). A
        statistic that is NaN, that of a constant matrix, has p = 1.

    Raises:
        ValueError: a matrix that is not square, symmetric and finite, no key where one is needed, or a bad count.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.peeled import harmonic_score
        >>> angles = 2 * jnp.pi * jnp.arange(7) / 7
        >>> round(permutation_test(harmonic_score, jnp.cos(angles[:, None] - angles)).p_value, 5)
        0.00278
    """
    G = floating("G", G)
    n = G.shape[0] if G.ndim == 2 else 0
    if G.shape != (n, n) or n == 0:
        raise ValueError(f"G has shape {G.shape}; expected (n, n)")
    check_symmetric("G", G)
    if not 0 <= exact_limit <= _LARGEST_EXACT:
        raise ValueError(f"exact_limit is {exact_limit}; expected an integer in [0, {_LARGEST_EXACT}]")
    exact = n <= exact_limit
    if exact:
        orders = jnp.asarray(all_orders(n))
    else:
        check_integers(1, num_samples=num_samples)
        if key is None:
            raise ValueError(f"key is None and n is {n} > exact_limit; expected a random key")
        orders = _random_orders(key, n, num_samples)
    observed, null = _shuffled(stat, G, orders)
    p_value = _p_value(null, observed, rounding_slack(G.dtype, n), exact)
    return PermutationTest(float(observed), p_value, *_moments(null), exact)


def gaussian_test(
    stat: Callable[[Array], Array],
    W: Any,
    *,
    key: Key[Array, ""],
    num_samples: int = 1000,
    small: bool = True,
    center: bool = False,
) -> NullTest:
    """How often Gaussian rows of the same shape are as structured.

    The draws must be treated as the rows were: rows from which their mean was subtracted are nearer to a simplex than
    raw Gaussian ones, noise among them. Give raw rows and ``center=True``, which centres both; rows that are centred
    already may be given with it as well.

    Args:
        stat: rows (V, d) -> number that does not depend on their scale; see `permutation_test`.
        W: rows, (V, d).
        key: random key.
        num_samples: draws (static).
        small: whether small numbers mean structure, as for `simplex_etf_defect` (static).
        center: whether the mean of the rows is subtracted, from W and from every draw (static).

    Returns:
        The test, ``p = (1 + count) / (1 + num_samples)``; 1 for a statistic that is NaN. A `UserWarning` where W sums
        to 0, the draws do not, and the statistic sees the difference.

    Raises:
        ValueError: rows that are not finite, or ``num_samples < 1``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxspec.peeled import simplex_etf_defect
        >>> rows = jnp.eye(6)
        >>> gaussian_test(simplex_etf_defect, rows, key=jax.random.key(0), num_samples=99, center=True).p_value
        0.01
    """
    W = _rows("W", W)
    check_integers(1, num_samples=num_samples)
    if center:
        W = W - jnp.mean(W, axis=0)
    null = _gaussian(stat, W, key, num_samples, center)
    if not center and _sums_to_zero(W):
        centred = _gaussian(stat, W, key, 1, True)[0]
        if not np.isclose(centred, null[0], rtol=1e-3, equal_nan=True):
            message = "the rows of W sum to 0 and those of Gaussian draws do not: give center=True, which centres both"
            warn_caller(message)
    return _judged(stat(W), null, small, W)


def token_set_test(
    stat: Callable[[Array], Array],
    table: Any,
    tokens: Any,
    *,
    key: Key[Array, ""],
    num_samples: int = 1000,
    small: bool = True,
) -> NullTest:
    """How often as many random tokens of the table are as structured.

    Args:
        stat: as in `gaussian_test`.
        table: one row a token, (N, d).
        tokens: the tokens asked about, (V,) different integers.
        key: random key.
        num_samples: random sets, without replacement (static).
        small: as in `gaussian_test`.

    Returns:
        The test.

    Raises:
        ValueError: tokens out of range or twice, rows that are not finite, or ``num_samples < 1``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxspec.peeled import equinorm_cv
        >>> table = jnp.arange(40.0).reshape(20, 2).at[:3].set(1.0)
        >>> token_set_test(equinorm_cv, table, [0, 1, 2], key=jax.random.key(0), num_samples=99).p_value
        0.01
    """
    table = _rows("table", table)
    check_integers(1, num_samples=num_samples)
    tokens = np.asarray(tokens)
    size = table.shape[0]
    inside = tokens.ndim == 1 and tokens.size > 0 and np.all((tokens >= 0) & (tokens < size))
    if not inside or np.unique(tokens).size != tokens.size:
        raise ValueError(f"tokens is {tokens}; expected different integers in [0, {size})")
    null = _token_sets(stat, table, key, tokens.size, num_samples)
    return _judged(stat(table[tokens]), null, small, table)


@eqx.filter_jit
def _shuffled(stat: Callable, G: Array, orders: Array) -> tuple[Array, Array]:
    return stat(G), jax.lax.map(lambda o: stat(G[o][:, o]), orders, batch_size=_CHUNK)


@eqx.filter_jit
def _random_orders(key: Array, n: int, count: int) -> Array:
    return jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, count))


@eqx.filter_jit
def _gaussian(stat: Callable, W: Array, key: Array, count: int, center: bool) -> Array:
    def draw(k: Array) -> Array:
        rows = jax.random.normal(k, W.shape, W.dtype)
        return stat(rows - jnp.mean(rows, axis=0) if center else rows)

    return jax.lax.map(draw, jax.random.split(key, count), batch_size=_CHUNK)


def _sums_to_zero(W: Array) -> bool:
    """Whether the rows were centred, to rounding; one row alone was not."""
    values = np.asarray(W, float)
    sums, sizes = np.abs(values.sum(0)).max(), np.abs(values).sum(0).max()
    return bool(len(values) > 1 and sums <= 100 * jnp.finfo(W.dtype).eps * sizes)


@eqx.filter_jit
def _token_sets(stat: Callable, table: Array, key: Array, size: int, count: int) -> Array:
    def draw(k: Array) -> Array:
        return stat(table[jax.random.choice(k, table.shape[0], (size,), replace=False)])

    return jax.lax.map(draw, jax.random.split(key, count))


def _judged(observed: Array, null: Array, small: bool, like: Array) -> NullTest:
    sign = -1 if small else 1
    p_value = _p_value(sign * null, sign * observed, rounding_slack(like.dtype, like.shape[0]))
    return NullTest(float(observed), p_value, *_moments(null))


def _p_value(null: Array, observed: Array, slack: float, exact: bool = False) -> float:
    """With ``exact`` the observed value is one of the draws already."""
    if math.isnan(float(observed)):
        return 1.0
    values, value = np.asarray(null), np.asarray(observed)
    # Ties count: without the slack the equivalent orders are lost to rounding.
    slack = np.asarray(slack * max(abs(value), np.nanmax(np.abs(values))), values.dtype)
    return float(np.mean(values >= value - slack) if exact else upper_p_value(values, value, slack))


def _moments(null: Array) -> tuple[float, float]:
    values = np.asarray(null, float)
    return float(values.mean()), float(values.std())


def _rows(name: str, W: Any) -> Float[Array, "V d"]:
    W = floating(name, W)
    if W.ndim != 2 or W.size == 0:
        raise ValueError(f"{name} has shape {W.shape}; expected rows, (V, d), not empty")
    return finite(name, W)
