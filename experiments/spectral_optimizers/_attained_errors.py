"""Attained errors of the iterations: what theory states, and what the library's own steps reach in float64.

Every row is one iteration cut after a number of steps (or with a number of poles), run on a matrix whose singular
values fill ``[1/kappa, 1]`` from end to end: the errors of all these functions are attained at the ends.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxspec.linalg.coefficients import ns_schedule, power_poles, qdwh_weights, recombination, root_schedule
from jaxspec.linalg.decompositions import qr
from jaxspec.linalg.newton_schulz import iterate
from jaxspec.linalg.qdwh import halley
from jaxspec.linalg.rational import gram_power, inverse_root

_HIGHEST = lax.Precision.HIGHEST
QDWH, ROOTS, POLES, QUINTICS, SUMS = "QDWH", "inverse roots", "pole sums", "optimal quintics", "recombination"


class Row(NamedTuple):
    """One entry of the tables.

    Attributes:
        family: which iteration.
        kappa: condition number.
        parameter: ``b`` of the root ``y^(-1/b)``, the exponent c, or 0.
        steps: of the iteration, or poles.
        stated: its largest relative error in exact arithmetic, to the two digits of the specification.
    """

    family: str
    kappa: float
    parameter: float
    steps: int
    stated: float


TABLE = (
    *(Row(QDWH, 1e1, 0, k, e) for k, e in ((1, 1.3e-1), (2, 4.7e-5))),
    *(Row(QDWH, 1e2, 0, k, e) for k, e in ((1, 4.9e-1), (2, 4.8e-3), (3, 1.8e-9))),
    *(Row(QDWH, 1e3, 0, k, e) for k, e in ((1, 7.5e-1), (2, 3.7e-2), (3, 8.4e-7))),
    *(Row(QDWH, 1e4, 0, k, e) for k, e in ((2, 1.1e-1), (3, 2.8e-5))),
    *(Row(QDWH, 1e5, 0, k, e) for k, e in ((2, 2.3e-1), (3, 2.6e-4))),
    *(Row(ROOTS, 1e1, b, 1, e) for b, e in ((2, 1.1e-2), (3, 8.7e-3))),
    *(Row(ROOTS, 1e3, b, k, e) for b, k, e in ((2, 2, 4.1e-4), (3, 2, 5.4e-4), (4, 1, 1.2e-1), (4, 2, 5.0e-4))),
    *(Row(ROOTS, 1e5, b, 2, e) for b, e in ((2, 8.0e-3), (3, 1.0e-2), (4, 9.4e-3))),
    *(Row(POLES, 1e1, 2 / 3, n, e) for n, e in ((2, 1.7e-2), (3, 1.1e-3), (4, 7.8e-5))),
    *(Row(POLES, 1e2, 2 / 3, n, e) for n, e in ((4, 4.8e-3), (6, 1.8e-4))),
    Row(POLES, 1e2, 3 / 4, 4, 3.9485e-3),
    *(Row(POLES, 1e3, c, n, e) for c, n, e in ((2 / 3, 6, 2.76e-3), (2 / 3, 9, 7.8e-5), (1 / 2, 6, 3.2e-3))),
    *(Row(POLES, 1e4, 2 / 3, n, e) for n, e in ((8, 2.0e-3), (12, 4.9e-5))),
    *(Row(QUINTICS, 1e1, 0, k, e) for k, e in ((1, 0.45), (2, 0.063), (3, 1.5e-4))),
    *(Row(QUINTICS, 1e2, 0, k, e) for k, e in ((1, 0.92), (2, 0.71), (3, 0.27), (4, 1.3e-2), (5, 1.2e-6))),
    *(Row(QUINTICS, 1e3, 0, k, e) for k, e in ((3, 0.86), (4, 0.55), (5, 0.11), (6, 9.2e-4))),
    *(Row(QUINTICS, 1e5, 0, k, e) for k, e in ((8, 0.17), (9, 3.3e-3), (10, 2.3e-8))),
    *(Row(SUMS, 1e2, c, 5, e) for c, e in ((3 / 4, 6.0e-2), (2 / 3, 4.5e-2), (1 / 2, 2.6e-2), (1 / 4, 8.8e-3))),
    *(Row(SUMS, 1e2, c, 6, e) for c, e in ((3 / 4, 1.2e-2), (2 / 3, 6.4e-3), (1 / 2, 3.0e-3), (1 / 4, 2.1e-3))),
    *(Row(SUMS, 1e3, c, 8, e) for c, e in ((3 / 4, 2.1e-2), (2 / 3, 1.4e-2), (1 / 2, 7.0e-3), (1 / 4, 3.0e-3))),
    *(Row(SUMS, 1e3, c, 10, e) for c, e in ((3 / 4, 1.8e-3), (2 / 3, 1.2e-3), (1 / 2, 3.9e-4), (1 / 4, 2.4e-4))),
)
# The constant quintics of the recombination rows, by number of steps.
_BASES = {5: (2.8, -2.8, 1.0), 6: (2.6, -2.3, 0.7), 8: (2.6, -2.4, 0.8), 10: (2.2, -1.7, 0.5)}


class Spectral(NamedTuple):
    """A wide matrix with known factors, ``x = u diag(s) v^T``.

    Attributes:
        x: the matrix.
        u: left factors, square.
        s: singular values, evenly spaced in the logarithm from 1 to ``1/kappa``.
        v: right factors.
    """

    x: Float[Array, "m n"]
    u: Float[Array, "m m"]
    s: Float[Array, " m"]
    v: Float[Array, "n m"]

    def relative_error(self, image: Float[Array, "m n"], expected: Float[Array, " m"]) -> Float[Array, ""]:
        """Largest relative error of the singular values of an image ``u diag(expected) v^T``."""
        diagonal = jnp.sum((self.u.T @ image.astype(self.u.dtype)) * self.v.T, axis=-1)
        return jnp.max(jnp.abs(diagonal / expected - 1))


def spectral_matrix(seed: int, rows: int, columns: int, kappa: float) -> Spectral:
    """A matrix of given condition number, in the widest precision that is enabled.

    Args:
        seed: of the factors.
        rows: short side.
        columns: long side.
        kappa: condition number.

    Returns:
        The matrix and its factors.
    """
    rng = np.random.default_rng(seed)
    u, _ = qr(jnp.asarray(rng.normal(size=(rows, rows))))
    v, _ = qr(jnp.asarray(rng.normal(size=(columns, rows))), after=u)
    s = jnp.asarray(np.geomspace(1, 1 / kappa, rows))
    return Spectral((u * s) @ v.T, u, s, v)


def attained(row: Row, matrix: Spectral) -> float:
    """Largest relative error of a singular value after the steps of a row.

    Args:
        row: which iteration.
        matrix: of the row's condition number; float64, or the small errors drown in rounding.

    Returns:
        The error.
    """
    low, x = 1 / row.kappa, matrix.x
    if row.family == QDWH:
        steps = [qdwh_weights(low)]
        while len(steps) < row.steps:
            steps.append(qdwh_weights(steps[-1].l))
        return float(matrix.relative_error(halley(x, steps, _HIGHEST), jnp.ones_like(matrix.s)))
    if row.family == QUINTICS:
        image = iterate(x, None, ns_schedule(low, row.steps), None, _HIGHEST)
        return float(matrix.relative_error(image, jnp.ones_like(matrix.s)))
    if row.family == POLES:
        poles = power_poles(row.parameter, low**2, row.steps)
        image = gram_power(x, x @ x.T, row.parameter, 0.0, poles, _HIGHEST)
        return float(matrix.relative_error(image, matrix.s ** (1 - 2 * row.parameter)))
    if row.family == ROOTS:
        return _attained_root(row, matrix)
    return _attained_sum(row, matrix)


def _attained_root(row: Row, matrix: Spectral) -> float:
    """``h^(-1/b)`` times the polar factor, with ``h`` symmetric of the same singular values."""
    root, tolerance = int(row.parameter), 1.0
    schedule = root_schedule(root, 1 / row.kappa, tolerance)
    while len(schedule.steps) < row.steps:
        tolerance = schedule.errors[-1] * (1 - 1e-6)
        schedule = root_schedule(root, 1 / row.kappa, tolerance)
    h, part = (matrix.u * matrix.s) @ matrix.u.T, matrix.u @ matrix.v.T
    image = inverse_root(h, part, schedule.steps[: row.steps], _HIGHEST, root)
    return float(matrix.relative_error(image, matrix.s ** (-1 / root)))


def _attained_sum(row: Row, matrix: Spectral) -> float:
    basis = (_BASES[row.steps],) * row.steps
    alpha = recombination(row.parameter, 1 / row.kappa, basis).alpha
    image = iterate(matrix.x, None, basis, alpha, _HIGHEST)
    return float(matrix.relative_error(image, matrix.s ** (1 - 2 * row.parameter)))
