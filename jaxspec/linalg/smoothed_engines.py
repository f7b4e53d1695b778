r"""Engines of `jaxspec.linalg.smoothed_polar`: wide matrices ``P`` and floors to ``Y = A^(-1) P`` and ``A^(-1)``.

``A = (P P^T + eps^2 I)^(1/2)``. The products-only engines are the cubic Newton-Schulz iteration, scaled at every step
for the interval ``[l, 1]`` that is known to hold the singular values, from ``l = eps / (|P|_F^2 + eps^2)^(1/2)`` on:

    X <- a (3 X - a^2 X X^T X) / 2 ,   a = (3 / (1 + l + l^2))^(1/2) ,   l <- a l (3 - a^2 l^2) / 2 .

Reference: Chen & Chow, "A stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian
matrix" (2014), for the scaling; Higham, "Functions of Matrices" (2008), theorem 8.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxspec.linalg import decompositions
from jaxspec.linalg.coefficients import optimal_quintic
from jaxspec.linalg.coefficients.newton_schulz import Schedule, image
from jaxspec.linalg.newton_schulz import gram_step, product_step
from jaxspec.linalg.normalisation import frobenius, hermitian_product, matmul

POLAR_ENGINES = ("auto", "svd", "gram_eigh", "gram_ns", "aug_ns", "closed")
_LAPACK_FROM = 128  # rows from which LAPACK is the faster form of either pair of engines on the CPU
_SAFE_FLOOR = {32: 1e-2, 64: 1e-4}  # smallest l at which the Gram forms keep 2e-5 (float32) and 4e-10 (float64)
_TOLERANCE = {32: 1e-6, 64: 1e-15}  # 1 - l at which the iteration ends
_MARGIN = 1e-4  # against rounding at the upper end of the interval, beyond which an optimal quintic grows fast
_QUINTICS_BELOW = 0.5
_CAP = 400  # steps; a factor 2.6 each, so that the least positive float64 has arrived long before


class Method(NamedTuple):
    """The static choices.

    Attributes:
        engine: one of `POLAR_ENGINES`.
        max_cond: promised bound of ``1 / l``, or None.
        precision: of the matrix products.
        checked: whether the promise is checked when the program runs.
    """

    engine: str
    max_cond: float | None
    precision: lax.Precision
    checked: bool


Pair = tuple[Float[Array, "*batch r k"], Float[Array, "*batch r r"]]


def svd_pair(method: Method, x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Pair:
    """By the singular value decomposition: any ``eps``.

    Args:
        method: the static choices.
        x: wide matrices with entries of at most about 1.
        eps: floors of at most about 1.

    Returns:
        ``(Y, A^(-1))``.
    """
    u, s, vt = decompositions.svd(x)
    h = jnp.hypot(s, eps[..., 0])
    return matmul(u * (s / h)[..., None, :], vt, method.precision), matmul(u / h[..., None, :], u.mT, method.precision)


def gram_eigh_pair(method: Method, x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Pair:
    """By the eigendecomposition of ``P P^T``; the result is that of `svd_pair`.

    Args:
        method: the static choices.
        x: wide matrices with entries of at most about 1.
        eps: floors of at most about 1.
    """
    squares, u = decompositions.eigh(_gram(method, x), symmetrize=False)
    h = jnp.hypot(jnp.sqrt(jnp.maximum(squares, 0)), eps[..., 0])
    inverse = matmul(u / h[..., None, :], u.mT, method.precision)
    return matmul(inverse, x, method.precision), inverse


def gram_ns_pair(method: Method, x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Pair:
    """By products of r x r matrices; the result is that of `svd_pair`.

    Args:
        method: the static choices.
        x: wide matrices with entries of at most about 1.
        eps: floors of at most about 1.
    """
    norm = _norm(x, eps)
    eye = jnp.eye(x.shape[-2], dtype=x.dtype)
    gram = _gram(method, x) / norm / norm + (eps / norm) ** 2 * eye

    def step(carry, coefficients):
        return gram_step(*carry, coefficients, method.precision)

    q, _ = _iterated(method, step, (None, gram), eps / norm)
    inverse = q / norm
    return matmul(inverse, x, method.precision), inverse


def aug_ns_pair(method: Method, x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Pair:
    """By products with ``[P, eps I]``; the result is that of `svd_pair`.

    Args:
        method: the static choices.
        x: wide matrices with entries of at most about 1.
        eps: floors of at most about 1.
    """
    norm, rows = _norm(x, eps), x.shape[-2]
    eye = jnp.broadcast_to(jnp.eye(rows, dtype=x.dtype), (*x.shape[:-1], rows))
    z = jnp.concatenate([x / norm, (eps / norm) * eye], axis=-1)

    def step(z, coefficients):
        return product_step(z, _gram(method, z), coefficients, method.precision)

    z = _iterated(method, step, z, eps / norm)
    return z[..., :-rows], z[..., -rows:] / eps


def closed_pair(method: Method, x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Pair:
    """One or two rows, by Cayley-Hamilton; the result is that of `svd_pair`.

    ``S^(-1/2) = ((tr S + d) I - S) / (d t)`` with ``d = (det S)^(1/2)`` and ``t = (tr S + 2 d)^(1/2)``.

    Args:
        method: the static choices.
        x: wide matrices with entries of at most about 1.
        eps: floors of at most about 1.
    """
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    total = jnp.sum(squares, axis=-2, keepdims=True)
    if x.shape[-2] == 1:
        inverse = 1 / jnp.hypot(jnp.sqrt(total), eps)
        return x * inverse, inverse
    # det(P P^T) from the part of the shorter row that is orthogonal to the longer one: the difference of products
    # would cancel for rows that are nearly parallel.
    first = squares[..., :1, :] >= squares[..., 1:, :]
    long, short = jnp.where(first, x[..., :1, :], x[..., 1:, :]), jnp.where(first, x[..., 1:, :], x[..., :1, :])
    length = jnp.maximum(squares[..., :1, :], squares[..., 1:, :])
    share = jnp.sum(long * short, axis=-1, keepdims=True) / jnp.where(length > 0, length, 1)
    determinant = length * jnp.sum((short - share * long) ** 2, axis=-1, keepdims=True)
    root = jnp.sqrt(determinant + eps**2 * total + eps**4)
    trace = total + 2 * eps**2
    eye = jnp.eye(2, dtype=x.dtype)
    s = _gram(method, x) + eps**2 * eye
    inverse = ((trace + root) * eye - s) / (root * jnp.sqrt(trace + 2 * root))
    return matmul(inverse, x, method.precision), inverse


def auto_pair(method: Method, x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Pair:
    """The cheapest engine that is accurate for the data; the result is that of `svd_pair`.

    Args:
        method: the static choices.
        x: wide matrices with entries of at most about 1.
        eps: floors of at most about 1.
    """
    bits = jnp.finfo(x.dtype).bits
    lapack = x.shape[-2] >= _LAPACK_FROM and jax.default_backend() == "cpu"
    fast = closed_pair if x.shape[-2] <= 2 else gram_eigh_pair if lapack else gram_ns_pair
    safe = svd_pair if lapack else aug_ns_pair
    if method.max_cond is not None:
        x = _kept_promise(method, x, eps / _norm(x, eps))
        return (fast if method.max_cond <= 1 / _SAFE_FLOOR[bits] else safe)(method, x, eps)
    low = _lowest(eps / _norm(x, eps))
    return lax.cond(low >= _SAFE_FLOOR[bits], functools.partial(fast, method), functools.partial(safe, method), x, eps)


BODIES: dict[str, Callable[..., Pair]] = {
    "auto": auto_pair,
    "svd": svd_pair,
    "gram_eigh": gram_eigh_pair,
    "gram_ns": gram_ns_pair,
    "aug_ns": aug_ns_pair,
    "closed": closed_pair,
}


@functools.lru_cache(maxsize=256)
def static_schedule(max_cond: float, bits: int) -> Schedule:
    """Quintics while they gain more per product, then scaled cubics, that bring ``[1/max_cond, 1]`` to 1.

    Args:
        max_cond: condition, >= 1.
        bits: 32 or 64.

    Returns:
        Triples ``(a, b, c)`` after which ``1 - l`` is at most the tolerance of the dtype.
    """
    low, high, schedule = 1 / max_cond, 1.0, []
    while low < _QUINTICS_BELOW * high:
        triple = tuple(k / (1 + _MARGIN) ** (2 * i + 1) for i, k in enumerate(optimal_quintic(low, high)))
        schedule.append(triple)
        low, high = image(triple, low, high)
    while low < high * (1 - _TOLERANCE[bits]):
        ratio = low / high
        a = math.sqrt(3 / (1 + ratio + ratio**2))
        schedule.append((1.5 * a / high, -0.5 * (a / high) ** 3, 0.0))
        low, high = a * ratio * (3 - (a * ratio) ** 2) / 2, 1.0
    return tuple(schedule)


def _gram(method, x):
    return hermitian_product(x, x.mT, method.precision)


def _norm(x, eps):
    return jnp.hypot(frobenius(x), eps)


def _lowest(low):
    """Least ``l`` of the batch; a matrix that is not finite does not count."""
    return jnp.min(jnp.where(jnp.isfinite(low), low, 1))


def _kept_promise(method, x, low):
    if not method.checked:
        return x
    broken = jnp.any(low * method.max_cond < 1 - 1e-3)
    return eqx.error_if(x, broken, f"max_cond is {method.max_cond}, less than |(p, eps)|_F / eps of a matrix")


def _iterated(method, step, start, low):
    """``step`` until every singular value is 1: a schedule of fixed length, or scaled cubics for as long as needed."""
    bits = jnp.finfo(low.dtype).bits
    if method.max_cond is not None:
        value = _kept_promise(method, start, low) if method.engine != "auto" else start
        for coefficients in static_schedule(method.max_cond, bits):
            value = step(value, coefficients)
        return value

    def one(carry):
        low, count, value = carry
        a = jnp.sqrt(3 / (1 + low + low**2))
        value = step(value, (1.5 * a, -0.5 * a**3, 0.0))
        return a * low * (3 - (a * low) ** 2) / 2, count + 1, value

    def unfinished(carry):
        return (carry[0] < 1 - _TOLERANCE[bits]) & (carry[1] < _CAP)

    # The first step outside: it is always taken, and a product with the identity is saved.
    return lax.while_loop(unfinished, one, one((_lowest(low), 0, start)))[2]
