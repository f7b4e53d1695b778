r"""Matrix-product iterations ``X_{k+1} = (a I + b A + c A^2) X_k``, ``A = X_k X_k^H``, and sums of their iterates.

The Gram form writes ``X_k = Q_k X_0`` and iterates on ``R_k = X_k X_k^H`` and ``Q_k`` alone: it saves the products with
the long side, but rounding in ``R_0`` grows like ``u kappa^2``. A restart at step ``j`` forms ``X_j`` and its Gram
matrix afresh, when most of the conditioning is gone.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxspec.linalg.coefficients.newton_schulz import Schedule
from jaxspec.linalg.normalisation import hermitian_product, matmul
from jaxspec.linalg.scaling import conjugate_transpose


def iterate(
    y: Inexact[Array, "*batch m n"],
    gram: Inexact[Array, "*batch m m"] | None,
    schedule: Schedule,
    alpha: Sequence[float] | None,
    precision: lax.Precision,
) -> Inexact[Array, "*batch m n"]:
    """``X_K``, or ``sum_k alpha_k X_k (+ sum_k alpha_{K+1+k} A_k X_k)``, from products with the long side.

    Args:
        y: wide matrices with singular values in [0, 1].
        gram: ``y y^H`` when it is known already.
        schedule: K quintics.
        alpha: None, K + 1 weights, or 2 K + 1 of them.
        precision: of the products.

    Returns:
        The combination, accumulated in float32 at least.
    """
    steps = len(schedule)
    products = alpha is not None and len(alpha) > steps + 1
    total = _Total(alpha, steps)
    total.add(0, y)
    for k, (a, b, c) in enumerate(schedule):
        square = hermitian_product(y, conjugate_transpose(y), precision) if gram is None else gram
        gram = None
        if products:
            once = matmul(square, y, precision)
            total.add(steps + 1 + k, once)
            y = a * y + b * once + (c * matmul(square, once, precision) if c else 0)
        else:
            y = product_step(y, square, (a, b, c), precision)
        total.add(k + 1, y)
    return y if alpha is None else total.value


def product_step(
    y: Inexact[Array, "*batch m n"],
    square: Inexact[Array, "*batch m m"],
    coefficients: Sequence[ArrayLike],
    precision: lax.Precision,
) -> Inexact[Array, "*batch m n"]:
    """``(a I + b A + c A^2) y`` with ``A = y y^H``.

    Args:
        y: iterate.
        square: ``A``.
        coefficients: of one quintic; ``a`` and ``b`` may be traced.
        precision: of the products.

    Returns:
        The next iterate.
    """
    a, b, c = coefficients
    return a * y + matmul(_even_part(b, c, square, precision), y, precision)


def _even_part(b, c, square, precision):
    """``b A + c A^2``; a cubic (``c = 0``) needs no product."""
    return b * square + c * hermitian_product(square, square, precision) if c else b * square


class _Total:
    """Weighted sum of iterates, in float32 at least: bfloat16 would lose what the weights cancel."""

    def __init__(self, alpha, steps):
        self.alpha, self.value = alpha, None

    def add(self, index, term):
        if self.alpha is None or self.alpha[index] == 0:
            return
        term = term.astype(jnp.promote_types(term.dtype, jnp.float32)) * self.alpha[index]
        self.value = term if self.value is None else self.value + term


def iterate_gram(
    raw: Inexact[Array, "*batch m n"],
    inverse: Float[Array, "*batch 1 1"],
    gram: Inexact[Array, "*batch m m"],
    schedule: Schedule,
    alpha: Sequence[float] | None,
    precision: lax.Precision,
    *,
    restart: int | None = None,
) -> Inexact[Array, "*batch m n"]:
    """The combination of `iterate` (without products in the basis) from m x m products, applied once.

    Args:
        raw: wide matrices; ``y = raw * inverse`` has singular values in [0, 1].
        inverse: one number per matrix, applied to the m x m factor.
        gram: ``y y^H``.
        schedule: K quintics.
        alpha: None or K + 1 weights.
        precision: of the products.
        restart: number of steps after which ``Q y`` and its Gram matrix are formed afresh; None for never.

    Returns:
        The combination.
    """
    steps = len(schedule)
    weights = [*[0.0] * steps, 1.0] if alpha is None else list(alpha)
    if restart is None or not 0 < restart < steps:
        return matmul(_gram_steps(gram, schedule, weights, precision)[0] * inverse, raw, precision)
    total, q = _gram_steps(gram, schedule[:restart], [*weights[:restart], 0.0], precision)
    middle = matmul(q * inverse, raw, precision)
    fresh = hermitian_product(middle, conjugate_transpose(middle), precision)
    out = matmul(_gram_steps(fresh, schedule[restart:], weights[restart:], precision)[0], middle, precision)
    return out if total is None else out + matmul(total * inverse, raw, precision)


def _gram_steps(gram, schedule, alpha, precision):
    """``(sum alpha_k Q_k, Q_K)`` with ``X_k = Q_k X_0``: ``Z = a I + b R + c R^2``, ``Q <- Z Q``, ``R <- Z R Z``.

    ``R = Q R_0 Q`` would give ``A_k X_k`` for the basis at no cost, but it feeds the rounding of ``R_0`` back with the
    weight ``kappa^2`` in every step and diverges from kappa = 1e3 on; the update by ``Z`` does not. ``Q`` must not be
    made Hermitian: mirroring or averaging it raises the leakage tenfold (measured), mirroring ``R`` does no harm.
    """
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    total = _Total(alpha, len(schedule))
    total.add(0, eye)
    q, r = None, gram
    for k, coefficients in enumerate(schedule):
        q, r = gram_step(q, r, coefficients, precision)
        total.add(k + 1, q)
    return total.value, q


def gram_step(
    q: Inexact[Array, "*batch m m"] | None,
    r: Inexact[Array, "*batch m m"],
    coefficients: Sequence[ArrayLike],
    precision: lax.Precision,
) -> tuple[Inexact[Array, "*batch m m"], Inexact[Array, "*batch m m"]]:
    """``Z = a I + b R + c R^2``, ``Q <- Z Q``, ``R <- Z R Z``.

    Args:
        q: factor of the start so far; None for the identity.
        r: Gram matrix of the iterate.
        coefficients: of one quintic; ``a`` and ``b`` may be traced.
        precision: of the products.

    Returns:
        The new ``(Q, R)``. The last ``R`` of an unrolled loop is used by nothing, and the compiler drops it.
    """
    a, b, c = coefficients
    z = a * jnp.eye(r.shape[-1], dtype=r.dtype) + _even_part(b, c, r, precision)
    q = z if q is None else matmul(z, q, precision)
    return q, hermitian_product(hermitian_product(z, r, precision), z, precision)
