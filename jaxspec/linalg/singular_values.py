"""Singular values and the spectral norm, scale-safe and with derivatives that stay finite at repeated and zero values.

The derivative is ``ds_i = Re(u_i^H dX v_i)``: at a repeated value one element of the set of directional derivatives,
elsewhere exact.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxspec.checks import check_choice
from jaxspec.linalg import decompositions
from jaxspec.linalg.scaling import compute_dtype, conjugate_transpose, power_of_two_scale
from jaxspec.linalg.spectral_map import gram_factor


def singular_values(
    x: Inexact[Array, "*batch m n"], *, engine: Literal["svd", "qr"] = "svd"
) -> Float[Array, "*batch r"]:
    """Singular values ``s_1 >= ... >= s_r >= 0``, ``r = min(m, n)``, with absolute error about ``eps s_1``.

    Args:
        x: matrices, with leading batch axes; complex input is accepted. bfloat16 and float16 are computed in float32
            and cast back.
        engine: ``svd``, or ``qr`` (the triangle of a QR factorisation first), faster for very oblong matrices.

    Returns:
        Singular values in descending order. NaN where the matrix is not finite.

    Raises:
        ValueError: unknown engine, or ``x`` with fewer than two axes.
        TypeError: integer ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> singular_values(jnp.array([[0.0, 2.0], [1.0, 0.0]]))
        Array([2., 1.], dtype=float32)
    """
    check_choice("engine", engine, ("svd", "qr"))
    dtype = _check(x)
    if x.size == 0:
        return jnp.zeros((*x.shape[:-2], min(x.shape[-2:])), x.real.dtype)
    return _compiled_values(engine, x.astype(dtype)).astype(jnp.finfo(x.dtype).dtype)


def spectral_norm(x: Inexact[Array, "*batch m n"]) -> Float[Array, "*batch"]:
    """Largest singular value ``||X||_2``, from the largest Gram eigenvalue, which is accurate to a few ``eps``.

    Args:
        x: matrices, with leading batch axes; complex input is accepted. bfloat16 and float16 are computed in float32
            and cast back.

    Returns:
        One norm per matrix; 0 for an empty matrix, NaN where the matrix is not finite. The derivative is ``Re(u_1^H dX
        v_1)``, and 0 at the zero matrix.

    Raises:
        ValueError: ``x`` with fewer than two axes.
        TypeError: integer ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> spectral_norm(jnp.array([[3.0, 4.0]]))
        Array(5., dtype=float32)
    """
    dtype = _check(x)
    if x.size == 0:
        return jnp.zeros(x.shape[:-2], x.real.dtype)
    return _compiled_norm(x.astype(dtype)).astype(jnp.finfo(x.dtype).dtype)


def _check(x):
    if jnp.ndim(x) < 2:
        raise ValueError(f"x has shape {jnp.shape(x)}; expected matrices, (*batch, m, n)")
    return compute_dtype(x, allow_complex=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _values(engine, x):
    scale = power_of_two_scale(x)[..., None]
    y = x / scale[..., None]
    return decompositions.svdvals(decompositions.short_triangle(y) if engine == "qr" else y) * scale


@_values.defjvp
def _values_jvp(engine, primals, tangents):
    (x,), (dx,) = primals, tangents
    scale = power_of_two_scale(x)[..., None]
    u, s, vt = decompositions.svd(x / scale[..., None])
    images = jnp.matmul(conjugate_transpose(u), dx, precision=lax.Precision.HIGHEST)
    return s * scale, jnp.sum((images * vt.conj()).real, axis=-1)


@jax.custom_jvp
def _norm(x):
    s, _, scale = gram_factor(x)
    return s[..., 0] * scale


@_norm.defjvp
def _norm_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    s, q, scale = gram_factor(x)
    norm = s[..., 0] * scale
    if x.shape[-2] > x.shape[-1]:
        x, dx = conjugate_transpose(x), conjugate_transpose(dx)
    left = conjugate_transpose(q[..., :1])
    right = jnp.matmul(left, x / scale[..., None, None], precision=lax.Precision.HIGHEST)
    right = right / jnp.where(s == 0, 1, s)[..., :1, None]
    image = jnp.matmul(left, dx, precision=lax.Precision.HIGHEST)
    return norm, jnp.sum((image * right.conj()).real, axis=(-2, -1))


# One program each for a call outside of a program; inside of one, no call.
_compiled_values = jax.jit(_values, static_argnums=0, inline=True)
_compiled_norm = jax.jit(_norm, inline=True)
