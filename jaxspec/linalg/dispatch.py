"""Which engine, with which coefficients: everything about a power of the spectrum that is decided before tracing.

A `Plan` is a hashable constant of the compiled program. Each planner returns one together with its stated relative
error (approximation plus an estimate of rounding) or raises `ValueError` naming the error it can attain.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxspec.linalg.coefficients import (
    CLASSICAL,
    JORDAN,
    PoleSum,
    QDWHStep,
    ns_error,
    ns_schedule,
    power_poles,
    qdwh_schedule,
    recombination,
    root_schedule,
)
from jaxspec.linalg.coefficients.newton_schulz import Schedule, image
from jaxspec.linalg.coefficients.shipped import candidates
from jaxspec.linalg.rational import peel

ENGINES = (
    "auto",
    "svd",
    "eigh",
    "newton_schulz",
    "recombine",
    "qdwh",
    "rational",
    "rational_gram",
    "rational_qr",
    "rational_polar",
    "rational_roots",
)
_SMALL_RANK = 32  # up to this short side LAPACK's SVD is the fastest engine on the CPU
_MAX_STEPS = 24
_MAX_RECOMBINE_STEPS = 12
_BF16_ERROR, _BF16_CANCELLATION = 3.6e-2, 8e-4
_QDWH_FLOOR = {"float32": 1e-5, "float64": 1e-13}


class Plan(NamedTuple):
    """A resolved engine and its coefficients.

    Attributes:
        engine: svd, eigh, newton_schulz, qdwh, rational_gram, rational_qr, rational_polar or identity.
        c: exponent; None for svd and eigh, which take it as an array.
        eps: floor, where the coefficients depend on it.
        schedule: quintics of the matrix-product iteration.
        alpha: weights of its iterates; None for the last iterate alone.
        gram: iterate on the short-side Gram matrix.
        restart: step at which the Gram iteration starts afresh.
        steps: of the polar iteration.
        tail: poles or inverse-root steps of the rational engine.
        error: stated relative error.
    """

    engine: str
    c: float | None = None
    eps: float | None = None
    schedule: Schedule = ()
    alpha: tuple[float, ...] | None = None
    gram: bool = False
    restart: int | None = None
    steps: tuple[QDWHStep, ...] = ()
    tail: PoleSum | tuple[tuple[float, float, float], ...] | None = None
    error: float = 0.0


class Request(NamedTuple):
    """What is asked for, as Python values.

    Attributes:
        c: exponent.
        eps: floor as a fraction of sigma; None when it is traced.
        lower: smallest fraction of sigma that must meet ``tol`` when ``eps`` is 0 or traced.
        tol: relative error.
        rows: short side.
        columns: long side.
        dtype: compute dtype.
        schedule: name or quintics, or None.
        gram: True, False or None for the planner's choice.
        free_scale: sigma is a number that need not bound the singular values.
    """

    c: float
    eps: float | None
    lower: float
    tol: float
    rows: int
    columns: int
    dtype: str
    schedule: str | Schedule | None
    gram: bool | None
    free_scale: bool

    @property
    def floor(self) -> float:
        """Lower bound of the spectrum of ``[X, eps I]`` divided by its norm."""
        return max(self.lower, self.eps / math.hypot(1, self.eps)) if self.eps else self.lower

    @property
    def unit(self) -> float:
        """Unit roundoff of the compute dtype."""
        return float(jnp.finfo(self.dtype).eps) / 2


@functools.lru_cache(maxsize=1024)
def plan(engine: str, request: Request) -> Plan:
    """Resolve ``engine``.

    Args:
        engine: one of `ENGINES`.
        request: what is asked for.

    Returns:
        The plan.

    Raises:
        ValueError: the engine does not compute this map, or not to this tolerance.
    """
    if request.c == 0:
        return Plan("identity")
    found = (_auto if engine == "auto" else _PLANNERS[engine])(request)
    if found.engine in ("svd", "eigh"):
        return found
    return found._replace(c=request.c, eps=request.eps if found.engine in ("rational_gram", "rational_qr") else None)


def _auto(request: Request) -> Plan:
    if request.schedule is not None:
        return _newton_schulz(request)
    low_precision = jnp.finfo(request.dtype).bits < 32
    if request.rows <= _SMALL_RANK and jax.default_backend() == "cpu" and not low_precision:
        return Plan("svd")
    reasons = []
    planners = [_matrix_products] if low_precision else [_matrix_products, _qdwh if request.c == 0.5 else _rational]
    for planner in planners:
        try:
            return planner(request)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("no engine meets the request: " + "; ".join(reasons))


def _matrix_products(request: Request) -> Plan:
    """The shortest iteration, with the last iterate alone or with a combination."""
    plans, reasons = [], []
    for planner in (_newton_schulz, _recombine):
        if planner is _newton_schulz and (request.c != 0.5 or request.eps != 0):
            continue
        try:
            plans.append(planner(request))
        except ValueError as error:
            reasons.append(str(error))
    if not plans:
        raise ValueError("; ".join(reasons))
    return min(plans, key=lambda found: len(found.schedule))


def _unattainable(name: str, request: Request, error: float) -> ValueError:
    eps = "traced" if request.eps is None else request.eps
    return ValueError(
        f"{name} cannot meet tol={request.tol:g} for c={request.c:g}, lower={request.lower:g}, eps={eps} in "
        f"{request.dtype}: it attains {error:.1e}"
    )


def _newton_schulz(request: Request) -> Plan:
    if request.c != 0.5:
        raise ValueError(f"newton_schulz computes the polar factor only (c = 1/2); c is {request.c}, use recombine")
    bf16 = jnp.finfo(request.dtype).bits < 32
    schedule = request.schedule
    if isinstance(schedule, tuple):
        return _layout(Plan("newton_schulz", schedule=schedule), 1.0, request)
    if schedule == "jordan":
        return _layout(Plan("newton_schulz", schedule=JORDAN), 1.0, request)
    if schedule not in (None, "optimal", "classical"):
        raise ValueError(f"schedule is {schedule!r}; expected 'jordan', 'classical', 'optimal' or quintics (a, b, c)")
    safe = _margin(request)
    rounding = _bf16_rounding(request) if bf16 else 30 * request.unit
    best, low = math.inf, request.floor
    for steps in range(1, _MAX_STEPS + 1):
        if schedule == "classical":
            low = image(CLASSICAL, low, 1.0)[0]
            quintics, error = (CLASSICAL,) * steps, 1 - low
        else:
            quintics, error = ns_schedule(request.floor, steps, **safe), ns_error(request.floor, steps, **safe)
        best = min(best, error + rounding)
        if error + rounding <= request.tol:
            if schedule is None:
                quintics, error = _cheaper_end(request, quintics, error, rounding, safe)
            return _layout(Plan("newton_schulz", schedule=quintics, error=error + rounding), 1.0, request)
    raise _unattainable("newton_schulz", request, best)


def _margin(request: Request) -> dict[str, float]:
    """Against rounding at the upper end of the interval, beyond which an optimal quintic grows fast."""
    return {"margin": 1e-2, "cushion": 40.0} if jnp.finfo(request.dtype).bits < 32 else {"margin": 1e-4}


def _bf16_rounding(request: Request, amplification: float = 1.0) -> float:
    """Measured: up to 3.6 % of the last values, more where a combination cancels; below 1e-2 as the inverse."""
    return (_BF16_ERROR + _BF16_CANCELLATION * (amplification - 1)) * max(1.0, 1e-2 / request.floor)


def _cheaper_end(request: Request, quintics: Schedule, error: float, rounding: float, safe: dict[str, float]):
    """As many cubics at the end as the tolerance allows: five quintics at 1e-2 overshoot it by orders of magnitude."""
    steps = len(quintics)
    for cubics in range(1, steps + 1):
        larger = ns_error(request.floor, steps, cubics=cubics, **safe)
        if larger + rounding > request.tol:
            break
        quintics, error = ns_schedule(request.floor, steps, cubics=cubics, **safe), larger
    return quintics, error


def _recombine(request: Request) -> Plan:
    if not 0 < request.c <= 1:
        raise ValueError(f"recombine needs c in [0, 1]; c is {request.c}")
    if request.free_scale:
        raise ValueError("recombine needs singular values <= sigma, which a number for scale does not promise")
    if request.eps is None:
        raise ValueError("recombine needs eps as a Python number: its weights depend on it")
    bf16 = jnp.finfo(request.dtype).bits < 32
    # On square matrices A_k X_k joins the basis at the cost of a fifth of a product a step: after the plain basis.
    bases = (False, True) if request.rows == request.columns and not request.gram else (False,)
    fixed = isinstance(request.schedule, tuple)
    best = math.inf
    for steps in range(1, 2 if fixed else _MAX_RECOMBINE_STEPS + 1):
        for products in bases[-1:] if fixed else bases:
            floor = request.eps or request.lower
            pool = [request.schedule] if fixed else candidates(floor, steps, products, **_margin(request))
            for error, amplification, schedule, alpha in sorted(_fits(request, pool, products)):
                rounding = _bf16_rounding(request, amplification) if bf16 else 4 * request.unit * amplification
                best = min(best, error + rounding)
                if error + rounding <= request.tol or fixed:
                    found = Plan("newton_schulz", schedule=schedule, alpha=alpha, error=error + rounding)
                    return _layout(found, amplification, request)
    raise _unattainable("recombine", request, best)


def _fits(request: Request, pool, products: bool):
    for schedule in pool:
        try:
            fit = recombination(request.c, request.lower, schedule, eps=request.eps, products=products)
        except ValueError:  # this schedule diverges or does not level: another one may serve
            continue
        yield fit.error, fit.amplification, schedule, fit.alpha


def _layout(found: Plan, amplification: float, request: Request) -> Plan:
    """Gram iteration or plain, and where to restart, from its extra rounding error ``3 u kappa^2`` and its products."""
    steps, rows, columns = len(found.schedule), request.rows, request.columns
    extra = 3 * request.unit * max(1.0, amplification) / request.floor**2
    products = found.alpha is not None and len(found.alpha) > steps + 1
    if request.gram is False or products or jnp.finfo(request.dtype).bits < 32 or steps < 2:
        if request.gram and steps >= 2:
            raise ValueError("gram=True needs float32 or float64 and a matrix that is not square")
        return found
    explicit = found.alpha is None and not found.error
    if explicit:  # no promise to keep; the growth of small values bounds the harm (jordan: 3 u 485^2 = 4e-2)
        extra, room = 3 * request.unit * math.prod(triple[0] for triple in found.schedule) ** 2, 5e-2
    else:
        room = max(request.tol - found.error, request.tol / 2)
    # Costs in products of m x m matrices; Hermitian ones cost 0.85. A smaller gain is not worth the rounding.
    ratio, squares = columns / rows, sum(triple[2] != 0 for triple in found.schedule)
    enough = 0.85 * (2 * ratio * steps + 0.8 * squares)
    restart, gain = (2, 60) if steps <= 5 else (3, 100)
    fits, fits_restarted = extra <= room, steps >= 4 and extra / gain <= room
    if request.gram and not (fits or fits_restarted):
        raise ValueError(
            f"gram=True would add a relative error of about {extra:.1e} in {request.dtype}, and tol leaves {room:.1e}; "
            "expected a larger lower or tol, or gram=None"
        )
    if fits and (request.gram or 2 * ratio + 0.8 * (3 * steps - 3 + squares) < enough):
        return found._replace(gram=True, error=found.error + (0 if explicit else extra))
    if fits_restarted and (request.gram or 4 * ratio + 0.8 * (3 * steps - 6 + squares) < enough):
        return found._replace(gram=True, restart=restart, error=found.error + (0 if explicit else extra / gain))
    return found


def _polar_steps(request: Request, tol: float) -> tuple[QDWHStep, ...]:
    low = max(request.floor, _QDWH_FLOOR[str(request.dtype)])
    return qdwh_schedule(low, tol)


def _no_low_precision(name: str, request: Request) -> None:
    if jnp.finfo(request.dtype).bits < 32:
        raise ValueError(f"{name} factorises and dtype is {request.dtype}; expected float32 or float64")


def _qdwh(request: Request) -> Plan:
    _no_low_precision("qdwh", request)
    if request.c != 0.5:
        raise ValueError(f"qdwh computes the polar factor only (c = 1/2); c is {request.c}, use rational")
    rounding = 30 * request.unit
    if request.tol <= rounding:
        raise _unattainable("qdwh", request, rounding)
    return Plan("qdwh", steps=_polar_steps(request, request.tol - rounding), error=request.tol)


def _rational(request: Request) -> Plan:
    """The Gram form where squaring is harmless, else the polar form, with the composite root where it applies."""
    for planner in (_rational_gram, _rational_roots, _rational_polar):
        try:
            return planner(request)
        except ValueError:
            if planner is _rational_polar:
                raise
    raise AssertionError


def _poles_of_power(request: Request, tol: float) -> PoleSum:
    if request.eps is None:
        raise ValueError("rational needs eps as a Python number: its poles depend on it; qdwh and svd do not")
    if not 0 < request.c <= 1 or (request.c == 1 and not request.eps):
        raise ValueError(f"this form of rational needs c in (0, 1), or c = 1 with eps > 0; c is {request.c}")
    if request.free_scale:
        raise ValueError("this form of rational needs singular values <= sigma; a number for scale does not promise it")
    delta = request.eps**2 / (1 + request.eps**2) if request.eps else request.lower**2
    return PoleSum((0.0,), (1.0,), 0.0) if request.c == 1 else power_poles(request.c, delta, tol=tol)


def _rational_gram(request: Request) -> Plan:
    _no_low_precision("rational_gram", request)
    floor = request.eps or request.lower
    rounding = request.unit / floor**2
    poles = _poles_of_power(request, max(request.tol - 2 * rounding, request.tol / 2))
    # Rounding of the Gram matrix, in norm u sqrt(m), must not make the least shifted matrix indefinite.
    definite = poles.t[0] + (request.eps or 0.0) ** 2 >= 4 * request.unit * request.rows**0.5
    if rounding > request.tol / 2 or not definite:
        raise _unattainable("rational_gram", request, 2 * max(rounding, request.tol * (not definite)))
    return Plan("rational_gram", tail=poles, error=poles.error + rounding)


def _rational_qr(request: Request) -> Plan:
    _no_low_precision("rational_qr", request)
    poles = _poles_of_power(request, request.tol / 2)
    rounding = 10 * request.unit / (request.eps or request.lower)
    if rounding > request.tol / 2:
        raise _unattainable("rational_qr", request, rounding + poles.error)
    return Plan("rational_qr", tail=poles, error=poles.error + rounding)


def _polar_rounding(request: Request) -> float:
    """``H`` is exact to about ``u``, hence its smallest eigenvalue to ``u / floor``; measured constants."""
    exponent = 1 - 2 * request.c
    return request.unit / request.floor * (20 * -exponent if exponent < 0 else 2 * (1 - exponent)) + 30 * request.unit


def _rational_polar(request: Request) -> Plan:
    _no_low_precision("rational_polar", request)
    _, c = peel(request.c)
    rounding = _polar_rounding(request)
    if rounding > 0.7 * request.tol:
        raise _unattainable("rational_polar", request, rounding / 0.7)
    tail, error = None, 0.0
    if c not in (0.5, 1):
        tail = power_poles(abs(1 - 2 * c) if c > 0.5 else 2 * c, request.floor, tol=request.tol / 8)
        error = tail.error
    # The error of the polar factor enters Y once and H once.
    steps = _polar_steps(request, request.tol / 16)
    return Plan("rational_polar", steps=steps, tail=tail, error=error + request.tol / 8 + rounding)


def _rational_roots(request: Request) -> Plan:
    _no_low_precision("rational_roots", request)
    root = 1 / (2 * request.c - 1) if request.c > 0.5 else 0.0
    if not 0.5 < request.c < 1 or abs(root - round(root)) > 1e-9:
        raise ValueError(f"rational_roots needs 1 - 2c = -1/b with an integer b >= 2; c is {request.c}")
    rounding = _polar_rounding(request)
    if rounding > 0.7 * request.tol:
        raise _unattainable("rational_roots", request, rounding / 0.7)
    roots = root_schedule(round(root), request.floor, request.tol / 8)
    steps = _polar_steps(request, request.tol / 16)
    return Plan("rational_polar", steps=steps, tail=roots.steps, error=roots.errors[-1] + request.tol / 8 + rounding)


_PLANNERS = {
    "svd": lambda request: Plan("svd"),
    "eigh": lambda request: Plan("eigh"),
    "newton_schulz": _newton_schulz,
    "recombine": _recombine,
    "qdwh": _qdwh,
    "rational": _rational,
    "rational_gram": _rational_gram,
    "rational_qr": _rational_qr,
    "rational_polar": _rational_polar,
    "rational_roots": _rational_roots,
}
