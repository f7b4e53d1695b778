"""Accuracy and cost of every engine: the errors that theory states, and error against time in matrix products.

First, in float64, each iteration cut after every number of steps, against the tables of the specification. Then, in
float32 and bfloat16, every engine on matrices of known factors over a range of condition numbers, beside optax's
orthogonalisation and JAX's own QDWH. Times are in units of one m x m x n product measured in the same rounds; they are
shown, and no claim rests on them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from optax.contrib import MuonDimensionNumbers
from optax.contrib._muon import orthogonalize_via_newton_schulz

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, MARKERS, subplots
from experiments.spectral_optimizers._attained_errors import (
    POLES,
    QDWH,
    QUINTICS,
    ROOTS,
    SUMS,
    TABLE,
    Spectral,
    attained,
    spectral_matrix,
)
from jaxspec.linalg import polar, spectral_map, spectral_power
from jaxspec.linalg.coefficients import JORDAN

SOURCE = "specification, sections 3.2, 3.3 and 8"
SINGLE, HALF = "float32", "bfloat16"
OPTAX, JAX_QDWH, OURS_JORDAN, OURS_QDWH = "optax, 5 steps", "jax QDWH", "jordan, 5 steps", "qdwh"
OPTAX_STATED = ((1e2, 0.32), (1e3, 0.89), (1e5, 1.0))  # worst error of optax's five steps at a condition number


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    seed: int = 0
    table_rows: int = 48  # short side of the float64 matrices
    table_columns: int = 64
    rows: int = 128  # short side m of the float32 and bfloat16 matrices
    columns: int = 256  # long side n
    kappas: tuple[float, ...] = (1e1, 1e2, 1e3, 1e5)  # condition numbers
    rounds: int = 3  # in which everything is timed once
    product_tol: float = 1e-2  # asked of the engines made of matrix products
    rational_tol: float = 2e-3  # of the rational engines
    qdwh_tol: float = 1e-4
    half_tol: float = 5e-2  # of every engine in bfloat16


PRESETS = {"quick": Config(), "full": Config(rows=1024, columns=4096, kappas=(1e1, 1e2, 1e3, 1e4, 1e5), rounds=10)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        families: iteration of every row of the tables, shape (T,).
        table: condition number, parameter, steps, stated and attained error of every row, shape (T, 5).
        engines: names, shape (E,).
        exponents: of the singular values: 0, the polar factor, or -1/3, shape (E,).
        dtypes: names, shape (E,).
        tolerances: asked for; NaN where none can be asked for, shape (E,).
        kappas: condition numbers, shape (K,).
        errors: worst relative error of a singular value; infinite where it is not a number, NaN where the engine says
            beforehand that it cannot meet the tolerance, shape (E, K).
        costs: median time in units of one m x m x n product in the same precision, NaN likewise, shape (E, K).
    """

    families: Any
    table: Any
    engines: Any
    exponents: Any
    dtypes: Any
    tolerances: Any
    kappas: Any
    errors: Any
    costs: Any


class Engine(NamedTuple):
    """One way to compute a map.

    Attributes:
        name: for figures.
        exponent: of the singular values.
        dtype: it computes in.
        tolerance: asked for, or NaN.
        call: ``(x, kappa) -> image``.
    """

    name: str
    exponent: float
    dtype: str
    tolerance: float
    call: Callable[..., Array]


def engines(config: Config) -> list[Engine]:
    """All engines under test."""

    def polar_with(name: str, engine: str, tol: float, **options: Any) -> Engine:
        call = partial(_bounded, polar, engine=engine, tol=tol, **options)
        return Engine(name, 0.0, SINGLE, tol, call)

    def power_with(name: str, engine: str, tol: float, **options: Any) -> Engine:
        call = partial(_bounded, spectral_power, c=2 / 3, engine=engine, tol=tol, **options)
        return Engine(name, -1 / 3, SINGLE, tol, call)

    def half(name: str, exponent: float, function: Callable, **options: Any) -> Engine:
        call = partial(_bounded, function, tol=config.half_tol, dtype=jnp.bfloat16, **options)
        return Engine(name, exponent, HALF, config.half_tol, call)

    tol = config.product_tol
    return [
        Engine("svd", 0.0, SINGLE, math.nan, lambda x, kappa: spectral_map(x, jnp.ones_like, rcond=0.0)),
        Engine(OPTAX, 0.0, SINGLE, math.nan, lambda x, kappa: _optax(x)),
        Engine(JAX_QDWH, 0.0, SINGLE, math.nan, lambda x, kappa: _jax_qdwh(x)),
        Engine(
            OURS_JORDAN,
            0.0,
            SINGLE,
            math.nan,
            lambda x, kappa: polar(x, engine="newton_schulz", schedule="jordan", gram=False),
        ),
        polar_with("classical", "newton_schulz", tol, schedule="classical", gram=False),
        polar_with("optimal", "newton_schulz", tol, schedule="optimal", gram=False),
        polar_with("optimal, Gram form", "newton_schulz", tol, schedule="optimal", gram=True),
        polar_with("recombine", "recombine", tol, gram=False),
        polar_with(OURS_QDWH, "qdwh", config.qdwh_tol),
        Engine("svd", -1 / 3, SINGLE, math.nan, lambda x, kappa: spectral_map(x, _inverse_cube_root, rcond=0.0)),
        power_with("recombine", "recombine", tol, gram=False),
        power_with("recombine, Gram form", "recombine", tol, gram=True),
        *(power_with(f"rational, {form}", f"rational_{form}", config.rational_tol) for form in _FORMS),
        half("optimal", 0.0, polar, engine="newton_schulz", schedule="optimal"),
        half("recombine", 0.0, polar, engine="recombine"),
        half("recombine", -1 / 3, spectral_power, c=2 / 3, engine="recombine"),
    ]


_FORMS = ("gram", "qr", "polar", "roots")


def _bounded(function: Callable, x: Array, kappa: float, **options: Any) -> Array:
    # sigma is 1.05 times an estimate of the largest singular value, so that the smallest is 1/(1.05 kappa) of it
    return function(x, scale="spectral", lower=0.94 / kappa, **options)


def _inverse_cube_root(s: Float[Array, "*batch r"]) -> Float[Array, "*batch r"]:
    return jnp.where(s > 0, jnp.where(s > 0, s, 1) ** (-1 / 3), 0)


@jax.jit
def _optax(x: Array) -> Array:
    coefficients = jnp.array(JORDAN[0])
    return orthogonalize_via_newton_schulz(x, coefficients, 5, "frobenius", 1e-8, MuonDimensionNumbers())


@jax.jit
def _jax_qdwh(x: Array) -> Array:
    return lax.linalg.qdwh(x.T, is_hermitian=False)[0].T  # tall matrices only


def run(config: Config, progress: Progress) -> Result:
    """The tables in float64, then errors and times of all engines."""
    families, table = _tables(config, progress)
    found = engines(config)
    errors, costs = [], []
    with progress.stage("condition numbers", total=len(config.kappas)):
        for kappa in config.kappas:
            column = _measure(config, found, kappa)
            errors.append(column[0])
            costs.append(column[1])
            progress.advance(message=f"kappa = {kappa:g}")
    names, exponents, dtypes, tolerances, _ = zip(*found, strict=True)
    return Result(
        *(families, table, np.asarray(names), np.asarray(exponents), np.asarray(dtypes), np.asarray(tolerances)),
        kappas=np.asarray(config.kappas),
        errors=np.stack(errors, axis=-1),
        costs=np.stack(costs, axis=-1),
    )


def _tables(config: Config, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(True):
        sides = (config.table_rows, config.table_columns)
        matrices = {kappa: spectral_matrix(config.seed, *sides, kappa) for kappa in {row.kappa for row in TABLE}}
        measured = [attained(row, matrices[row.kappa]) for row in progress.track("rows of the tables", TABLE)]
    rows = [(*row[1:], error) for row, error in zip(TABLE, measured, strict=True)]
    return np.asarray([row.family for row in TABLE]), np.asarray(rows, float)


def _measure(config: Config, found: list[Engine], kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors and costs of all engines at one condition number."""
    with jax.enable_x64(True):
        exact = spectral_matrix(config.seed, config.rows, config.columns, kappa)
    inputs = {dtype: exact.x.astype(dtype) for dtype in (SINGLE, HALF)}
    errors, calls = np.full(len(found), np.nan), {}
    for number, engine in enumerate(found):
        # bfloat16 input would round the spectrum itself: what is measured is the arithmetic of the engine
        call = partial(engine.call, inputs[SINGLE], kappa)
        try:
            image = call()
        except ValueError:
            continue  # the engine states beforehand that it cannot meet the tolerance
        errors[number], calls[number] = _error(exact, image, engine.exponent), call
    products = {dtype: partial(_product, inputs[dtype][:, : config.rows], inputs[dtype]) for dtype in inputs}
    for call in products.values():
        call()
    seconds = [{key: _seconds(call) for key, call in (products | calls).items()} for _ in range(config.rounds)]
    costs = np.full(len(found), np.nan)
    for number in calls:
        ratios = [round_[number] / round_[found[number].dtype] for round_ in seconds]
        costs[number] = np.median(ratios)
    return errors, costs


@jax.jit
def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _error(exact: Spectral, image: Array, exponent: float) -> float:
    with jax.enable_x64(True):
        error = float(exact.relative_error(jnp.asarray(np.asarray(image, np.float64)), exact.s**exponent))
    return error if math.isfinite(error) else math.inf


def _seconds(call: Callable[[], Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def claims(result: Result) -> list[Claim]:
    """The tables, the peers, and that no engine promises more than it keeps."""
    *_, stated, reached = result.table.T
    rows = []
    for family in (QDWH, ROOTS, POLES, QUINTICS, SUMS):
        chosen = result.families == family
        rows.append(
            Claim.at_most(
                f"The errors stated for {family} are attained, step by step ({chosen.sum()} entries)",
                SOURCE,
                np.abs(reached[chosen] / stated[chosen] - 1),
                0.05,
                quantity="|attained / stated - 1|",
            )
        )
    error = {
        (name, dtype, round(exponent, 3)): values
        for name, dtype, exponent, values in zip(
            result.engines, result.dtypes, result.exponents, result.errors, strict=True
        )
    }
    theirs, ours = error[OPTAX, SINGLE, 0.0], error[OURS_JORDAN, SINGLE, 0.0]
    for kappa, value in OPTAX_STATED:
        place = np.flatnonzero(result.kappas == kappa)
        if not place.size:
            continue
        statement = f"The five steps of optax leave singular values wrong by {value:g} at condition number {kappa:g}"
        rows.append(Claim.close_to(statement, SOURCE, theirs[place], value, 0.05, quantity="worst relative error"))
    rows += [
        Claim.at_most(
            "Our five steps are optax's", SOURCE, np.abs(ours - theirs), 1e-2, quantity="difference of worst errors"
        ),
        Claim.at_most(
            "QDWH needs no mild conditioning", SOURCE, error[OURS_QDWH, SINGLE, 0.0], 1e-4, quantity="worst error"
        ),
        *_promises(result),
    ]
    return rows


def _promises(result: Result) -> list[Claim]:
    """Errors over the tolerance asked for, wherever the engine accepted the request."""
    forced = np.asarray(["Gram form" in name for name in result.engines])  # asked for by the caller, unchecked
    mild = np.broadcast_to(result.kappas <= 1e2, result.errors.shape)
    asked = np.isfinite(result.tolerances) & ~forced
    rows = []
    for dtype, where, text in (
        (SINGLE, np.ones_like(mild), "float32"),
        (HALF, mild, "bfloat16, condition numbers up to 1e2"),
        (HALF, ~mild, "bfloat16, larger condition numbers"),
    ):
        chosen = where & (asked & (result.dtypes == dtype))[:, None]
        ratios = (result.errors / result.tolerances[:, None])[chosen]
        accepted = ratios[~np.isnan(ratios)]
        statement = f"An engine that accepts a tolerance meets it ({text}: {accepted.size} of {ratios.size} requests)"
        if ratios.size:  # where all are refused no promise is broken
            quantity = "error / tolerance"
            rows.append(Claim.at_most(statement, SOURCE, accepted.max(initial=0.0), 1.0, quantity=quantity))
    return rows


def figures(result: Result) -> dict[str, Figure]:
    """Error against condition number, error against cost, and attained against stated errors."""
    return {
        "Worst relative error of a singular value against the condition number": _against(result, cost=False),
        "Worst relative error against time, in m x m x n products; condition number 1e2, 1e3, 1e5 by size": _against(
            result, cost=True
        ),
        "Attained errors over those stated by theory, float64": _table_figure(result),
    }


def _against(result: Result, *, cost: bool) -> Figure:
    figure, axes = subplots(1, 3, size=(4.4, 4.2), sharey=True)
    panels = ((SINGLE, 0.0), (SINGLE, -1 / 3), (HALF, None))
    for axis, (dtype, exponent) in zip(axes[0], panels, strict=True):
        chosen = [
            e
            for e in range(len(result.engines))
            if result.dtypes[e] == dtype and (exponent is None or np.isclose(result.exponents[e], exponent))
        ]
        for place, e in enumerate(chosen):
            errors = np.minimum(result.errors[e], 10.0)  # NaN stays: refused
            name = (
                result.engines[e] if exponent is not None else f"{result.engines[e]}, power {result.exponents[e]:.2g}"
            )
            style = {"color": COLORS[place % 7], "marker": MARKERS[(place * 3 + place // 7) % 7], "label": name}
            if cost:
                sizes = 25.0 * np.log10(result.kappas)
                axis.scatter(result.costs[e], errors, s=sizes, alpha=0.7, **style)
            else:
                axis.plot(result.kappas, errors, **style)
        axis.set(xscale="log", yscale="log", ylim=(1e-8, 20))
        axis.set_title(dtype if exponent is None else f"{dtype}, {'power -1/3' if exponent else 'polar factor'}")
        axis.set_xlabel("time / time of one product" if cost else "condition number")
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("worst relative error")
    return figure


def _table_figure(result: Result) -> Figure:
    figure, axes = subplots(size=(5.4, 3.8))
    *_, stated, reached = result.table.T
    for family, color, marker in zip(dict.fromkeys(result.families), COLORS, MARKERS, strict=False):
        chosen = result.families == family
        axes[0, 0].semilogx(stated[chosen], reached[chosen] / stated[chosen], marker, color=color, label=family)
    axes[0, 0].axhspan(0.95, 1.05, color="#EEEEEE")
    axes[0, 0].set(xlabel="stated error", ylabel="attained / stated")
    axes[0, 0].legend()
    return figure
