r"""Pairs of keys and values, their scores under a matrix W, and the margins of the recalled ones.

``S[mu, nu] = y_nu^T W x_mu``; pair mu is recalled when ``S[mu, mu] > S[mu, nu]`` for every other nu. In the decoupled
model row mu has competitors of its own, ``S[mu, nu] = c[mu, nu]^T W x_mu``, so that rows become independent.
Setting of arXiv 2605.10795.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from jaxspec.checks import check_choice, check_integers, finite
from jaxspec.memory.checks import EMBEDDINGS, MODELS
from jaxspec.memory.draws import Regenerated, row_keys, vector

_HIGHEST = jax.lax.Precision.HIGHEST


class Associations(NamedTuple):
    """Keys, right answers, and what competes with them.

    Attributes:
        x: keys, (p, d).
        y: values: the right answer of each key, (p, d).
        competitors: None: the other values; (q, d): these, for every row; (p, p, d) or `Regenerated`: each row's own,
            the diagonal unused (decoupled model).
        right: (p, q) booleans, q = p unless the competitors are (q, d): True where a competitor is also right for the
            row's key and does not compete; None: none is. `with_answers` makes it.
    """

    x: Num[Array, "p d"]
    y: Num[Array, "p d"]
    competitors: Num[Array, "p p d"] | Num[Array, "q d"] | Regenerated | None = None
    right: Bool[Array, "p q"] | None = None


def sample_associations(
    key: Key[Array, ""],
    p: int,
    d: int,
    *,
    model: str = "original",
    embedding: str = "gaussian",
    regenerate: bool = False,
) -> Associations:
    """Random associations; pair mu depends on ``fold_in(key, mu)`` alone, so a longer draw starts with a shorter one.

    Args:
        key: random key.
        p: number of pairs, >= 2.
        d: dimension, >= 1.
        model: ``"original"``, or ``"decoupled"`` (fresh competitors, ``p^2 d`` numbers).
        embedding: ``"gaussian"``, ``N(0, I / d)``, or ``"sphere"``, uniform of norm 1.
        regenerate: do not store the competitors of the decoupled model but draw them again, the same ones, where they
            are needed.

    Returns:
        The associations, in JAX's default floating dtype.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import jax
        >>> sample_associations(jax.random.key(0), 5, 3).x.shape
        (5, 3)
    """
    check_choice("model", model, MODELS)
    check_choice("embedding", embedding, EMBEDDINGS)
    check_integers(2, p=p)
    check_integers(1, d=d)
    return _sample(key, p, d, model, embedding, regenerate)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _sample(key, p, d, model, embedding, regenerate):
    def row(mu):
        key_x, key_y, _ = row_keys(key, mu)
        return vector(key_x, d, embedding), vector(key_y, d, embedding)

    mu = jnp.arange(p)
    competitors = None if model == "original" else Regenerated(key, embedding)
    if competitors is not None and not regenerate:
        competitors = jax.vmap(lambda row: competitors.some(row, mu, d))(mu)
    return Associations(*jax.vmap(row)(mu), competitors)


def scores(W: Num[Array, "d d"], a: Associations) -> tuple[Float[Array, " p"], Float[Array, "p q"]]:
    """Raw scores of every pair, ``y_mu^T W x_mu`` and ``y_nu^T W x_mu`` (decoupled: ``c[mu, nu]^T W x_mu``).

    Args:
        W: the memory.
        a: the associations.

    Returns:
        ``(correct, others)``; ``others`` is -infinity where nothing competes: on the diagonal, and where ``right``.

    Raises:
        ValueError: shapes that do not fit, p < 2, or non-finite numbers (under jit: `equinox.error_if`).

    Example:
        >>> import jax.numpy as jnp
        >>> scores(jnp.eye(2), Associations(jnp.eye(2), jnp.eye(2)))[1]
        Array([[-inf,   0.],
               [  0., -inf]], dtype=float32)
    """
    return _scores(*checked(W, a))


@partial(jax.jit, inline=True)
def _scores(W, a):
    return jax.vmap(lambda mu: row_scores(W, a, mu))(jnp.arange(len(a.x)))


def margins(W: Num[Array, "d d"], a: Associations, block: int | None = None) -> Float[Array, " p"]:
    """Margin of every pair in units of the memory's size, ``d / ||W||_F min_nu (S[mu, mu] - S[mu, nu])``; 0 for W = 0.

    Args:
        W: the memory; any scale.
        a: the associations.
        block: rows per chunk of the pass, memory ``block * p``; None: all at once.

    Returns:
        The margins; pair mu is recalled when its own is positive.

    Raises:
        ValueError: as `scores`, or ``block < 1``.

    Example:
        >>> import jax.numpy as jnp
        >>> margins(jnp.eye(2), Associations(jnp.eye(2), jnp.eye(2)))
        Array([1.4142135, 1.4142135], dtype=float32)
    """
    check_integers(1, block=block)
    return _margins(*checked(W, a), block or len(a.x))


@partial(jax.jit, static_argnums=2, inline=True)
def _margins(W, a, block):
    largest = jnp.max(jnp.abs(W))
    W = W / jnp.where(largest > 0, largest, 1)  # squares in the norm neither overflow nor vanish
    size = jnp.linalg.norm(W)

    def row(mu):
        correct, others = row_scores(W, a, mu)
        return correct - jnp.max(others)

    gaps = jax.lax.map(row, jnp.arange(len(a.x)), batch_size=block)
    return jnp.where(size > 0, W.shape[0] / jnp.where(size > 0, size, 1) * gaps, 0)


def row_scores(
    W: Float[Array, "d d"], a: Associations, mu: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, " q"]]:
    """Scores of one row, -infinity where nothing competes.

    Args:
        W: the memory, in the dtype of a.
        a: the associations.
        mu: the row.

    Returns:
        ``(correct, others)``.
    """
    nu = jnp.arange(num_competitors(a))
    image = jnp.matmul(W, a.x[mu], precision=_HIGHEST)
    others = jnp.matmul(competitors_at(a, mu, nu), image, precision=_HIGHEST)
    return jnp.dot(a.y[mu], image, precision=_HIGHEST), jnp.where(competing(a, mu, nu), others, -jnp.inf)


def has_pool(a: Associations) -> bool:
    """Whether the competitors are shared and given apart from the values.

    Args:
        a: the associations.

    Returns:
        Whether they are.
    """
    return getattr(a.competitors, "ndim", 3) == 2


def shares_competitors(a: Associations) -> bool:
    """Whether all rows have the same competitors.

    Args:
        a: the associations.

    Returns:
        Whether they have.
    """
    return a.competitors is None or has_pool(a)


def num_competitors(a: Associations) -> int:
    """Length of a row of scores, entries that do not compete included.

    Args:
        a: the associations.

    Returns:
        The number q.
    """
    return len(a.competitors) if has_pool(a) else len(a.x)


def competitors_at(a: Associations, mu: Int[Array, ""], nu: Int[Array, " k"]) -> Float[Array, "k d"]:
    """Some entries of one row.

    Args:
        a: the associations.
        mu: the row.
        nu: which entries.

    Returns:
        Their vectors, in the dtype of the keys.
    """
    if shares_competitors(a):
        return (a.y if a.competitors is None else a.competitors)[nu]
    if isinstance(a.competitors, Regenerated):
        return a.competitors.some(mu, nu, a.x.shape[1]).astype(a.x.dtype)
    return a.competitors[mu, nu]


def competing(
    a: Associations, mu: Int[Array, ""], nu: Int[Array, " k"], n: Int[Array, ""] | None = None
) -> Bool[Array, " k"]:
    """Which entries of one row compete, when only the n leading rows count.

    Args:
        a: the associations.
        mu: the row.
        nu: which entries.
        n: how many rows count; None: all.

    Returns:
        The mask.
    """
    mask = nu < num_competitors(a)
    if not has_pool(a):
        mask &= (nu != mu) & (True if n is None else nu < n)
    if n is not None:
        mask &= mu < n
    return mask if a.right is None else mask & ~a.right[mu, nu]


def checked(W: Num[Array, "d d"] | None, a: Associations) -> tuple[Float[Array, "d d"] | None, Associations]:
    """Both arguments in one floating dtype, at least float32, once their shapes and numbers are known to be good.

    Args:
        W: the memory, or None.
        a: the associations.

    Returns:
        ``(W, a)``.

    Raises:
        ValueError: shapes that do not fit, p < 2, or non-finite numbers (under a trace: `equinox.error_if`).
    """
    a = promoted(a)
    d = a.x.shape[1]
    if W is not None:
        if jnp.shape(W) != (d, d):
            raise ValueError(f"W has shape {jnp.shape(W)}; expected {(d, d)}, as the keys have d = {d}")
        dtype = jnp.promote_types(a.x.dtype, _floating(W))
        W, a = finite("W", jnp.asarray(W, dtype)), _converted(a, dtype)
    return W, a._replace(**{name: finite(name, value) for name, value in numbers(a).items()})


def promoted(a: Associations) -> Associations:
    """Associations in one floating dtype, at least float32, once their shapes are known to fit.

    Args:
        a: the associations.

    Returns:
        The associations.

    Raises:
        ValueError: shapes that do not fit, p < 2 or d < 1.
        TypeError: something else than `Associations`.
    """
    if not isinstance(a, Associations):
        raise TypeError(f"a is a {type(a).__name__}; expected Associations(keys, values)")
    x, y, competitors, right = a
    shape = jnp.shape(x)
    rows = 1 if has_pool(a) else 2
    if len(shape) != 2 or shape[0] < rows or shape[1] < 1:
        raise ValueError(f"x has shape {shape}; expected (p, d) with p >= {rows} and d >= 1")
    if jnp.shape(y) != shape:
        raise ValueError(f"y has shape {jnp.shape(y)}; expected that of x, {shape}")
    width = shape[0]
    if competitors is not None and not isinstance(competitors, Regenerated):
        got = jnp.shape(competitors)
        if got != (shape[0], *shape) and (len(got) != 2 or got[0] < 1 or got[1] != shape[1]):
            raise ValueError(f"competitors has shape {got}; expected {(shape[0], *shape)}, or (q, {shape[1]})")
        width = got[0]
    if right is not None and (jnp.shape(right) != (shape[0], width) or right.dtype != bool):
        raise ValueError(f"right has shape {jnp.shape(right)}, {right.dtype}; expected booleans, {(shape[0], width)}")
    dtype = jnp.float32
    for value in numbers(a).values():
        dtype = jnp.promote_types(dtype, _floating(value))
    return _converted(a, dtype)


def numbers(a: Associations) -> dict[str, Num[Array | np.ndarray, "..."]]:
    """The arrays of numbers among the fields, by name.

    Args:
        a: the associations.

    Returns:
        The arrays.
    """
    stored = {"x": a.x, "y": a.y}
    if a.competitors is not None and not isinstance(a.competitors, Regenerated):
        stored["competitors"] = a.competitors
    return stored


def _converted(a, dtype):
    return a._replace(**{name: jnp.asarray(value, dtype) for name, value in numbers(a).items()})


def _floating(value):
    dtype = jnp.result_type(value)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
