"""Functions of singular values, ``X = U S V^T -> U f(S) V^T``, by three engines, and the singular values themselves.

With ``p = min(m, n)`` the Gram and QR engines only find the singular values and the vectors ``Q`` of the short side,
and use ``U f(S) V^T = Q diag(f(s)/s) Q^T X`` (``X`` wide). The Gram engine squares the condition number: relative to
the largest singular value ``s_1`` it is accurate to ``eps s_1 / floor`` when ``f`` vanishes below ``floor``, and to
``sqrt(eps)`` only when it does not.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxspec.checks import check_choice
from jaxspec.linalg import decompositions
from jaxspec.linalg.divided_differences import spectral_tangent
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import batch_first, compute_dtype, conjugate_transpose, power_of_two_scale

Engine = Literal["svd", "gram", "qr", "auto"]
_ENGINES = ("svd", "gram", "qr", "auto")


def spectral_map(
    x: Inexact[Array, "*batch m n"],
    f: Callable[[Float[Array, "*batch r"]], Float[Array, "*batch r"]],
    *,
    engine: Engine = "svd",
    rcond: float | None = None,
    floor: ArrayLike | None = None,
    return_values: bool = False,
) -> Inexact[Array, "*batch m n"] | tuple[Inexact[Array, "*batch m n"], Float[Array, "*batch r"]]:
    r"""Apply ``f`` to the singular values: ``X = U diag(s) V^T -> U diag(f(s)) V^T``.

    Engines: ``svd`` thin SVD; ``gram`` eigendecomposition of the short-side Gram matrix (two products of ``X``, the
    fastest); ``qr`` triangle of a QR factorisation, then an SVD of that small triangle (accurate relative to ``s_1``
    where ``f(s)/s`` is bounded); ``auto`` uses ``svd`` without ``floor``; with one it uses ``gram`` while ``floor/s_1``
    exceeds 1e-2 (float32) or 1e-5 (float64) in every matrix of the batch, so that its error stays below about 3e-6 and
    1e-10 of ``s_1``, else ``qr``. The switch is a branch also under ``vmap``: one matrix below it sends the whole batch
    to ``qr``.

    Derivatives (forward and reverse, of ``x`` and of values ``f`` closes over) are exact also at repeated and zero
    singular values, provided ``f`` is differentiable there and permutation-equivariant, with ``f(0) = 0`` where
    singular values vanish; they cost one SVD. Entries of ``f``'s Jacobian that are not finite count as 0. Second
    derivatives need simple, non-zero singular values.

    Args:
        x: matrices; complex input is accepted. bfloat16 and float16 are computed in float32 and cast back.
        f: singular values, descending along the last axis, to new values of the same shape. It receives the batch at
            once, may depend on all singular values of its matrix and may close over traced arrays with the batch shape.
        engine: how the singular values are found.
        rcond: ``s <= rcond * s_1`` counts as 0 and is mapped to 0; default ``max(m, n) * eps``.
        floor: value(s), broadcast over the batch, below which ``f`` is 0. Only steers ``auto``.
        return_values: also return ``f(s)``.

    Returns:
        The mapped matrices and, on request, ``f(s)``. From the Gram engine ``f(s)`` inherits its error, so a sum over
        many small values is inaccurate: never use it in a certificate. Non-finite input gives non-finite output.

    Raises:
        ValueError: unknown engine, or ``x`` with fewer than two axes.
        TypeError: integer ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> spectral_map(jnp.diag(jnp.array([3.0, 2.0])), lambda s: s**2)
        Array([[9., 0.],
               [0., 4.]], dtype=float32)
    """
    dtype = _checked_dtype(x, engine)
    values_dtype = jnp.finfo(dtype).dtype
    nothing = jnp.zeros((*x.shape[:-2], min(x.shape[-2:])), values_dtype)
    if x.size == 0:
        return (x, nothing) if return_values else x
    rcond = max(x.shape[-2:]) * float(jnp.finfo(dtype).eps) if rcond is None else rcond
    if engine == "auto" and floor is None:
        engine = "svd"
    limit = jnp.inf if floor is None else lax.stop_gradient(floor)
    limit = jnp.broadcast_to(jnp.asarray(limit, values_dtype), x.shape[:-2])
    converted, constants = jax.closure_convert(lambda s: f(s).astype(values_dtype), nothing)
    out, values = _mapped(converted, engine, rcond, x.astype(dtype), limit, *constants)
    return (out.astype(x.dtype), values) if return_values else out.astype(x.dtype)


def _checked_dtype(x, engine):
    check_choice("engine", engine, _ENGINES)
    if jnp.ndim(x) < 2:
        raise ValueError(f"x has shape {jnp.shape(x)}; expected matrices, (*batch, m, n)")
    return compute_dtype(x, allow_complex=True)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _mapped(f, engine, rcond, x, floor, *constants):
    if min(x.shape[-2:]) == 1:
        engine = "gram"  # the Gram matrix is the squared norm: exact
    if engine == "svd":
        u, s, vt = _scaled_svd(x)
        values = _live_values(f, s, rcond, constants)
        return _composed(u, values, vt), values
    s, q, scale = _FACTORS[engine](x, floor)
    values = _live_values(f, s * scale[..., None], rcond, constants)
    return _apply(x, q, _ratios(values, s), scale), values


@_mapped.defjvp
def _mapped_jvp(f, engine, rcond, primals, tangents):
    x, _, *constants = primals
    dx, _, *dconstants = tangents
    u, s, vt = _scaled_svd(x)
    values = _live_values(f, s, rcond, constants)
    dvalues, dy = spectral_tangent(f, (u, s, vt), values, dx, (constants, dconstants), _dead(s, rcond))
    return (_composed(u, values, vt), values), (dy, dvalues)


def _dead(s, rcond):
    return s <= rcond * s[..., :1]


def _live_values(f, s, rcond, constants):
    return _zero_where_dead(f(_zero_where_dead(s, s, rcond), *constants), s, rcond)


# Compiled: outside of a program every operation is a program of its own.


@partial(jax.jit, inline=True)
def _zero_where_dead(values, s, rcond):
    return jnp.where(_dead(s, rcond), 0, values)


@partial(jax.jit, inline=True)
def _ratios(values, s):
    return jnp.where(values == 0, 0, values / jnp.where(values == 0, 1, s))


@partial(jax.jit, inline=True)
def _composed(u, values, vt):
    return matmul(u * values[..., None, :], vt)


@partial(jax.jit, inline=True)
def _scaled_svd(x):
    scale = power_of_two_scale(x, keepdims=True)
    u, s, vt = decompositions.svd(x / scale)
    return u, s * scale[..., 0], vt


def _short_gram(x):
    adjoint = conjugate_transpose(x)
    return matmul(x, adjoint) if x.shape[-2] <= x.shape[-1] else matmul(adjoint, x)


@batch_first
def _scaled_gram(x):
    """Gram matrix of ``x / scale`` and ``scale``, 1 unless the trace says that squares may overflow or vanish."""
    gram = _short_gram(x)
    trace = jnp.trace(gram, axis1=-2, axis2=-1).real
    tiny = float(jnp.finfo(x.dtype).tiny) ** (1 / 3)
    # Products lost to underflow are below tiny each, hence below n * tiny**(2/3) of a trace that is at least
    # tiny**(1/3).
    safe = jnp.all((trace >= tiny) & (trace <= 1 / tiny))

    def rescaled():
        scale = power_of_two_scale(x)
        return _short_gram(x / scale[..., None, None]), scale

    return lax.cond(safe, lambda: (gram, jnp.ones_like(trace)), rescaled)


@jax.jit
def gram_factor(x, floor=None):
    """Singular values and short-side singular vectors from the Gram matrix.

    Args:
        x: matrices, (..., m, n), p = min(m, n).
        floor: unused; `_auto_factor`, which is called in the same place, needs one.

    Returns:
        Descending singular values of ``x / scale`` (..., p), singular vectors in columns (..., p, p), scale (...).
    """
    gram, scale = _scaled_gram(x)
    squares, q = decompositions.eigh(gram, symmetrize=False)
    return jnp.sqrt(jnp.maximum(squares[..., ::-1], 0)), q[..., ::-1], scale


@jax.jit
def _qr_factor(x, floor=None):
    scale = power_of_two_scale(x)
    _, s, vt = decompositions.svd(decompositions.short_triangle(x / scale[..., None, None]))
    return s, conjugate_transpose(vt), scale


@batch_first
def _auto_factor(x, floor):
    s, q, scale = gram_factor(x)
    ratio = 1e-2 if jnp.finfo(x.dtype).bits == 32 else 1e-5
    accurate = jnp.all(~(floor < ratio * s[..., 0] * scale))
    return lax.cond(accurate, lambda: (s, q, scale), lambda: _qr_factor(x))


_FACTORS = {"gram": gram_factor, "qr": _qr_factor, "auto": _auto_factor}


@batch_first
def _apply(x, q, weights, scale):
    """``q diag(weights) q^H (x / scale)``, or its mirror image for tall ``x``; weights that vanish cost nothing."""
    adjoint = conjugate_transpose(q)
    short = q.shape[-1]
    few = max(short // 4, 1)  # below half of the columns two thin products beat a square one
    wide = x.shape[-2] <= x.shape[-1]

    def thin():
        left, right = q[..., :few] * weights[..., None, :few], adjoint[..., :few, :]
        return matmul(left, matmul(right, x)) if wide else matmul(matmul(x, left), right)

    def square(y):
        projector = matmul(q * weights[..., None, :], adjoint)
        return matmul(projector, y) if wide else matmul(y, projector)

    plain = jnp.all(scale == 1)
    case = jnp.where(plain & jnp.all(weights[..., few:] == 0), 0, jnp.where(plain, 1, 2))
    return lax.switch(case, [thin, lambda: square(x), lambda: square(x / scale[..., None, None])])
