"""How far a row of a truncated matrix can be from the truth: a certificate that needs the truth, an estimate from data.

For ``Atilde = A + E`` with A of rank r, SVD ``A = U S V^T``, top-r factors ``Uh``, ``Vh`` and values ``sh`` of Atilde,

    ||(Atilde_r - A)_i|| <= ||E_i V|| + ||E_i|| min(1, ||E^T Uh|| / sh_r) + ||U_i|| (sh_{r+1} + ||U^T E||).

Proof: ``Atilde_r - A = E P - A (I - P)`` with ``P = Vh Vh^T``. First term: ``||E_i Vh|| <= ||E_i V|| + ||E_i|| ||(I -
V V^T) Vh||`` and ``(I - V V^T) Vh = (I - V V^T) E^T Uh / sh``, as the rows of A lie in the range of V. Second: ``A_i =
U_i U^T A``, ``A (I - P) = (Atilde - E)(I - P)`` and ``||Atilde (I - P)|| = sh_{r+1}``.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_choice
from jaxspec.completion.panel import inputs
from jaxspec.completion.panel.arms import Arm, Factors, row_shares
from jaxspec.completion.panel.design import make_design
from jaxspec.completion.panel.result import PanelFit
from jaxspec.completion.panel.row_errors import one_step_row_errors, refined_row_errors
from jaxspec.linalg import decompositions, ordered, spectral_norm
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import power_of_two_scale, safe_divide


class RowwiseBound(NamedTuple):
    """Bounds on the row errors ``||(Atilde_r - A)_i||`` of a truncated matrix.

    Attributes:
        bound: of each row, certified without constants, (n,).
        first_order: ``sqrt(||E_i V||^2 + (||U_i|| ||U^T E||)^2)``, what is left of it for small E, (n,).
        spectral: ``2 ||E||`` (Eckart-Young), a bound for all rows.
        wedin: ``||E|| (1 + 2 s_1 / (s_r - ||E||))``, the route over angles of subspaces, a bound for all rows;
            infinite where ``||E|| >= s_r``.
    """

    bound: Float[Array, " n"]
    first_order: Float[Array, " n"]
    spectral: Float[Array, ""]
    wedin: Float[Array, ""]


def rowwise_bound(A: Any, E: Any, rank: int) -> RowwiseBound:
    """The bound of the module's text for a known matrix and perturbation: for checking theory, not for data.

    Args:
        A: matrix of rank at most ``rank``, (n, m).
        E: perturbation, (n, m).
        rank: to which ``A + E`` is truncated (static).

    Returns:
        The bounds, in the units of A.

    Raises:
        ValueError: for shapes that differ, or a rank out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> A = jnp.outer(jnp.ones(4), jnp.ones(3))
        >>> rowwise_bound(A, 0.0 * A, 1).bound.round(3)
        Array([0., 0., 0., 0.], dtype=float32)

    Reference:
        Proved here; the paper's bound (arXiv 2605.30319) has an unspecified constant, see `rowwise_bound_shape`.
    """
    A, E = jnp.asarray(A), jnp.asarray(E)
    dtype = jnp.result_type(A, E, jnp.float32)
    if A.ndim != 2 or A.shape != E.shape:
        raise ValueError(f"A and E have shapes {A.shape} and {E.shape}; expected matrices of one shape")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= min(A.shape):
        raise ValueError(f"rank is {rank!r}; expected an integer in [0, {min(A.shape)}], up to the short side of A")
    return _bound(A.astype(dtype), E.astype(dtype), rank)


@partial(jax.jit, static_argnames="rank")
def _bound(A: Array, E: Array, rank: int) -> RowwiseBound:
    scale = jnp.maximum(power_of_two_scale(A, axis=None), power_of_two_scale(E, axis=None))
    A, E = A / scale, E / scale
    u, s, vt = decompositions.svd(jnp.stack([A, A + E]))
    (U, Uh), (values, found), V = u[:, :, :rank], s, vt[0, :rank].T
    # Directions along which A is 0 belong to neither of its factors.
    real = values[:rank] > 10 * max(A.shape) * jnp.finfo(A.dtype).eps * values[0]
    U, V = U * real, V * real
    norms = spectral_norm(ordered(jnp.stack([_padded(matmul(E.T, Uh), E.T), _padded(matmul(U.T, E).T, E.T), E.T]), u))
    rows = jnp.linalg.norm(E, axis=1)
    through = jnp.linalg.norm(matmul(E, V), axis=1)
    share = jnp.linalg.norm(U, axis=1)
    next_value = jnp.append(found, 0)[rank]
    last = found[rank - 1] if rank else jnp.zeros((), A.dtype)
    angle = jnp.minimum(1, safe_divide(norms[0], last, 1)) if rank else 0
    gap = (values[rank - 1] if rank else jnp.inf) - norms[2]
    wedin = norms[2] * (1 + 2 * values[0] / jnp.where(gap > 0, gap, 1))
    return RowwiseBound(
        scale * (through + rows * angle + share * (next_value + norms[1])),
        scale * jnp.sqrt(through**2 + (share * norms[1]) ** 2),
        scale * 2 * norms[2],
        scale * jnp.where(gap > 0, wedin, jnp.inf),
    )


def _padded(x: Array, like: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, like.shape[1] - x.shape[1])))


def rowwise_bound_shape(n: Any, m: Any, q: Any = 1.0) -> Float[Array, "..."]:
    """``sqrt(1/n + n/m^2) / q``: the paper's rate without constant and logarithms, a scale for plots, no certificate.

    An upper bound: for n > m the estimator behaves like ``1/sqrt(n) + 1/sqrt(m)``, which is smaller.

    Args:
        n: units.
        m: periods.
        q: smallest probability of an arm in a row.

    Returns:
        The rate.

    Example:
        >>> float(rowwise_bound_shape(100, 100).round(3))
        0.141
    """
    n, m = jnp.asarray(n, float), jnp.asarray(m, float)
    return jnp.sqrt(1 / n + n / m**2) / q


def rowwise_error_estimate(
    fit: PanelFit, Y: Any, D: Any, *, observed: Any = None, center: str | None = None
) -> Float[Array, " n"]:
    """Estimated root mean square error of each row of ``fit.effect``, from the data: the field ``row_rmse``, anew.

    To first order in the noise; without refinement the formula of a truncated matrix, with it that of least squares.
    Calibration (actual over estimated): .86-1.14 without refinement where the propensity is constant within rows, .97 -
    1.02 with it. It cannot see bias: 1.2-1.5 without refinement under confounding within rows.

    Args:
        fit: of these data.
        Y: as in the fit.
        D: as in the fit.
        observed: as in the fit.
        center: as in the fit (static).

    Returns:
        In the units of Y; NaN where not identified.

    Raises:
        ValueError: for data that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.completion import row_scaled_spectral
        >>> D = (jnp.arange(4)[:, None] + jnp.arange(6)) % 2 == 0
        >>> fit = row_scaled_spectral(jnp.ones((4, 6)), D, rank=1, refine=20)
        >>> bool(jnp.all(rowwise_error_estimate(fit, jnp.ones((4, 6)), D) < 1e-5))
        True
    """
    data = inputs.panel(Y, D, observed)
    if fit.A0.shape != data.Y.shape:
        raise ValueError(f"Y has shape {data.Y.shape}; expected that of the fit, {fit.A0.shape}")
    check_choice("center", center, inputs.CENTERS)
    return _estimate(fit, data, center)


@partial(jax.jit, static_argnames="center")
def _estimate(fit: PanelFit, data: inputs.Panel, center: str | None) -> Float[Array, " n"]:
    scale = jnp.maximum(power_of_two_scale(data.Y, axis=None), power_of_two_scale(fit.left, axis=None))
    W = data.arms()

    def mean_square(arm: int) -> Array:
        unit, time = fit.unit_offset[arm] / scale, fit.time_offset[arm] / scale
        Z = jnp.where(W[arm], data.Y / scale - unit[:, None] - time, 0)
        parameters = {None: 0, "row": 1, "two_way": 2}[center]
        rows, columns = (jnp.any(W[arm], axis=axis) for axis in (1, 0))
        centring = (parameters > 0) * jnp.sum(rows) + (parameters > 1) * jnp.maximum(jnp.sum(columns) - 1, 0)
        cells = Arm(Z, W[arm], unit, time, centring.astype(Z.dtype))
        factors = Factors(fit.left[arm] / scale, fit.right[arm])
        phat = fit.propensity[arm] if fit.propensity.ndim == 3 else row_shares(W[arm], Z.dtype)[:, None]
        design = make_design(cells, factors, fit.rank[arm], center=center)
        return jnp.where(
            fit.iterations > 0,
            refined_row_errors(W[arm].astype(Z.dtype), design),
            one_step_row_errors(cells, factors, phat),
        )

    total = mean_square(0) + mean_square(1)
    return scale * jnp.where(fit.identified, jnp.sqrt(total), jnp.nan)
