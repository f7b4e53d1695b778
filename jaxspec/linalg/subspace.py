"""Leading singular triplets by block subspace iteration, for matrices and for operators given by their two products.

One sweep is ``Q = orth(A V)``, ``V = orth(A^H Q)`` with a QR factorisation in each half-step: without it float32 loses
the trailing directions, and forming ``A^H A`` would square the condition number. A warm start carries the whole block,
not only its leading part. Reference: Halko, Martinsson & Tropp, SIAM Rev. 53 (2011), algorithm 4.4.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Key

from jaxspec.linalg import decompositions
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import compute_dtype, conjugate_transpose, power_of_two_scale


class TopSVD(NamedTuple):
    """Leading part of a singular value decomposition, ``A ~ u @ diag(s) @ vt``.

    Attributes:
        u: left singular vectors, (*batch, m, rank).
        s: singular values, descending, (*batch, rank), in the units of ``A``.
        vt: right singular vectors, conjugated, (*batch, rank, n).
        basis: orthonormal block of width ``rank + oversample``, (*batch, n, width): the ``start`` of a later call.
    """

    u: Inexact[Array, "*batch m k"]
    s: Float[Array, "*batch k"]
    vt: Inexact[Array, "*batch k n"]
    basis: Inexact[Array, "*batch n w"]


@partial(jax.jit, static_argnames=("rank", "oversample", "sweeps", "dense_below"))
def top_svd(
    x: Inexact[Array, "*batch m n"],
    rank: int,
    *,
    oversample: int = 8,
    sweeps: int = 4,
    start: Inexact[Array, "*batch n w"] | None = None,
    key: Key[Array, ""] | None = None,
    dense_below: int = 256,
) -> TopSVD:
    r"""Leading ``rank`` singular triplets: ``A ~ sum_{i <= rank} s_i u_i v_i^H``, the best approximation of that rank.

    Block subspace iteration of width ``w = rank + oversample``; the error of ``s_i`` falls by ``(s_{w+1}/s_i)^4`` a
    sweep. A dense SVD is used where ``min(m, n) <= dense_below`` or ``w >= min(m, n)``. Not differentiable:
    differentiating raises ``TypeError``.

    Args:
        x: matrices, with leading batch axes. bfloat16 and float16 are computed in float32 and cast back.
        rank: number of triplets, 0 <= rank <= min(m, n).
        oversample: extra columns of the block.
        sweeps: number of sweeps, at least 1; one or two suffice after a warm start.
        start: block to start from, usually ``basis`` of an earlier call; width as above.
        key: randomness of a cold start; default ``jax.random.key(0)``.
        dense_below: size of the short side up to which a dense SVD is faster.

    Returns:
        `TopSVD`. NaN where the matrix is not finite.

    Raises:
        ValueError: ``rank``, ``oversample``, ``sweeps`` or the shape of ``start`` out of range.
        TypeError: integer ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> top_svd(jnp.diag(jnp.array([1.0, 5.0, 3.0])), 2).s
        Array([5., 3.], dtype=float32)
    """
    dtype = compute_dtype(x, allow_complex=True)
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}; expected matrices, (*batch, m, n)")
    width = _checked_width(x.shape, rank, oversample, sweeps, start)
    y = _no_derivative(x.astype(dtype))
    if min(x.shape[-2:]) <= dense_below or width == min(x.shape[-2:]):
        result = _dense(y, rank, width)
    else:
        result = operator_top_svd(
            lambda v: matmul(y, v),
            lambda q: matmul(conjugate_transpose(y), q),
            x.shape,
            rank,
            oversample=oversample,
            sweeps=sweeps,
            start=start,
            key=key,
            dtype=dtype,
        )
    return jax.tree.map(lambda a: a.astype(x.real.dtype if jnp.isrealobj(a) else a.dtype), result)


def operator_top_svd(
    matmat: Callable[[Inexact[Array, "*batch n w"]], Inexact[Array, "*batch m w"]],
    rmatmat: Callable[[Inexact[Array, "*batch m w"]], Inexact[Array, "*batch n w"]],
    shape: tuple[int, ...],
    rank: int,
    *,
    oversample: int = 8,
    sweeps: int = 4,
    start: Inexact[Array, "*batch n w"] | None = None,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> TopSVD:
    r"""`top_svd` of a linear operator ``A`` known by ``V -> A V`` and ``Q -> A^H Q`` (such as sparse plus low rank).

    Args:
        matmat: ``V -> A V``; called ``sweeps`` times inside one compiled loop.
        rmatmat: ``Q -> A^H Q``; called as often.
        shape: shape of ``A``, (*batch, m, n).
        rank: number of triplets, 0 <= rank <= min(m, n).
        oversample: extra columns of the block.
        sweeps: number of sweeps, at least 1.
        start: block to start from, or None.
        key: randomness of a cold start; default ``jax.random.key(0)``.
        dtype: dtype of the products, float32 or wider.

    Returns:
        `TopSVD`. Not differentiable: differentiating raises ``TypeError``.

    Raises:
        ValueError: ``rank``, ``oversample``, ``sweeps`` or the shape of ``start`` out of range.
    """
    width = _checked_width(shape, rank, oversample, sweeps, start)
    if start is None:
        key = jax.random.key(0) if key is None else key
        start = jnp.broadcast_to(jax.random.normal(key, (shape[-1], width), dtype), (*shape[:-2], shape[-1], width))

    def sweep(v):
        q, _, _ = _orthonormal(_no_derivative(matmat(v)))
        return q, _orthonormal(_no_derivative(rmatmat(q)))

    v = lax.fori_loop(0, sweeps - 1, lambda _, v: sweep(v)[1][0], _no_derivative(start.astype(dtype)))
    q, (v, r, scale) = sweep(v)
    # A ~ q q^H A = q (v r)^H: what is left is an SVD of the small triangle.
    left, s, right = decompositions.svd(conjugate_transpose(r))
    basis = matmul(v, conjugate_transpose(right))
    vt = conjugate_transpose(basis[..., :rank])
    return TopSVD(matmul(q, left[..., :rank]), (s * scale[..., None])[..., :rank], vt, basis)


def _checked_width(shape, rank, oversample, sweeps, start):
    short = min(shape[-2:])
    if not 0 <= rank <= short:
        raise ValueError(f"rank is {rank}; expected 0 <= rank <= {short}, the short side of {shape}")
    if oversample < 0 or sweeps < 1:
        raise ValueError(f"oversample is {oversample} and sweeps {sweeps}; expected oversample >= 0 and sweeps >= 1")
    width = min(max(rank + oversample, 1), short)
    expected = (*shape[:-2], shape[-1], width)
    if start is not None and start.shape != expected:
        raise ValueError(f"start has shape {start.shape}; expected {expected}")
    return width


def _dense(x, rank, width):
    if x.size == 0:
        *batch, m, n = x.shape
        real = x.real.dtype
        shapes = TopSVD((*batch, m, 0), (*batch, 0), (*batch, 0, n), (*batch, n, 0))
        return TopSVD(*(jnp.zeros(shape, x.dtype) for shape in shapes))._replace(s=jnp.zeros(shapes.s, real))
    scale = power_of_two_scale(x)
    u, s, vt = decompositions.svd(x / scale[..., None, None])
    basis = conjugate_transpose(vt[..., :width, :])
    return TopSVD(u[..., :rank], (s * scale[..., None])[..., :rank], vt[..., :rank, :], basis)


def _orthonormal(y):
    scale = power_of_two_scale(y)
    q, r = decompositions.qr(y / scale[..., None, None])
    return q, r, scale


@jax.custom_jvp
def _no_derivative(x):
    return x


@_no_derivative.defjvp
def _no_derivative_jvp(primals, tangents):
    raise TypeError("top_svd is not differentiable; use spectral_map or singular_values where a derivative is needed")
