r"""Powers of the spectrum by sums of resolvents: ``A^(-c) X ~ sum_j w_j (A + t_j I)^(-1) X``, in four forms.

With ``A = X X^H + eps^2 I``, singular values in [0, 1]:

- Gram: factorise ``A + t_j I``; squares the condition number, float32 only down to floors of about 3e-3;
- QR: ``[X^H; sqrt(t) I] = Q R``, ``(A + t I)^(-1) X = Q_2 Q_1^H / sqrt(t)``: backward stable, dearest;
- polar: ``H = (A)^(1/2)`` from the polar factor of ``[X, eps I]``, then resolvents of ``H``, whose condition is
  ``kappa``;
- roots: for ``1 - 2c = -1/b`` the composite inverse root of ``H`` in place of the sum.

Reference: Stahl, Acta Math. 190 (2003); Gawlik, SIAM J. Matrix Anal. Appl. 40 (2019).
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxspec.linalg import decompositions
from jaxspec.linalg.coefficients.poles import PoleSum
from jaxspec.linalg.coefficients.roots import QDWHStep
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.qdwh import halley, inverse_factor, lower_gram, solve_positive

_STACK_BYTES = 64 * 2**20  # above this the poles are scanned instead of stacked


def gram_power(
    y: Float[Array, "*batch m n"],
    gram: Float[Array, "*batch m m"],
    c: float,
    eps: float,
    poles: PoleSum,
    precision: lax.Precision,
) -> Float[Array, "*batch m n"]:
    """``(gram + eps^2 I)^(-c) y`` from the poles of ``x^(-c)``, ``x = (s^2 + eps^2)/(1 + eps^2)``.

    Args:
        y: wide matrices with singular values in [0, 1].
        gram: ``y y^T``.
        c: exponent, in (0, 1]; 1 only with ``eps`` > 0.
        eps: floor, >= 0.
        poles: of ``x^(-c)`` on ``[delta, 1]``.
        precision: of the matrix products.

    Returns:
        The power.
    """
    norm = 1 + eps**2
    shifts = [norm * t + eps**2 for t in poles.t]
    weights = [norm ** (1 - c) * w for w in poles.w]
    return matmul(resolvent_sum(gram, shifts, weights, precision), y, precision)


def resolvent_sum(
    a: Float[Array, "*batch m m"], shifts: Sequence[float], weights: Sequence[float], precision: lax.Precision
) -> Float[Array, "*batch m m"]:
    """``sum_j w_j (a + t_j I)^(-1)``, one batched factorisation, or a scan over the poles for large matrices.

    Args:
        a: symmetric matrices, every ``a + t_j I`` positive definite.
        shifts: ``t_j``.
        weights: ``w_j``, positive.
        precision: of the matrix products.

    Returns:
        The sum.
    """
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    t, w = jnp.asarray(shifts, a.dtype), jnp.asarray(weights, a.dtype)

    def roots(t, w):
        """``sqrt(w) L^(-1)``, so that the sum of inverses is one product of stacked factors."""
        return jnp.sqrt(w) * inverse_factor(lax.linalg.cholesky(a + t * eye, symmetrize_input=False), precision)

    if a.size * a.dtype.itemsize * len(shifts) > _STACK_BYTES:

        def add(total, pole):
            root = roots(*pole)
            return total + lower_gram(root, precision), None

        return lax.scan(add, jnp.zeros_like(a), (t, w))[0]
    shape = (len(shifts), *(1,) * a.ndim)
    stacked = roots(t.reshape(shape), w.reshape(shape))
    stacked = jnp.moveaxis(stacked, 0, -3).reshape(*a.shape[:-2], -1, a.shape[-1])
    return lower_gram(stacked, precision, len(shifts))


def qr_power(
    y: Float[Array, "*batch m n"], c: float, eps: float, poles: PoleSum, precision: lax.Precision
) -> Float[Array, "*batch m n"]:
    """`gram_power` without a Gram matrix: one QR factorisation of ``[y^T; sqrt(t) I]`` per pole, in sequence.

    Args:
        y: wide matrices with singular values in [0, 1].
        c: exponent, in (0, 1]; 1 only with ``eps`` > 0.
        eps: floor, >= 0.
        poles: as in `gram_power`.
        precision: of the matrix products.

    Returns:
        The power.
    """
    norm, rows, total = 1 + eps**2, y.shape[-2], jnp.zeros_like(y)
    eye = jnp.broadcast_to(jnp.eye(rows, dtype=y.dtype), (*y.shape[:-2], rows, rows))
    for t, w in zip(poles.t, poles.w, strict=True):
        root = (norm * t + eps**2) ** 0.5
        q, _ = decompositions.qr(jnp.concatenate([y.mT, root * eye], axis=-2), after=total)
        total = total + (norm ** (1 - c) * w / root) * matmul(q[..., -rows:, :], q[..., :-rows, :].mT, precision)
    return total


def augmented(y: Inexact[Array, "*batch m n"], eps: ArrayLike) -> tuple[Inexact[Array, "*batch m k"], Array]:
    """``[y, eps I] / h`` with ``h = (1 + eps^2)^(1/2)``: its Gram matrix is ``(y y^H + eps^2 I) / h^2``.

    Args:
        y: matrices.
        eps: floor, a number or one per matrix, (*batch, 1, 1).

    Returns:
        The matrices, k = m + n, and ``h`` in the shape of ``eps``.
    """
    eps = jnp.asarray(eps, y.real.dtype)
    h = jnp.where(eps > 1, eps * jnp.sqrt(1 + (1 / jnp.maximum(eps, 1)) ** 2), jnp.sqrt(1 + jnp.minimum(eps, 1) ** 2))
    eye = jnp.broadcast_to((eps / h) * jnp.eye(y.shape[-2], dtype=y.dtype), (*y.shape[:-1], y.shape[-2]))
    return jnp.concatenate([y / h, eye], axis=-1), h


def polar_power(
    y: Float[Array, "*batch m n"],
    c: float,
    eps: ArrayLike | None,
    steps: Sequence[QDWHStep],
    tail: PoleSum | Sequence[tuple[float, float, float]] | None,
    precision: lax.Precision,
) -> Float[Array, "*batch m n"]:
    """``(y y^H + eps^2 I)^(-c) y`` from ``H = (y y^H + eps^2 I)^(1/2)``.

    Args:
        y: wide matrices with singular values in [0, 1].
        c: exponent; its fractional part in (0, 1] is done by ``tail``, the rest by products or solves.
        eps: floor, a number or one per matrix, (*batch, 1, 1); None for 0.
        steps: of the polar iteration.
        tail: for the fractional part f: poles of ``h^(-|1-2f|)`` (f > 1/2) or ``h^(-2f)`` (f < 1/2); steps
            ``(k, B, C)`` of the inverse root; or None for f = 1/2 and 1.
        precision: of the matrix products.

    Returns:
        The power.
    """
    z, norm = (y, 1.0) if eps is None else augmented(y, eps)
    q = halley(z, steps, precision)
    h = matmul(z, q.mT, precision)
    h, part = (h + h.mT) / 2, q[..., : y.shape[-1]]
    whole, c = peel(c)
    shift = _positive_shift(h)
    positive = h + shift * jnp.eye(h.shape[-1], dtype=h.dtype)
    if c == 1 or c == 0.5:
        out = part if c == 0.5 else solve_positive(positive, part, precision)
    elif not isinstance(tail, PoleSum):
        out = inverse_root(h, part, tail, precision, round(1 / (2 * c - 1)))
    else:
        weights = resolvent_sum(h, [max(t, shift) for t in tail.t], tail.w, precision)
        out = matmul(weights, part if c > 0.5 else y / norm, precision)
    for _ in range(2 * abs(whole)):
        out = matmul(h, out, precision) if whole < 0 else solve_positive(positive, out, precision)
    degree = 1 - 2 * (c + whole)
    return out if eps is None or degree == 0 else out * norm**degree


def peel(c: float) -> tuple[int, float]:
    """``c = whole + fraction`` with ``fraction`` in (0, 1]."""
    whole = math.ceil(c) - 1
    return whole, c - whole


def _positive_shift(h) -> float:
    """Rounding makes the zero eigenvalues of ``h`` slightly negative: what keeps a factorisation of it positive."""
    return h.shape[-1] ** 0.5 * float(jnp.finfo(h.dtype).eps)


def inverse_root(
    h: Float[Array, "*batch m m"],
    part: Float[Array, "*batch m n"],
    steps: Sequence[tuple[float, float, float]],
    precision: lax.Precision,
    root: int,
) -> Float[Array, "*batch m n"]:
    """``h^(-1/root) part``: ``M = k (I + (B - C)(R + C I)^(-1))``, ``Y <- M Y``, ``R <- sym(R M^root)``.

    Args:
        h: symmetric positive semidefinite matrices with eigenvalues in [0, 1].
        part: matrices that the power multiplies.
        steps: ``(k, B, C)`` of `root_schedule`.
        precision: of the matrix products.
        root: b of the schedule, >= 2.

    Returns:
        The product.
    """
    eye, shift = jnp.eye(h.shape[-1], dtype=h.dtype), _positive_shift(h)
    total, r = None, h
    for index, (gain, zero, pole) in enumerate(steps):
        inverse = inverse_factor(lax.linalg.cholesky(r + max(pole, shift) * eye, symmetrize_input=False), precision)
        factor = gain * (eye + (zero - pole) * lower_gram(inverse, precision))
        total = factor if total is None else matmul(factor, total, precision)
        if index + 1 < len(steps):
            for _ in range(root):
                r = matmul(r, factor, precision)
            r = (r + r.mT) / 2
    return matmul(total, part, precision)
