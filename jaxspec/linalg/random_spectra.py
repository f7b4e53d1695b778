r"""Updates with a scrambled spectrum: the singular vectors of X, singular values that carry no information (Kaon)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jaxspec.checks import check_integers, check_numbers
from jaxspec.linalg.newton_schulz import iterate
from jaxspec.linalg.normalisation import frobenius, wide
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale
from jaxspec.linalg.spectral_map import spectral_map

LARGEST_LAM = 4.257151  # beyond, 0.286217 lam > sqrt(1 + lam^(-1/2)) and orbits diverge


def chaotic_map(
    x: Float[Array, "*batch m n"],
    *,
    steps: int = 5,
    lam: float = 4.1,
    out_scale: float = 1.175,
    in_scale: float = 1.0,
) -> Float[Array, "*batch m n"]:
    r"""``X_0 = X/(in_scale ||X||_F)``, ``X_{k+1} = lam (I - X_k X_k^T)^2 X_k``, returns ``X_T / out_scale``.

    Every singular value follows the chaotic orbit of ``h(s) = lam s (1 - s^2)^2``, non-negative, so that the result
    remains a descent direction. For lam = 4.1 the long-run law of ``s / 1.175`` has mean 0.469 and standard deviation
    0.339. Derivatives are those of the orbit and grow like ``lam^steps``.

    Args:
        x: matrices, with leading batch axes; bfloat16 and float16 are computed in float32 and cast back.
        steps: T >= 1. A singular value of relative size r joins the mixing after about ``ln(0.4/r)/ln(lam)`` steps;
            float32 keeps the singular vectors to 2e-5 at T = 5 and 2e-4 at T = 10.
        lam: in (0, 4.257].
        out_scale: divisor of the result, > 0; 1.175 brings the values to about [0, 1].
        in_scale: >= 1. With 1 a matrix of rank one is sent to zero for ever (``h(1) = 0``); 1.25 avoids that.

    Returns:
        Matrices shaped like ``x``, with no scale of their own; zeros for the zero matrix.

    Raises:
        ValueError: an argument outside its range, fewer than two axes, or a vector (``min(m, n) = 1``) with
            ``in_scale = 1``, whose result would always be zero.
        TypeError: integer or complex ``x``.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv 2605.11181), Kaon.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.diag(jnp.array([0.8, 0.6]))
        >>> chaotic_map(x, steps=1).round(3)
        Array([[0.362, 0.   ],
               [0.   , 0.858]], dtype=float32)
    """
    dtype = _check(x)
    check_integers(1, steps=steps)
    if not 0 < lam <= LARGEST_LAM:
        raise ValueError(f"lam is {lam}; expected a number in (0, 4.257], beyond which orbits diverge")
    check_numbers(0, ends="()", out_scale=out_scale)
    if not 1 <= in_scale < math.inf:
        raise ValueError(f"in_scale is {in_scale}; expected a number >= 1, or singular values could exceed 1")
    if x.size == 0:
        return x
    if min(x.shape[-2:]) == 1 and in_scale == 1:
        raise ValueError(
            f"x has shape {x.shape}: a matrix of rank one is sent to zero with in_scale=1; pass in_scale=1.25"
        )
    return _orbit(x, float(out_scale), float(in_scale), steps=int(steps), lam=float(lam), dtype=str(dtype))


@partial(jax.jit, static_argnames=("steps", "lam", "dtype"))
def _orbit(x, out_scale, in_scale, *, steps, lam, dtype):
    y, tall = wide(x.astype(dtype))
    y = y / power_of_two_scale(y, keepdims=True)
    norm = frobenius(y)
    y = y / (jnp.where(norm > 0, norm, 1) * in_scale)
    out = iterate(y, None, ((lam, -2 * lam, lam),) * steps, None, lax.Precision.HIGHEST) / out_scale
    return (out.mT if tall else out).astype(x.dtype)


def random_spectrum(
    x: Float[Array, "*batch m n"],
    key: Key[Array, ""],
    *,
    sampler: Callable = jax.random.uniform,
    engine: Literal["svd", "gram"] = "svd",
) -> Float[Array, "*batch m n"]:
    r"""``U diag(z) V^T`` with ``z_i`` independent of X: the singular vectors of X and a fresh random spectrum.

    A non-negative law keeps the result a descent direction; a symmetric one (uniform on (-1, 1)) makes half of the
    directions ascend and serves as a negative control only.

    Args:
        x: matrices, with leading batch axes; bfloat16 and float16 are computed in float32 and cast back.
        key: typed random key.
        sampler: ``sampler(key, shape, dtype)``; a module-level function, not a fresh lambda, or every call compiles.
        engine: how singular vectors are found, see `spectral_map`.

    Returns:
        Matrices shaped like ``x``. Directions whose singular value is at the level of rounding stay at 0.

    Raises:
        ValueError: fewer than two axes.
        TypeError: integer or complex ``x``.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv 2605.11181), Kaon.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> random_spectrum(jnp.eye(2), jax.random.key(0)).shape
        (2, 2)
    """
    dtype = _check(x)
    return x if x.size == 0 else _scrambled(x.astype(dtype), key, sampler=sampler, engine=engine).astype(x.dtype)


@partial(jax.jit, static_argnames=("sampler", "engine"))
def _scrambled(x, key, *, sampler, engine):
    values = sampler(key, (*x.shape[:-2], min(x.shape[-2:])), x.dtype)
    return spectral_map(x, lambda s: values, engine=engine)


def _check(x):
    dtype = compute_dtype(x)
    if jnp.ndim(x) < 2:
        raise ValueError(f"x has shape {jnp.shape(x)}; expected matrices, (*batch, m, n)")
    return dtype
