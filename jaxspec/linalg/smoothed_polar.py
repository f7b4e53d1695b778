r"""The gradient of the smoothed nuclear norm, ``P = U S V^T -> U S (S^2 + eps^2)^(-1/2) V^T``, and its potential.

    Phi(P) = sum_i (s_i^2 + eps^2)^(1/2) - eps ,   grad Phi(P) = Y = A^(-1) P ,   A = (P P^T + eps^2 I)^(1/2)

(``P`` wide). It is `jaxspec.linalg.spectral_power` at c = 1/2 with an absolute floor, which calls it for that case. All
derivatives go through ``A``: with ``L_A(C)`` the solution of ``A X + X A = C``,

    dA = L_A(dP P^T + P dP^T + 2 eps deps I) ,   dY = A^(-1) (dP - dA Y) ,   dL_A(C) = L_A(dC - dA L - L dA) ,

so that no difference of singular values ever appears in a denominator, at any order.

Reference: Nesterov, "Smooth minimization of non-smooth functions", Math. Program. 103 (2005), for the smoothing;
Higham, "Functions of Matrices" (2008), for ``L_A``.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.checks import check_choice, check_numbers, is_concrete
from jaxspec.linalg import decompositions
from jaxspec.linalg.gram_root import gram_root, gram_tangent, lyapunov, solve
from jaxspec.linalg.normalisation import matmul, wide
from jaxspec.linalg.scaling import batch_first, compute_dtype, power_of_two_scale
from jaxspec.linalg.smoothed_engines import BODIES, POLAR_ENGINES, Method
from jaxspec.linalg.spectral_map import spectral_map

_HIGHEST = lax.Precision.HIGHEST


def smoothed_polar(
    p: Float[Array, "*batch m n"],
    eps: ArrayLike,
    *,
    engine: str = "auto",
    max_cond: float | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "*batch m n"]:
    r"""``U diag(s / (s^2 + eps^2)^(1/2)) V^T``: the polar factor with an absolute floor, differentiable at every order.

    Engines: ``svd``; ``gram_eigh`` and ``gram_ns`` work on ``P P^T``, by an eigendecomposition or by products only, and
    lose ``(s_1/eps)^2`` units of rounding; ``aug_ns`` iterates on ``[P, eps I]``, by products only, and is backward
    stable at every ``eps``; ``closed`` for matrices of rank at most 2. ``auto`` looks at the data when the program
    runs: closed or gram_ns (gram_eigh from 128 rows on, on a CPU) while ``eps / |(P, eps)|_F`` is at least 1e-2
    (float32) or 1e-4 (float64) in every matrix of the batch, else aug_ns (svd). Neither the choice nor the number of
    iterations depends on what is known when tracing, so that ``eps`` may be traced.

    Args:
        p: matrices. bfloat16 and float16 are computed in float32 and cast back.
        eps: floor, > 0, in the units of ``p``; a number or one per matrix, (*batch,). Under a trace ``eps <= 0`` is not
            refused, and not promised to be finite.
        engine: see above.
        max_cond: a promise that ``(|P|_F^2 + eps^2)^(1/2) <= max_cond eps``. The iterations then have a fixed length
            and ``auto`` a fixed choice. A broken promise gives singular values that are too small; it is checked while
            ``jax_enable_checks`` is on.
        precision: of the matrix products; default the highest.

    Returns:
        Matrices of the shape and dtype of ``p``. Zero gives zero, an empty matrix itself; non-finite entries spoil
        their own matrix only.

    Raises:
        ValueError: ``eps <= 0``, an unknown engine, closed for more than two rows and columns, or ``max_cond < 1``.
        TypeError: integer or complex ``p``.

    Reference:
        Mustafi, Mukherjee & Sriperumbudur, "Move on Muon" (arXiv:2605.23871).

    Example:
        >>> import jax.numpy as jnp
        >>> smoothed_polar(jnp.diag(jnp.array([3.0, 0.0])), 4.0)
        Array([[0.6, 0. ],
               [0. , 0. ]], dtype=float32)
    """
    x, floor, method = _prepare(p, eps, engine, max_cond, precision)
    return p if p.size == 0 else _polar_only(x, floor, method=method).astype(p.dtype)


def smoothed_nuclear_norm(p: Float[Array, "*batch m n"], eps: ArrayLike) -> Float[Array, "*batch"]:
    r"""``Phi(P) = sum_i (s_i^2 + eps^2)^(1/2) - eps``, between ``|P|_* - r eps`` and ``|P|_*``.

    Args:
        p: matrices, r = min(m, n).
        eps: as in `smoothed_polar`, which is the gradient.

    Returns:
        The values, >= 0, without cancellation for ``s << eps``. They come from the engine that `smoothed_polar` picks,
        with its accuracy relative to the largest value.

    Raises:
        ValueError: ``eps <= 0``.
        TypeError: integer or complex ``p``.

    Example:
        >>> import jax.numpy as jnp
        >>> float(smoothed_nuclear_norm(jnp.array([[3.0, 4.0]]), 12.0))
        1.0
    """
    return polar_and_norm(p, eps)[1]


def polar_and_norm(
    p: Float[Array, "*batch m n"],
    eps: ArrayLike,
    *,
    engine: str = "auto",
    max_cond: float | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[Float[Array, "*batch m n"], Float[Array, "*batch"]]:
    """`smoothed_polar` and `smoothed_nuclear_norm` from one factorisation.

    Args:
        p: as in `smoothed_polar`.
        eps: as in `smoothed_polar`.
        engine: as in `smoothed_polar`.
        max_cond: as in `smoothed_polar`.
        precision: as in `smoothed_polar`.

    Returns:
        The gradient and the value.
    """
    x, floor, method = _prepare(p, eps, engine, max_cond, precision)
    if p.size == 0:
        return p, jnp.zeros(p.shape[:-2], p.dtype)
    y, value = _both(x, floor, method=method)
    return y.astype(p.dtype), value.astype(p.dtype)


def smoothed_nuclear_norm_conjugate(y: Float[Array, "*batch m n"], eps: ArrayLike) -> Float[Array, "*batch"]:
    r"""``Phi*(Y) = sum_i eps (1 - (1 - y_i^2)^(1/2))`` for ``|Y|_op <= 1``, else infinity.

    Args:
        y: matrices.
        eps: as in `smoothed_polar`.

    Returns:
        The values.

    Raises:
        ValueError: ``eps <= 0``.
        TypeError: integer or complex ``y``.

    Example:
        >>> import jax.numpy as jnp
        >>> smoothed_nuclear_norm_conjugate(jnp.array([[[0.6]], [[1.5]]]), 0.5).round(3)
        Array([0.1, inf], dtype=float32)
    """
    x, floor, _ = _prepare(y, eps, "svd", None, None, name="y")

    def terms(s):
        inside = s <= 1
        t = jnp.where(inside, s, 0)
        return jnp.where(inside, floor[..., None] * t**2 / (1 + jnp.sqrt((1 - t) * (1 + t))), jnp.inf)

    if y.size == 0:
        return jnp.zeros(y.shape[:-2], y.dtype)
    return jnp.sum(spectral_map(x, terms, rcond=0.0, return_values=True)[1], axis=-1).astype(y.dtype)


def smoothed_polar_inverse(y: Float[Array, "*batch m n"], eps: ArrayLike) -> Float[Array, "*batch m n"]:
    r"""``eps Y (I - Y^T Y)^(-1/2)``, the gradient of the conjugate: undoes `smoothed_polar` on ``|Y|_op < 1``.

    Args:
        y: matrices.
        eps: as in `smoothed_polar`.

    Returns:
        The matrices; a run-time error where ``|Y|_op >= 1``.

    Raises:
        ValueError: ``eps <= 0``.
        TypeError: integer or complex ``y``.

    Example:
        >>> import jax.numpy as jnp
        >>> float(smoothed_polar_inverse(jnp.array([[0.6]]), 4.0)[0, 0])
        3.0
    """
    x, floor, _ = _prepare(y, eps, "svd", None, None, name="y")
    if y.size == 0:
        return y

    def stretch(s):
        s = eqx.error_if(s, jnp.any(s >= 1), "y has a singular value >= 1; expected |y|_op < 1")
        return floor[..., None] * s / jnp.sqrt((1 - s) * (1 + s))

    return spectral_map(x, stretch, rcond=0.0).astype(y.dtype)


def smoothed_polar_hvp(
    p: Float[Array, "*batch m n"], v: Float[Array, "*batch m n"], eps: ArrayLike
) -> Float[Array, "*batch m n"]:
    r"""Derivative of `smoothed_polar` at ``p`` in the direction ``v``: the Hessian of ``Phi`` times ``v``, closed form.

    With ``W = U^T v V``, ``h_i = (s_i^2 + eps^2)^(1/2)`` and ``q_ij = eps^2 + h_i h_j + s_i s_j``:
    ``U (G- o sym W + G+ o skew W) V^T`` plus ``diag(1/h)`` times what lies outside the short side,
    ``G-_ij = eps^2 (h_i + h_j) / (h_i h_j q_ij)``, ``G+_ij = q_ij / (h_i h_j (h_i + h_j))``.

    Args:
        p: matrices.
        v: directions.
        eps: as in `smoothed_polar`.

    Returns:
        The products, symmetric in the sense ``<v, D w> = <w, D v>``, with eigenvalues in ``(0, 1/eps]``.

    Raises:
        ValueError: ``eps <= 0``, or shapes that differ.
        TypeError: integer or complex input.

    Example:
        >>> import jax.numpy as jnp
        >>> smoothed_polar_hvp(jnp.zeros((1, 2)), jnp.array([[1.0, 2.0]]), 0.5)
        Array([[2., 4.]], dtype=float32)
    """
    if jnp.shape(p) != jnp.shape(v):
        raise ValueError(f"v has shape {jnp.shape(v)}; expected that of p, {jnp.shape(p)}")
    x, floor, _ = _prepare(p, eps, "svd", None, None)
    direction = v.astype(_prepare(v, eps, "svd", None, None, name="v")[0].dtype)
    return p if p.size == 0 else _closed_hvp(x, direction, floor).astype(p.dtype)


def _prepare(p, eps, engine, max_cond, precision, name="p"):
    """The matrices in their compute dtype, one floor per matrix, and the static choices."""
    dtype = compute_dtype(p, name)
    if jnp.ndim(p) < 2:
        raise ValueError(f"{name} has shape {jnp.shape(p)}; expected matrices, (*batch, m, n)")
    check_eps(eps)
    check_choice("engine", engine, POLAR_ENGINES)
    if engine == "closed" and min(p.shape[-2:]) > 2:
        raise ValueError(f"engine is 'closed' and {name} has shape {p.shape}; expected at most two rows or columns")
    check_numbers(1, max_cond=max_cond)
    floor = jnp.broadcast_to(jnp.asarray(eps, dtype), p.shape[:-2])
    precision = _HIGHEST if precision is None else precision
    precision = precision if isinstance(precision, tuple | str) else lax.Precision(precision)
    checked = max_cond is not None and jax.config.jax_enable_checks
    return p.astype(dtype), floor, Method(engine, None if max_cond is None else float(max_cond), precision, checked)


def check_eps(eps: ArrayLike) -> None:
    """Raise `ValueError` unless ``eps`` is traced or positive and finite."""
    if not is_concrete(eps):
        return
    values = np.asarray(eps)
    if not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(f"eps is {eps}; expected a number > 0: the hard polar is jaxspec.linalg.polar")


@functools.partial(jax.jit, static_argnames="method")
def _polar_only(p, eps, *, method):
    return _pair(method, p, eps)[0]


@functools.partial(jax.jit, static_argnames="method")
def _both(p, eps, *, method):
    return _pair(method, p, eps)


class _Normalised(NamedTuple):
    """Short side first, divided by a power of two next to ``max(max|P|, eps)``: squares stay in range."""

    x: Array
    eps: Array
    scale: Array
    tall: bool


def _normalised(p, eps) -> _Normalised:
    x, tall = wide(p)
    largest = jnp.maximum(jnp.max(jnp.abs(x), axis=(-2, -1)), eps)[..., None, None]
    scale = power_of_two_scale(largest, keepdims=True)
    x = jnp.where(jnp.isfinite(largest), x, jnp.nan)  # LAPACK may look for the singular values of an infinity for ever
    return _Normalised(x / scale, eps[..., None, None] / scale, scale, tall)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pair(method, p, eps):
    """``(Y, Phi)`` in the orientation of ``p``."""
    given = _normalised(p, eps)
    y, inverse = _forward(method)(given.x, given.eps)
    # s^2 / (h + eps) = s (s/h) / (1 + eps/h): the last factor by products, since eps A^(-1) lies in (0, I].
    weighted = jnp.matmul(_inverse_of_one_to_two(given.eps * inverse), y, precision=_HIGHEST)
    small = power_of_two_scale(given.x, keepdims=True)
    value = jnp.sum((given.x / small) * (weighted / small), axis=(-2, -1))
    value = value * small[..., 0, 0] * given.scale[..., 0, 0] * small[..., 0, 0]
    return (y.mT if given.tall else y), value


def _inverse_of_one_to_two(m):
    """``(I + m)^(-1)`` for eigenvalues of ``m`` in (0, 1]: residual T_2/17 at the start, then squared in every step."""
    eye = jnp.eye(m.shape[-1], dtype=m.dtype)
    m = m + eye
    x = (24 * eye - 8 * m) / 17
    for _ in range(3 if jnp.finfo(m.dtype).bits == 32 else 4):
        x = 2 * x - jnp.matmul(x, jnp.matmul(m, x, precision=_HIGHEST), precision=_HIGHEST)
    return x


@functools.lru_cache(maxsize=256)
def _forward(method: Method) -> Callable:
    """Wide normalised matrices and floors ``(*batch, 1, 1)`` to ``(Y, A^(-1))``; one branch also under ``vmap``."""
    return batch_first(functools.partial(BODIES[method.engine], method))


@_pair.defjvp
def _pair_jvp(method, primals, tangents):
    (p, eps), (dp, deps) = primals, tangents
    y, value = _pair(method, p, eps)
    # Phi is homogeneous of degree 1 in (P, eps): <Y, P> + eps dPhi/deps = Phi.
    slope = (value - jnp.sum(p * y, axis=(-2, -1))) / eps
    dvalue = jnp.sum(y * dp, axis=(-2, -1)) + slope * deps
    given = _normalised(p, eps)
    dx, image = (dp.mT, y.mT) if given.tall else (dp, y)
    dx, deps = dx / given.scale, deps[..., None, None] / given.scale
    root = gram_root(given.x, given.eps)
    droot = lyapunov(root, gram_tangent(given.x, given.eps, dx, deps))
    dy = solve(root, dx - matmul(droot, image))
    return (y, value), ((dy.mT if given.tall else dy), dvalue)


@jax.custom_jvp
def _closed_hvp(p, v, eps):
    given = _normalised(p, eps)
    direction = (v.mT if given.tall else v) / given.scale
    u, s, vt = decompositions.svd(given.x)
    e = given.eps
    h = jnp.hypot(s, e[..., 0])
    hi, hj = h[..., :, None], h[..., None, :]
    left = matmul(u.mT, direction)
    core = matmul(left, vt.mT)
    # Each quotient in factors that neither overflow nor vanish: eps may be tiny beside s.
    q = (e / hi) * (e / hj) + 1 + (s[..., :, None] / hi) * (s[..., None, :] / hj)
    symmetric = (e / hi) * (e / hj) * (1 / hi + 1 / hj) / q
    skew = q / (hi + hj)
    inside = symmetric * (core + core.mT) / 2 + skew * (core - core.mT) / 2
    out = matmul(u, matmul(inside, vt) + (left - matmul(core, vt)) / hi)
    return out.mT if given.tall else out


@_closed_hvp.defjvp
def _closed_hvp_jvp(primals, tangents):
    method = Method("svd", None, _HIGHEST, False)

    def derivative(p, v, eps):
        return jax.jvp(lambda p: _pair(method, p, eps)[0], (p,), (v,))[1]

    tangent = jax.jvp(derivative, primals, tangents)[1]
    return _closed_hvp(*primals), tangent
