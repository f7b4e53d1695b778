"""Dtype policy, exact power-of-two scaling and guarded division, shared by every routine of `jaxspec`.

A factorisation of ``x`` squares its entries, so float32 data beyond 1e19 or below 1e-19 would overflow or vanish.
Dividing by a power of two next to ``max|x|`` changes no mantissa bit and removes the problem.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact


def compute_dtype(x: ArrayLike, name: str = "x", *, allow_complex: bool = False) -> jnp.dtype:
    """Dtype in which a factorisation of ``x`` runs: bfloat16 and float16 are promoted to float32, the rest is kept.

    Args:
        x: the array whose dtype decides.
        name: the argument's name, for the error message.
        allow_complex: whether complex64 and complex128 are accepted.

    Returns:
        float32, float64 or, where allowed, complex64, complex128.

    Raises:
        TypeError: integer or boolean input (cast it: the precision is the caller's to choose), or complex input not
            allowed.

    Example:
        >>> import jax.numpy as jnp
        >>> str(compute_dtype(jnp.ones((2, 2), jnp.bfloat16)))
        'float32'
    """
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        if allow_complex:
            return dtype
        raise TypeError(f"{name} has dtype {dtype}; expected a real floating dtype, complex input is not supported")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {dtype}; expected a floating dtype, cast it first (for example to float32)")
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def safe_divide(x: ArrayLike, y: ArrayLike, otherwise: ArrayLike = 0) -> Array:
    """``x / y`` where ``y > 0``, and ``otherwise`` elsewhere, without a NaN in the value or a derivative.

    Args:
        x: dividend; broadcasts with ``y``.
        y: divisor, of a kind that is positive or means nothing: a norm, a count, a weight.
        otherwise: value where ``y`` is 0, negative or NaN; broadcasts, too.

    Returns:
        The quotient.

    Example:
        >>> import jax.numpy as jnp
        >>> safe_divide(jnp.array([1.0, 3.0]), jnp.array([0.0, 2.0]))
        Array([0. , 1.5], dtype=float32)
    """
    positive = jnp.asarray(y) > 0
    return jnp.where(positive, x / jnp.where(positive, y, 1), otherwise)


def power_of_two_scale(
    x: Inexact[Array, "..."], axis: int | Sequence[int] | None = (-2, -1), *, keepdims: bool = False
) -> Float[Array, "..."]:
    """Power of two next to the largest magnitude, ``2**floor(log2(max|x|))``, so that ``x / scale`` is exact.

    The exponent bits of ``max|x|`` are read off, so that no rounding occurs. The result lies where both it and its
    reciprocal are normal numbers, and is 1 where ``x`` is zero, empty, subnormal or not finite. No derivative flows
    through it.

    Args:
        x: array of any shape.
        axis: axes over which the maximum runs; None for all.
        keepdims: keep the reduced axes with length 1.

    Returns:
        Real powers of two, in ``x``'s precision (float32 for bfloat16 and float16).

    Example:
        >>> import jax.numpy as jnp
        >>> float(power_of_two_scale(jnp.array([[3.0, -5.0]])))
        4.0
    """
    compute_dtype(x, allow_complex=True)
    return _largest_power_of_two(x, axis if axis is None or isinstance(axis, int) else tuple(axis), keepdims)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _largest_power_of_two(x, axis, keepdims):
    dtype = jnp.finfo(compute_dtype(x, allow_complex=True)).dtype
    magnitude = jax.lax.stop_gradient(jnp.abs(x)).astype(dtype)
    return _floor_power_of_two(jnp.max(magnitude, axis=axis, keepdims=keepdims, initial=0))


def _floor_power_of_two(magnitude: Float[Array, "..."]) -> Float[Array, "..."]:
    info = jnp.finfo(magnitude.dtype)
    unsigned = jnp.uint32 if info.bits == 32 else jnp.uint64
    exponent_mask = np.array(((1 << info.nexp) - 1) << info.nmant, dtype=unsigned)
    power = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(magnitude, unsigned) & exponent_mask, magnitude.dtype
    )
    usable = jnp.isfinite(magnitude) & (magnitude >= info.tiny)
    return jnp.where(usable, jnp.minimum(power, 1 / info.tiny), 1).astype(magnitude.dtype)


def conjugate_transpose(x: Inexact[Array, "*batch m n"]) -> Inexact[Array, "*batch n m"]:
    """Conjugate transpose of the last two axes (the transpose, for real input)."""
    return jnp.conj(x.mT) if jnp.iscomplexobj(x) else x.mT


def batch_first(function: Callable) -> Callable:
    """Let ``vmap`` of a function with leading batch axes become one more leading axis of the same function.

    A ``lax.cond`` whose predicate is reduced over the batch then stays a branch under ``vmap`` instead of running both
    sides. Every argument must carry the same batch axes in front. Meant for functions without a derivative of their own
    (inside a custom rule).

    Args:
        function: positional arrays -> pytree of arrays, all with the same leading batch axes.

    Returns:
        The same function with that batching rule, compiled.
    """
    mapped = custom_vmap(function)

    @mapped.def_vmap
    def _rule(axis_size, in_batched, *args):
        batched = [
            arg if flag else jnp.broadcast_to(arg, (axis_size, *jnp.shape(arg)))
            for arg, flag in zip(args, in_batched, strict=True)
        ]
        out = mapped(*batched)
        return out, jax.tree.map(lambda _: True, out)

    return functools.wraps(function)(jax.jit(lambda *args: mapped(*args)))
