r"""Schatten (quasi-)norms ``||X||_q = (sum_i s_i^q)^(1/q)`` and their gradients, for every ``q > 0``."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.linalg.singular_values import singular_values, spectral_norm
from jaxspec.linalg.spectral_map import spectral_map


def schatten_norm(x: Float[Array, "*batch m n"], q: float) -> Float[Array, "*batch"]:
    r"""``||X||_q = (sum_i s_i^q)^(1/q)``; a quasi-norm for q < 1, the spectral norm for q = inf.

    Args:
        x: matrices, with leading batch axes; bfloat16 and float16 are computed in float32 and cast back.
        q: exponent, > 0, inf included.

    Returns:
        One number per matrix, in the units of x. Derivatives are finite everywhere: zero singular values contribute
        nothing (for q <= 1 that is one choice among the subgradients, or none exists).

    Raises:
        ValueError: q not positive, or ``x`` with fewer than two axes.
        TypeError: integer or complex ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> float(schatten_norm(jnp.diag(jnp.array([4.0, 1.0])), 0.5))
        9.0
    """
    q = _exponent(q, infinite=True)
    dtype = compute_dtype(x)
    if x.size == 0:
        return jnp.zeros(x.shape[:-2], x.dtype)
    x_norm = spectral_norm(x) if q == math.inf else _schatten_norm(x.astype(dtype), q)
    return x_norm.astype(x.dtype)


def schatten_direction(x: Float[Array, "*batch m n"], q: float) -> Float[Array, "*batch m n"]:
    r"""Gradient of the Schatten norm, ``||X||_q^(1-q) U S^(q-1) V^T``: free of the scale of X, ``<G, X> = ||X||_q``.

    For q >= 1 it is the steepest-descent direction of the dual ball, Schatten-p with ``p = q/(q-1)``; for q < 1 the
    gradient of a quasi-norm, the direction of no norm. It is the power ``c = 1 - q/2`` of the spectrum, normalised.

    Args:
        x: matrices, with leading batch axes; bfloat16 and float16 are computed in float32 and cast back.
        q: exponent, > 0 and finite; q = 1 gives the polar factor.

    Returns:
        Matrices shaped like ``x``. Singular values at the level of rounding are left at 0. The zero matrix gives zeros.

    Raises:
        ValueError: q not positive and finite, or ``x`` with fewer than two axes.
        TypeError: integer or complex ``x``.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv 2605.11181).

    Example:
        >>> import jax.numpy as jnp
        >>> schatten_direction(jnp.diag(jnp.array([4.0, 1.0])), 0.5)
        Array([[1.5, 0. ],
               [0. , 3. ]], dtype=float32)
    """
    q = _exponent(q, infinite=False)
    compute_dtype(x)
    return x if x.size == 0 else _direction(x, q)


@jax.jit
def _schatten_norm(x, q):
    return _norm(singular_values(x), q)[..., 0]


@jax.jit
def _direction(x, q):
    def gradient(s):
        norm = _norm(s, q)
        live = (s > 0) & (norm > 0)
        return jnp.where(live, (jnp.where(live, s, 1) / jnp.where(norm > 0, norm, 1)) ** (q - 1), 0)

    return spectral_map(x, gradient)


def _norm(s, q):
    """``(sum s^q)^(1/q)`` over the last axis, which is kept, relative to the largest value."""
    largest = jnp.max(s, axis=-1, keepdims=True)
    unit = jnp.where(largest > 0, largest, 1)
    live = ~(s <= 0)  # NaN counts, or the norm would hide it
    powers = jnp.where(live, (jnp.where(live, s, unit) / unit) ** q, 0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    positive = ~(total <= 0)
    return jnp.where(positive, unit * jnp.where(positive, total, 1) ** (1 / q), total)


def _exponent(q, *, infinite):
    q = float(q)
    if not (q > 0 and (infinite or q < math.inf)):
        raise ValueError(f"q is {q}; expected a positive number{'' if infinite else ', finite'}")
    return q
