r"""Pairs of keys and values, their scores under a matrix W, and the margins of the recalled ones.

``S[mu, nu] = y_nu^T W x_mu``; pair mu is recalled when ``S[mu, mu] > S[mu, nu]`` for every other nu. In the decoupled
model row mu has competitors of its own, ``S[mu, nu] = c[mu, nu]^T W x_mu``, so that rows become independent.
Setting of arXiv 2605.10795.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from jaxspec.memory.checks import EMBEDDINGS, MODELS, check_choice

_HIGHEST = jax.lax.Precision.HIGHEST


class Associations(NamedTuple):
    """Keys, values and, in the decoupled model, the competitors of each row.

    Attributes:
        x: keys, (p, d).
        y: values, (p, d).
        competitors: (p, p, d), the diagonal unused; None: the other values are the competitors.
    """

    x: Num[Array, "p d"]
    y: Num[Array, "p d"]
    competitors: Num[Array, "p p d"] | None = None


def sample_associations(
    key: Key[Array, ""], p: int, d: int, *, model: str = "original", embedding: str = "gaussian"
) -> Associations:
    """Random associations; pair mu depends on ``fold_in(key, mu)`` alone, so a longer draw starts with a shorter one.

    Args:
        key: random key.
        p: number of pairs, >= 2.
        d: dimension, >= 1.
        model: ``"original"``, or ``"decoupled"`` (fresh competitors, ``p^2 d`` numbers).
        embedding: ``"gaussian"``, ``N(0, I / d)``, or ``"sphere"``, uniform of norm 1.

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
    for name, value, least in (("p", p, 2), ("d", d, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected an integer >= {least}")
    return _sample(key, p, d, model, embedding)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _sample(key, p, d, model, embedding):
    def vector(key):
        v = jax.random.normal(key, (d,))
        return v / jnp.sqrt(d).astype(v.dtype) if embedding == "gaussian" else v / jnp.linalg.norm(v)

    def row(mu):
        key_x, key_y, key_c = jax.random.split(jax.random.fold_in(key, mu), 3)
        if model == "original":
            return vector(key_x), vector(key_y), None
        others = jax.vmap(lambda nu: vector(jax.random.fold_in(key_c, nu)))(jnp.arange(p))
        return vector(key_x), vector(key_y), others

    return Associations(*jax.vmap(row)(jnp.arange(p)))


def scores(W: Num[Array, "d d"], a: Associations) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    """Raw scores of every pair, ``y_mu^T W x_mu`` and ``y_nu^T W x_mu`` (decoupled: ``c[mu, nu]^T W x_mu``).

    Args:
        W: the memory.
        a: the associations.

    Returns:
        ``(correct, others)``; ``others`` is -infinity on its diagonal.

    Raises:
        ValueError: shapes that do not fit, p < 2, or non-finite numbers (under jit: `equinox.error_if`).

    Example:
        >>> import jax.numpy as jnp
        >>> scores(jnp.eye(2), Associations(jnp.eye(2), jnp.eye(2)))[1]
        Array([[-inf,   0.],
               [  0., -inf]], dtype=float32)
    """
    W, a = checked(W, a)
    correct, others = jax.vmap(lambda *row: _row_scores(W, a.y, *row))(*_rows(a))
    return correct, others


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
    if block is not None and block < 1:
        raise ValueError(f"block is {block}; expected an integer >= 1, or None")
    W, a = checked(W, a)
    largest = jnp.max(jnp.abs(W))
    W = W / jnp.where(largest > 0, largest, 1)  # squares in the norm neither overflow nor vanish
    size = jnp.linalg.norm(W)

    def row(arguments):
        correct, others = _row_scores(W, a.y, *arguments)
        return correct - jnp.max(others)

    gaps = jax.lax.map(row, _rows(a), batch_size=block or len(a.x))
    return jnp.where(size > 0, W.shape[0] / jnp.where(size > 0, size, 1) * gaps, 0)


def _rows(a):
    return jnp.arange(len(a.x)), a.x, a.y, a.competitors


def _row_scores(W, y, mu, x_row, y_row, competitors_row):
    image = jnp.matmul(W, x_row, precision=_HIGHEST)
    others = jnp.matmul(y if competitors_row is None else competitors_row, image, precision=_HIGHEST)
    return jnp.dot(y_row, image, precision=_HIGHEST), others.at[mu].set(-jnp.inf)


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
        W, a = jnp.asarray(W, dtype), Associations(*(None if v is None else v.astype(dtype) for v in a))
        W = finite("W", W)
    return W, Associations(*(None if v is None else finite(name, v) for name, v in a._asdict().items()))


def promoted(a: Associations) -> Associations:
    """Associations in one floating dtype, at least float32, once their shapes are known to fit.

    Args:
        a: the associations.

    Returns:
        The associations.

    Raises:
        ValueError: shapes that do not fit, p < 2 or d < 1.
    """
    x, y, competitors = a
    shape = jnp.shape(x)
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise ValueError(f"x has shape {shape}; expected (p, d) with p >= 2 and d >= 1")
    if jnp.shape(y) != shape:
        raise ValueError(f"y has shape {jnp.shape(y)}; expected that of x, {shape}")
    if competitors is not None and jnp.shape(competitors) != (shape[0], *shape):
        raise ValueError(f"competitors has shape {jnp.shape(competitors)}; expected {(shape[0], *shape)}")
    dtype = jnp.float32
    for value in a:
        dtype = dtype if value is None else jnp.promote_types(dtype, _floating(value))
    return Associations(*(None if value is None else jnp.asarray(value, dtype) for value in a))


def _floating(value):
    dtype = jnp.result_type(value)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def finite(name: str, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The array, known to be finite.

    Args:
        name: of the argument, for the message.
        value: the array.

    Returns:
        The array; under a trace it carries an `equinox.error_if`.

    Raises:
        ValueError: a number that is not finite.
    """
    bad = ~jnp.all(jnp.isfinite(value))
    message = f"{name} contains numbers that are not finite; expected finite ones"
    if isinstance(bad, jax.core.Tracer):
        return eqx.error_if(value, bad, message)
    if bad:
        raise ValueError(message)
    return value
