r"""Powers of the spectrum, ``X = U S V^T -> U S (S^2 + (eps sigma)^2)^(-c) V^T``, by several engines of known error.

The exponent of the singular values is ``1 - 2c``: c = 0 is the identity, c = 1/2 the polar factor (Muon), c > 1/2 an
inverted spectrum, c = 1 the direction of the pseudo-inverse. For c <= 1/2 the result is the steepest-descent direction
of a Schatten ball; for c > 1/2 it is that of no unitarily invariant norm.
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Inexact

from jaxspec.checks import check_choice, check_numbers
from jaxspec.linalg.dispatch import ENGINES, Plan, Request, plan
from jaxspec.linalg.newton_schulz import iterate, iterate_gram
from jaxspec.linalg.normalisation import SCALES, Scaled, normalise, restore
from jaxspec.linalg.qdwh import halley
from jaxspec.linalg.rational import augmented, gram_power, polar_power, qr_power
from jaxspec.linalg.scaling import compute_dtype
from jaxspec.linalg.smoothed_polar import smoothed_polar
from jaxspec.linalg.spectral_map import spectral_map

_HIGHEST = lax.Precision.HIGHEST
_SMOOTHED_TOL = 1e-4  # what `smoothed_polar` keeps in float32 with its own choice of engine


def polar(
    x: Inexact[Array, "*batch m n"],
    *,
    engine: str = "auto",
    tol: float = 1e-3,
    lower: float = 1e-3,
    eps: ArrayLike = 0.0,
    scale: str | ArrayLike = "frobenius",
    schedule: str | tuple | None = None,
    precision: lax.PrecisionLike = _HIGHEST,
    dtype: DTypeLike | None = None,
    gram: bool | None = None,
) -> Inexact[Array, "*batch m n"]:
    r"""Polar factor ``U V^T``, or ``U S (S^2 + (eps sigma)^2)^(-1/2) V^T``: `spectral_power` at c = 1/2.

    Args:
        x: as in `spectral_power`.
        engine: as in `spectral_power`.
        tol: as in `spectral_power`.
        lower: as in `spectral_power`.
        eps: as in `spectral_power`.
        scale: as in `spectral_power`.
        schedule: as in `spectral_power`.
        precision: as in `spectral_power`.
        dtype: as in `spectral_power`.
        gram: as in `spectral_power`.

    Returns:
        As `spectral_power`.

    Raises:
        ValueError: as `spectral_power`.
        TypeError: as `spectral_power`.

    Reference:
        Nakatsukasa, Bai & Gygi, SIAM J. Matrix Anal. Appl. 31 (2010); Amsel et al., "The Polar Express" (arXiv
        2505.16932).

    Example:
        >>> import jax.numpy as jnp
        >>> polar(jnp.diag(jnp.array([3.0, -2.0])))
        Array([[ 1.,  0.],
               [ 0., -1.]], dtype=float32)
    """
    return spectral_power(
        x,
        0.5,
        eps=eps,
        engine=engine,
        tol=tol,
        lower=lower,
        scale=scale,
        schedule=schedule,
        precision=precision,
        dtype=dtype,
        gram=gram,
    )


def spectral_power(
    x: Inexact[Array, "*batch m n"],
    c: ArrayLike,
    *,
    eps: ArrayLike = 0.0,
    engine: str = "auto",
    tol: float = 1e-3,
    lower: float = 1e-3,
    scale: str | ArrayLike = "frobenius",
    schedule: str | tuple | None = None,
    precision: lax.PrecisionLike = _HIGHEST,
    dtype: DTypeLike | None = None,
    gram: bool | None = None,
) -> Inexact[Array, "*batch m n"]:
    r"""``U f(S) V^T`` with ``f(s) = s (s^2 + (eps sigma)^2)^(-c)``, homogeneous of degree ``1 - 2c``.

    Engines: ``svd``; ``eigh`` of the Gram matrix; ``newton_schulz`` (c = 1/2) and ``recombine`` (c in [0, 1]), matrix
    products only; ``qdwh`` (c = 1/2) and ``rational`` (any c), a few factorisations, accurate at any conditioning;
    ``rational_gram``, ``rational_qr``, ``rational_polar`` and ``rational_roots`` name one form of ``rational``;
    ``auto`` takes svd up to rank 32 on the CPU, else the cheapest engine whose stated error is at most ``tol``.

    With ``eps = 0`` the iterative engines meet ``tol`` for ``s = 0`` and ``s >= lower sigma``; in between they fall off
    linearly, so that noise directions are not amplified. Note that ``sigma`` is not ``s_max``: a flat spectrum with
    condition number k has ``s_min / sigma = 1/(k sqrt(r))`` under "frobenius", ``1/k`` under "spectral".

    Args:
        x: matrices; complex input for all engines but eigh and rational. bfloat16 and float16 are computed in float32.
        c: exponent; an array only with svd and eigh.
        eps: floor of the spectrum in units of sigma, >= 0. A Python number for recombine and the rational sums; else
            it may be traced or one per matrix (then ``lower`` should be at most ``eps``).
        engine: see above.
        tol: largest relative error of a singular value.
        lower: smallest ``s / sigma`` that must meet ``tol`` when ``eps`` is 0.
        scale: sigma: "frobenius", "gram" (Schatten-4 norm), "spectral" (8 power steps, times 1.05), or a number, in
            units of x, which makes ``eps`` absolute. recombine, rational_gram and rational_qr cannot take a number.
            With c = 1/2, ``eps`` > 0 and engine auto this is `smoothed_polar`, down to ``tol`` = 1e-4.
        schedule: of newton_schulz and recombine: "jordan" (five steps, no error control), "classical", "optimal", or
            quintics ``((a, b, c), ...)``.
        precision: of the matrix products.
        dtype: bfloat16 for matrix-product engines that compute in it; their stated error then rests on measurements.
        gram: iterate on the short-side Gram matrix (newton_schulz and recombine); default where it is cheaper and its
            rounding, about ``u (sigma / s)^2``, stays below ``tol``; asked for where it does not, an error.

    Returns:
        Matrices of the shape and dtype of ``x``. A zero matrix gives zeros, an empty one itself; non-finite entries
        spoil their own matrix only. Derivatives are those of the computed program (svd: a closed form), finite at
        repeated and zero singular values for all engines but eigh.

    Raises:
        ValueError: an argument outside its range, an engine that does not compute this map, or a tolerance that is not
            attainable (the message names what is).
        TypeError: integer ``x``, or complex ``x`` where the engine needs real matrices.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv 2605.11181).

    Example:
        >>> import jax.numpy as jnp
        >>> spectral_power(jnp.diag(jnp.array([4.0, 1.0])), 0.25).round(3)
        Array([[2., 0.],
               [0., 1.]], dtype=float32)
    """
    working = _working_dtype(x, dtype)
    _check(c, eps, engine, tol, lower, scale)
    if x.size == 0:
        return x
    known_eps = float(eps) if _is_number(eps) else None
    free_scale = not isinstance(scale, str)
    plain = engine == "auto" and schedule is None and not gram and tol >= _SMOOTHED_TOL and dtype is None
    real = working in (jnp.float32, jnp.float64)
    if free_scale and known_eps != 0 and plain and real and _is_number(c) and c == 0.5:
        return smoothed_polar(x, jnp.asarray(eps) * jnp.asarray(scale), precision=precision)
    if not _is_number(c):
        if engine not in ("svd", "eigh"):
            raise ValueError(f"c is an array; engine {engine!r} needs a Python number, svd and eigh do not")
        found = Plan(engine)
    else:
        rows, columns = sorted(x.shape[-2:])
        floating = str(jnp.zeros((), working).real.dtype)
        quintics = schedule if schedule is None or isinstance(schedule, str) else _quintics(schedule)
        # A floor in other units than sigma is a fraction of it that only the data know.
        fraction = known_eps if not free_scale or known_eps == 0 else None
        request = Request(
            float(c), fraction, float(lower), float(tol), rows, columns, floating, quintics, gram, free_scale
        )
        found = plan(engine, request)
        if found.engine in ("svd", "eigh") and c > 0.5 and known_eps == 0:
            warnings.warn(
                f"c = {c} inverts the spectrum and engine {found.engine} has no floor: singular values at the level of "
                "rounding come out largest; pass eps > 0",
                stacklevel=2,
            )
    if jnp.issubdtype(working, jnp.complexfloating) and found.engine not in ("svd", "newton_schulz", "qdwh"):
        raise TypeError(f"x has dtype {x.dtype}; engine {found.engine} needs a real floating dtype")
    if found.engine == "identity":
        return x
    name, number = (scale, None) if isinstance(scale, str) else ("frobenius", scale)
    return _run(
        x,
        c if found.c is None else None,
        None if known_eps == 0 else eps,
        number,
        found=found,
        name=name,
        precision=lax.Precision(precision) if not isinstance(precision, str | tuple) else precision,
        working=str(working),
    )


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.number)


def _working_dtype(x, dtype):
    working = compute_dtype(x, allow_complex=True)
    if jnp.ndim(x) < 2:
        raise ValueError(f"x has shape {jnp.shape(x)}; expected matrices, (*batch, m, n)")
    if dtype is None:
        return working
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"dtype is {dtype}; expected a floating dtype")
    return jnp.dtype(dtype)


def _check(c, eps, engine, tol, lower, scale):
    check_choice("engine", engine, ENGINES)
    if _is_number(c):
        check_numbers(c=c)
    if _is_number(eps):
        check_numbers(0, eps=eps)
    check_numbers(0, ends="()", tol=tol)
    check_numbers(0, 1, ends="()", lower=lower)
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; expected one of {SCALES} or a number")
    if _is_number(scale):
        check_numbers(0, ends="()", scale=scale)


def _quintics(schedule):
    quintics = tuple(tuple(float(k) for k in triple) for triple in schedule)
    if not quintics or any(len(triple) != 3 for triple in quintics):
        raise ValueError(f"schedule is {schedule}; expected at least one triple (a, b, c)")
    return quintics


@partial(jax.jit, static_argnames=("found", "name", "precision", "working"))
def _run(x, c, eps, number, *, found: Plan, name, precision, working):
    low_precision = jnp.finfo(working).bits < 32
    y = x.astype(jnp.float32 if low_precision else working)
    scaled = normalise(y, name, precision, need_gram=found.engine in ("newton_schulz", "rational_gram"))
    if eps is not None:
        eps = jnp.asarray(eps, scaled.rest.dtype)
        eps = eps[..., None, None] if eps.ndim else eps
        if number is not None:
            number = jnp.asarray(number, eps.dtype)
            eps = eps * (number[..., None, None] if number.ndim else number) / scaled.power / scaled.rest
    if low_precision:
        scaled = scaled._replace(y=scaled.y.astype(working), gram=None)
    out = _ENGINE_BODIES[found.engine](scaled, c if found.c is None else found.c, eps, found, precision)
    out = out.astype(y.dtype)
    return restore(out, scaled, 1 - 2 * (c if found.c is None else found.c)).astype(x.dtype)


def _svd(scaled: Scaled, c, eps, found: Plan, precision):
    floor = 0.0 if eps is None else jnp.broadcast_to(eps[..., 0], (*scaled.y.shape[:-2], 1)) if eps.ndim else eps
    c = jnp.asarray(c)
    c = c[..., None] if c.ndim else c
    rcond = max(scaled.y.shape[-2:]) * float(jnp.finfo(scaled.y.dtype).eps)

    def power(s):
        # Without a floor a singular value at the level of rounding counts as 0.
        dead = (s <= rcond * s[..., :1]) & (floor == 0) | (s == 0)
        radius = jnp.hypot(jnp.where(dead, 1, s), floor)
        return jnp.where(dead & (floor == 0), 0, s * radius ** (-2 * c))

    return spectral_map(scaled.y, power, engine="gram" if found.engine == "eigh" else "svd", rcond=0.0)


def _products(scaled: Scaled, c, eps, found: Plan, precision):
    y, gram, columns = scaled.y, scaled.gram, scaled.y.shape[-1]
    if eps is not None and found.alpha is None:
        # The augmentation [X, eps I] turns the polar factor into the regularised one; its Gram matrix is A + eps^2 I.
        y, norm = augmented(y, eps)
        if gram is not None:
            gram = (gram + eps**2 * jnp.eye(gram.shape[-1], dtype=gram.dtype)) / norm**2
    if found.gram:
        inverse = 1 / (scaled.rest if eps is None or found.alpha is not None else scaled.rest * norm)
        return iterate_gram(scaled.raw, inverse, gram, found.schedule, found.alpha, precision, restart=found.restart)
    return iterate(y, gram, found.schedule, found.alpha, precision)[..., :columns]


def _halley(scaled: Scaled, c, eps, found: Plan, precision):
    y = scaled.y if eps is None else augmented(scaled.y, eps)[0]
    return halley(y, found.steps, precision)[..., : scaled.y.shape[-1]]


def _rational_polar(scaled: Scaled, c, eps, found: Plan, precision):
    return polar_power(scaled.y, c, eps, found.steps, found.tail, precision)


def _rational_gram(scaled: Scaled, c, eps, found: Plan, precision):
    return gram_power(scaled.y, scaled.gram, c, found.eps or 0.0, found.tail, precision)


def _rational_qr(scaled: Scaled, c, eps, found: Plan, precision):
    return qr_power(scaled.y, c, found.eps or 0.0, found.tail, precision)


_ENGINE_BODIES = {
    "svd": _svd,
    "eigh": _svd,
    "newton_schulz": _products,
    "qdwh": _halley,
    "rational_polar": _rational_polar,
    "rational_gram": _rational_gram,
    "rational_qr": _rational_qr,
}
