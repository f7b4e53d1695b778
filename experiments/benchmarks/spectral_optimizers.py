"""Maps of spectral optimisers against optax's Newton-Schulz, and the factorising engines against JAX's own.

All matrices are float32 with singular values spaced evenly in the logarithm from 1 to 1e-2, so that a time stands
next to the worst relative error of a singular value at condition number 1e2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from optax.contrib import MuonDimensionNumbers
from optax.contrib import scale_by_muon as optax_scale_by_muon
from optax.contrib._muon import orthogonalize_via_newton_schulz

from experiments.benchmarks.frame import Contestant, Row, at_most, faster
from jaxspec.linalg import polar, spectral_power
from jaxspec.linalg.coefficients import JORDAN, recombination
from jaxspec.linalg.coefficients.shipped import candidates
from jaxspec.optim import scale_by_muon

KAPPA, LOWER = 1e2, 0.95e-2  # sigma = 1.05 s_max under the scale "spectral"


class _Problem:
    """A matrix of known factors, and the error of a map of it."""

    def __init__(self, rows: int, columns: int, kappa: float = KAPPA):
        rng = np.random.default_rng(0)
        self.u = np.linalg.qr(rng.normal(size=(rows, rows)))[0]
        self.v = np.linalg.qr(rng.normal(size=(columns, rows)))[0]
        self.s = np.geomspace(1, 1 / kappa, rows)
        self.x = jnp.asarray((self.u * self.s) @ self.v.T, jnp.float32)

    def quality(self, exponent: float) -> Callable[[Any], dict[str, float]]:
        expected = self.s**exponent

        def measure(output: Any) -> dict[str, float]:
            out = np.asarray(output, np.float64)
            diagonal = np.einsum("ik,ij,jk->k", self.u, out, self.v, optimize=True)
            leak = np.linalg.norm(out - (self.u * diagonal) @ self.v.T, 2) / expected.max()
            return {"worst relative error": float(np.abs(diagonal / expected - 1).max()), "leakage": float(leak)}

        return measure

    def contestant(self, function: Callable, settings: str, exponent: float = 0.0) -> Contestant:
        return Contestant(partial(function, self.x), settings, quality=self.quality(exponent))


def _optax(problem: _Problem) -> Contestant:
    coefficients = jnp.array(JORDAN[0])

    def function(x):
        return orthogonalize_via_newton_schulz(x, coefficients, 5, "frobenius", 1e-8, MuonDimensionNumbers())

    return problem.contestant(jax.jit(function), "optax.contrib.muon 0.2.8, five jordan steps")


def jordan_row(rows: int, columns: int, times: float) -> Row:
    """The same five steps."""
    problem = _Problem(rows, columns)
    ours = partial(polar, engine="newton_schulz", schedule="jordan")
    return Row(
        f"Five jordan steps of Newton-Schulz, {rows}×{columns} float32",
        problem.contestant(ours, "polar, schedule jordan, the form the planner picks"),
        {"optax": _optax(problem)},
        aims=(faster("optax", times),),
    )


def muon_row(rows: int, columns: int) -> Row:
    """Polar factor to 1e-2."""
    problem = _Problem(rows, columns)
    ours = partial(polar, tol=1e-2, lower=LOWER, scale="spectral")
    return Row(
        f"Polar factor to 1e-2 at condition number 1e2, {rows}×{columns} float32",
        problem.contestant(ours, "polar, tol 1e-2, scale spectral"),
        {"optax": _optax(problem)},
        aims=(at_most("optax", 0.7),),
    )


def freon_row(rows: int, columns: int, tol: float) -> Row:
    """Power -1/2 by recombination."""
    problem = _Problem(rows, columns)
    ours = partial(spectral_power, c=0.75, engine="recombine", tol=tol, lower=LOWER, scale="spectral")
    return Row(
        f"Inverted spectrum, c = 3/4, to {tol:g} at condition number 1e2, {rows}×{columns} float32",
        problem.contestant(ours, f"spectral_power, recombine, tol {tol:g}, scale spectral", -0.5),
        {
            "optax": _optax(problem),
            "svd": problem.contestant(_svd_power(-0.5), "jax.numpy.linalg.svd, thin, and a product", -0.5),
        },
        aims=(at_most("optax", 1.0),),
    )


def same_steps_row(rows: int, columns: int) -> Row:
    """What the combination adds to the iteration it combines."""
    problem = _Problem(rows, columns)
    pool = candidates(LOWER, 6, products=False)
    same = {
        "schedule": min(pool, key=lambda schedule: recombination(0.75, LOWER, schedule).error),
        "scale": "spectral",
        "lower": LOWER,
        "gram": columns >= 2 * rows,
    }
    recombined = partial(spectral_power, c=0.75, engine="recombine", **same)
    last = partial(polar, engine="newton_schulz", **same)
    return Row(
        f"Six steps and their combination against the six steps alone, {rows}×{columns} float32",
        problem.contestant(recombined, "spectral_power, c = 3/4, recombine, six given steps", -0.5),
        {"same_steps": problem.contestant(last, "polar, newton_schulz, the same six steps")},
        aims=(at_most("same_steps", 1.1),),
    )


def _svd_power(exponent: float) -> Callable:
    def function(x):
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        return jnp.matmul(u * s**exponent, vt, precision=lax.Precision.HIGHEST)

    return jax.jit(function)


def qdwh_row(kappa: float) -> Row:
    """Polar factor to float32 accuracy."""
    problem = _Problem(256, 512, kappa)
    frobenius = 0.99 / kappa / float(np.linalg.norm(problem.s))
    # Below 1e-5 the float32 schedule promises nothing: there the dearer, tighter scale.
    bound = {"lower": frobenius} if frobenius > 1e-5 else {"lower": 0.95 / kappa, "scale": "spectral"}
    ours = partial(polar, engine="qdwh", tol=1e-4, **bound)

    def peer(x):
        return lax.linalg.qdwh(x.T, is_hermitian=False)[0].T

    return Row(
        f"Polar factor by QDWH, 256×512 float32, condition number {kappa:g}",
        problem.contestant(ours, "polar, engine qdwh, tol 1e-4"),
        {"jax_qdwh": problem.contestant(jax.jit(peer), "jax.lax.linalg.qdwh of the transpose")},
        aims=(faster("jax_qdwh", 1.5),),
    )


def rational_row() -> Row:
    """Power -1/3 by resolvents of the Gram matrix."""
    problem = _Problem(256, 512)
    ours = partial(spectral_power, c=2 / 3, engine="rational_gram", tol=2e-3, lower=LOWER, scale="spectral")
    return Row(
        "Spectral power -1/3, 256×512 float32, condition number 1e2",
        problem.contestant(ours, "spectral_power, rational_gram, tol 2e-3", -1 / 3),
        {"svd": problem.contestant(_svd_power(-1 / 3), "jax.numpy.linalg.svd, thin, and a product", -1 / 3)},
        aims=(at_most("svd", 0.6),),
    )


def tree_row(compilation: bool) -> Row:
    """The update of all block matrices of a transformer, every matrix a leaf of its own; or its compilation."""
    layers, width = 12, 256
    shapes = dict.fromkeys("qkvo", (width, width)) | {"up": (width, 4 * width), "down": (4 * width, width)}
    keys = iter(jax.random.split(jax.random.key(0), layers * len(shapes)))
    grads = [{name: jax.random.normal(next(keys), shape) for name, shape in shapes.items()} for _ in range(layers)]
    dims = jax.tree.map(lambda _: MuonDimensionNumbers(), grads)

    def contestant(tx: Any, settings: str) -> Contestant:
        state = tx.init(grads)
        step = jax.jit(tx.update)

        def compiled() -> None:
            jax.jit(lambda grads, state: tx.update(grads, state)).lower(grads, state).compile()

        return Contestant(compiled if compilation else partial(step, grads, state), settings)

    what = "Compilation of the update" if compilation else "Update"
    return Row(
        f"{what} of {layers} layers of width {width} (four square matrices, two of four times the width), float32",
        contestant(scale_by_muon(engine="newton_schulz", schedule="jordan"), "scale_by_muon, five jordan steps"),
        {
            "optax": contestant(
                optax_scale_by_muon(weight_dimension_numbers=dims),
                "optax.contrib.scale_by_muon 0.2.8, five jordan steps",
            )
        },
        "compilation" if compilation else "update",
        (at_most("optax", 0.4) if compilation else faster("optax", 2.5),),
    )


_SHAPES = {"256x512": (256, 512), "768x3072": (768, 3072), "768x768": (768, 768)}
ROWS: dict[str, Callable[[], Row]] = {
    "jordan_256x512": partial(jordan_row, 256, 512, 1.8),
    "jordan_768x3072": partial(jordan_row, 768, 3072, 3.5),
    **{f"muon_{name}": partial(muon_row, *shape) for name, shape in _SHAPES.items()},
    **{f"freon_{name}": partial(freon_row, *shape, 3e-3) for name, shape in _SHAPES.items()},
    "same_steps_256x512": partial(same_steps_row, 256, 512),
    "same_steps_768x3072": partial(same_steps_row, 768, 3072),
    "qdwh_1e2": partial(qdwh_row, 1e2),
    "qdwh_1e3": partial(qdwh_row, 1e3),
    "qdwh_1e5": partial(qdwh_row, 1e5),
    "rational_256x512": rational_row,
    "tree_12_layers": partial(tree_row, False),
    "tree_12_layers_compilation": partial(tree_row, True),
}
