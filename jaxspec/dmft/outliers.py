r"""Singular values that leave the bulk: dressed resolvent, outliers, overlaps, escape times.

``W(t) = W(0) + G M F^T`` with fields that depend on ``W(0)``. With ``H0`` the hermitised initial matrix,
``V = blockdiag(G, F)``, ``Dg = blockdiag(g1 I, g2 I)`` and ``C = blockdiag(C_left, C_right)``,

    ``V^T (sv - H0)^{-1} V  ->  R(sv) = (I - Dg J)^{-1} Dg C (I - J^T Dg)^{-1}``,   ``J = [[0, B], [A, 0]]``,

and outliers solve ``det(I - R(sv) K) = 0``, ``K = [[0, M], [M, 0]]``, above the edge. Why: given ``W(0) F`` and
``W(0)^T G`` the matrix is a known part of finite rank plus ``P_G W' P_F``, with a fresh copy ``W'`` and projections
away from the spans of G and F. In orthonormal bases of these spans the Schur complement of ``sv - H0`` is ``Y Y^T``
with ``Y = (I - J' Dg) Dg^{-1/2}``, ``J'`` the whitened transposed response; its inverse is R. A and B are lower
triangular in time and one of them strictly, so ``A B`` is nilpotent and ``I - Dg J`` is always invertible: without
updates (M = 0) the determinant is 1 and nothing escapes.

In code ``R = Z Z^T``; the eigenvalues ``gamma_i`` of ``Z^T K Z`` fall with sv. Outlier i exists if and only if
``gamma_i(edge) > 1``, and is the root of ``gamma_i(sv) = 1``. Small steps make consecutive fields nearly parallel:
compute in float64 (``with jax.enable_x64(True):``).

Reference: reconstruction of Lauditi, Pehlevan & Bordelon, arXiv:2605.07870; without responses Benaych-Georges &
Nadakuditi, J. Multivariate Anal. 111 (2012).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_integers, check_numbers, is_concrete
from jaxspec.dmft.bulk import Bath, Number, bath, bath_of_product, upper_edge
from jaxspec.dmft.fields import SpikeFields
from jaxspec.linalg import eigh, ordered
from jaxspec.linalg.normalisation import matmul

_HIGHEST = jax.lax.Precision.HIGHEST
_ITERATIONS = 6  # five reach 1e-12 on trained networks and on random fields
_LARGEST_RANK = 300


class Outliers(NamedTuple):
    """Singular values outside the bulk, largest first, and what their vectors point at.

    Attributes:
        values: singular values, NaN where fewer have escaped, (n,).
        margin: ``gamma_i(edge) - 1``, positive if and only if outlier i exists, at least -1, (n,).
        overlaps_left: inner products of the unit left singular vectors with the columns of G (divide by the square root
            of the diagonal of ``C_left`` for cosines), 0 for fields of later updates, (n, k). The overall sign is free.
        overlaps_right: the same for right vectors and F, (n, k).
        edge: upper edge of the bulk.
    """

    values: Float[Array, " n"]
    margin: Float[Array, " n"]
    overlaps_left: Float[Array, "n k"]
    overlaps_right: Float[Array, "n k"]
    edge: Float[Array, ""]


def resolvent(fields: SpikeFields, sv: Number) -> Float[Array, "l l"]:
    """``R(sv)``, the deterministic equivalent of ``V^T (sv - H0)^{-1} V`` between the fields, left ones first.

    Args:
        fields: of one matrix, k pairs; of what weight decay leaves of the initial matrix: ``fields.truncated(t)``.
        sv: a point above the edge ``sqrt(s2) (1 + sqrt r)``.

    Returns:
        Symmetric matrix, (2k, 2k); NaN inside the bulk.

    Raises:
        ValueError: ``sv`` not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> one, no = jnp.ones((1, 1)), jnp.zeros((1, 1))
        >>> resolvent(SpikeFields(one, one, no, no, jnp.ones(1), 1.0, 1.0), 2.5)
        Array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)
    """
    check_numbers(0, ends="()", sv=sv)
    around = bath(sv, fields.aspect, fields.sigma2)
    gram = _block_diagonal(fields.C_left, fields.C_right)
    dressed = _dress(fields, around, _sides(around.left, around.right, fields)[:, None] * gram)
    return _dress(fields, around, dressed.T).T


def outliers(
    fields: SpikeFields, t: Int[Array, ""] | int | None = None, max_outliers: int = 4, *, dependent: bool = True
) -> Outliers:
    """Singular values outside the bulk after ``t`` updates.

    Args:
        fields: of one matrix, k pairs; in float64 when steps are small.
        t: updates applied, may be traced and vmapped; default all. Weight decay shrinks the bulk with the matrix.
        max_outliers: static, how many to look for, >= 1.
        dependent: False treats the fields as independent of the initial matrix (Benaych-Georges & Nadakuditi): the
            wrong answer for a trained matrix, to compare with.

    Returns:
        `Outliers`; NaN throughout (except the edge) once the fields are not finite.

    Raises:
        ValueError: ``max_outliers < 1``, or ``t`` outside 0..steps.

    Example:
        >>> import jax.numpy as jnp
        >>> one, no = jnp.ones((1, 1)), jnp.zeros((1, 1))
        >>> found = outliers(SpikeFields(one, one, no, no, jnp.full(1, 2.0), 1.0, 1.0))
        >>> found.values
        Array([2.5, nan, nan, nan], dtype=float32)
        >>> float(found.margin[0])
        1.0
    """
    check_integers(1, max_outliers=max_outliers)
    return _outliers(fields, _checked(fields, t), max_outliers, dependent)


@eqx.filter_jit
def _outliers(fields, t, max_outliers, dependent):
    fields = fields.truncated(t) if dependent else fields.truncated(t).independent()
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(fields)]).all()
    fields = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0.0), fields)
    count = min(max_outliers, fields.coeff.shape[-1])
    roots = _gram_roots(fields)
    margin = _top(fields, roots, 1.0, count) - 1
    found = jax.vmap(lambda index: _outlier(fields, roots, index, count, margin[index]))(jnp.arange(count))
    values, left, right = (jnp.where(_column(finite & (margin > 0), a), a, jnp.nan) for a in found)
    margin = jnp.where(finite, margin, jnp.nan)
    missing = max_outliers - count
    pad = [(0, missing), (0, 0)]
    return Outliers(
        jnp.pad(values, pad[:1], constant_values=jnp.nan),
        jnp.pad(margin, pad[:1], constant_values=-1.0),
        jnp.pad(left, pad, constant_values=jnp.nan),
        jnp.pad(right, pad, constant_values=jnp.nan),
        upper_edge(fields.aspect, fields.sigma2),
    )


def escape_margin(
    fields: SpikeFields, t: Int[Array, ""] | int | None = None, *, dependent: bool = True
) -> Float[Array, ""]:
    """``gamma_1(edge) - 1`` after ``t`` updates: positive if and only if a singular value is outside the bulk.

    Args:
        fields: of one matrix.
        t: updates applied, may be traced; default all.
        dependent: as in `outliers`.

    Returns:
        The margin, at least -1; NaN once the fields are not finite.
    """
    return _escape_margin(fields, _checked(fields, t), dependent)


@eqx.filter_jit
def _escape_margin(fields, t, dependent):
    fields = fields.truncated(t) if dependent else fields.truncated(t).independent()
    return _top(fields, _gram_roots(fields), 1.0, 1)[0] - 1


def escape_time(solution: Any, layer: int = 0) -> Float[Array, ""]:
    """First number of updates after which a singular value of a matrix is outside the bulk.

    Args:
        solution: with ``layers``, a tuple of `SpikeFields`.
        layer: index into it.

    Returns:
        The number of updates, infinity if it does not happen within the solution; NaN where training diverged before.

    Raises:
        IndexError: no such layer.

    Example:
        >>> from jaxspec.dmft import LinearConfig, solve_linear
        >>> cfg = LinearConfig(depth=1, nu=2.0, alpha=3.0, gamma0=4.0, eta=0.1, sigma2=0.5)
        >>> float(escape_time(solve_linear(cfg, 6)))
        2.0
    """
    if not 0 <= layer < len(solution.layers):
        raise IndexError(f"layer is {layer}; expected one of the {len(solution.layers)} matrices of the solution")
    return _escape_time(solution.layers[layer])


@eqx.filter_jit
def _escape_time(fields):
    times = jnp.arange(1, fields.steps + 1)
    margins = jax.vmap(lambda t: escape_margin(fields, t))(times)
    first = jnp.min(jnp.where(margins > 0, times, jnp.inf))
    diverged = jnp.min(jnp.where(jnp.isnan(margins), times, jnp.inf))
    return jnp.where(diverged < first, jnp.nan, first)


def _checked(fields, t):
    """The number of updates as an array, so that another one compiles nothing."""
    if t is not None and is_concrete(t) and not 0 <= int(t) <= fields.steps:
        raise ValueError(f"t is {t}; expected 0 <= t <= {fields.steps}, the number of updates")
    return jnp.asarray(fields.steps if t is None else t)


def _column(flags, array):
    return flags.reshape(flags.shape + (1,) * (array.ndim - 1))


def _block_diagonal(a, b):
    above, below = jnp.zeros((a.shape[0], b.shape[1]), a.dtype), jnp.zeros((b.shape[0], a.shape[1]), a.dtype)
    return jnp.block([[a, above], [below, b]])


def _sides(left, right, fields):
    k = fields.coeff.shape[0]
    return jnp.concatenate([jnp.full(k, left), jnp.full(k, right)]).astype(fields.coeff.dtype)


def _dress(fields: SpikeFields, around: Bath, x: Float[Array, "l m"]) -> Float[Array, "l m"]:
    """``(I - Dg J)^{-1} x``."""
    return jnp.linalg.solve(ordered(_bare(fields, around), x), x)


def _bare(fields, around):
    """``I - Dg J``. Its factorisation must wait for an `eigh` that is under way (`linalg.ordered`)."""
    eye = jnp.eye(fields.coeff.shape[0], dtype=fields.coeff.dtype)
    return jnp.block([[eye, -around.left * fields.B], [-around.right * fields.A, eye]])


def _gram_roots(fields: SpikeFields) -> Float[Array, "l m"]:
    """Columns whose products are ``C``: the leading eigenvectors of both blocks, one batched factorisation."""
    values, vectors = eigh(jnp.stack([fields.C_left, fields.C_right]))
    roots = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None, :])[..., -_LARGEST_RANK:]
    return _block_diagonal(roots[0], roots[1])


def _bath_at(fields, fraction):
    """At fraction 1 the edge, at 0 infinity: an outlier of independent fields is linear in this variable."""
    x = fraction**2 / (fields.sigma2 * jnp.sqrt(fields.aspect))
    return bath_of_product(x, fields.aspect, fields.sigma2)


def _spread(fields, roots, around):
    """``Z`` and the eigendecomposition of ``Z^T K Z``."""
    scale = jnp.sqrt(_sides(around.left, around.right, fields))
    z = _dress(fields, around, scale[:, None] * roots)
    k = fields.coeff.shape[0]
    cross = jnp.matmul(z[:k].T * fields.coeff, z[k:], precision=_HIGHEST)
    return z, eigh(cross + cross.T)


def _top(fields, roots, fraction, count):
    _, (values, _) = _spread(fields, roots, _bath_at(fields, fraction))
    return values[-count:][::-1]


def _outlier(fields, roots, index, count, margin):
    """Value and overlaps of one outlier: Newton's method inside a bracket, whose halves take over where it leaves."""

    def evaluate(fraction):
        around = _bath_at(fields, fraction)
        z, (values, vectors) = _spread(fields, roots, around)
        place = values.shape[0] - 1 - index
        y = jnp.matmul(z, jnp.take(vectors, place, axis=1), precision=_HIGHEST)
        return around, y, jnp.take(values, place)

    def narrow(_, state):
        low, high, guess, best = state
        around, y, value = evaluate(guess)
        here = value - 1
        low, high = jnp.where(here < 0, guess, low), jnp.where(here < 0, high, guess)
        nearer = jnp.abs(here) < best[2]
        best = jax.tree.map(lambda new, old: jnp.where(nearer, new, old), (guess, y, jnp.abs(here)), best)
        change = _quadratic(fields, around, y, value, _slopes_in_fraction(fields, around, guess)) / value
        moved = guess - here / change
        inside = (moved > low) & (moved < high)  # false for NaN
        return low, high, jnp.where(inside, moved, (low + high) / 2), best

    zero, one = jnp.zeros_like(margin), jnp.ones_like(margin)
    # Nothing to find where nothing escaped: any finite numbers do, the caller replaces them.
    blank = one, jnp.zeros(2 * fields.coeff.shape[0], margin.dtype), jnp.full_like(margin, jnp.inf)
    start = zero, one, 1 / (1 + jnp.maximum(margin, 0.0)), blank
    fraction, y, _ = jax.lax.fori_loop(0, _ITERATIONS, narrow, start)[3]
    around = _bath_at(fields, fraction)
    square = -_quadratic(fields, around, y, 1.0, (around.left_slope, around.right_slope))
    overlaps = jnp.sign(y[jnp.argmax(jnp.abs(y))]) * y * jnp.sqrt(2 / square)
    k = fields.coeff.shape[0]
    return around.sv, overlaps[:k], overlaps[k:]


def _slopes_in_fraction(fields, around, fraction):
    """Derivatives of g1 and g2 in the variable of `_bath_at`, finite at the edge too."""
    s2, r = fields.sigma2, fields.aspect
    scale = 1 / (s2 * jnp.sqrt(r))
    x, x_slope = scale * fraction**2, 2 * scale * fraction
    sv_slope = (s2 * s2 * r * x * x - 1) / (2 * around.sv * x * x) * x_slope
    return tuple((a * x_slope - g * sv_slope) / around.sv for a, g in ((s2, around.left), (s2 * r, around.right)))


def _quadratic(fields, around, y, value, slopes):
    """``p^T R' p`` with ``p = K y``, ``R p = value y``, for derivatives ``slopes`` of g1 and g2."""
    k = fields.coeff.shape[0]
    p = jnp.concatenate([fields.coeff * y[k:], fields.coeff * y[:k]])
    a = jnp.linalg.solve(ordered(_bare(fields, around).T, p), p)
    gram = jnp.concatenate([matmul(fields.C_left, a[:k]), matmul(fields.C_right, a[k:])])
    through = jnp.concatenate([matmul(fields.B, y[k:]), matmul(fields.A, y[:k])])
    return jnp.sum(a * _sides(*slopes, fields) * (gram + 2 * value * through))
