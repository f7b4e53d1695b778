r"""Bounds on the distance of any logits from the optimum, from weak duality.

With ``G = (softmax(Z) - P) diag(pi)`` and any feasible Z: ``L(Z) - min L <= <G, Z> + tau ||G||_op``. The dual point is
softmax(Z): ``max_Q sum_j pi_j entropy(q_j) - tau ||(Q - P) diag(pi)||_op`` over column-stochastic Q.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.linalg import ordered, singular_values, spectral_norm
from jaxspec.peeled.checks import check_masses
from jaxspec.peeled.loss import ScaledLoss
from jaxspec.peeled.problem import LayerPeeledProblem
from jaxspec.solvers.stopping import safe_ratio

# Smallest row or column weight of the per-vector certificate: it divides.
LEAST_WEIGHT = 1e-9


def duality_gap(
    logits: Float[Array, "V m"],
    problem: LayerPeeledProblem,
    *,
    row_weights: Any = None,
    column_weights: Any = None,
) -> Float[Array, ""]:
    r"""Bound on ``L(Z) - min L`` for feasible logits.

    Frobenius budgets: ``<G, Z> + tau ||G||_op``. Per-vector budgets: ``<G, Z> + sqrt(E_W E_H) ||diag(a)^{-1/2} G
    diag(b)^{-1/2}||_op`` for any weights a, b on the simplex; equal ones give the bound of the Frobenius program.

    Args:
        logits: Z, (V, m). That it is feasible is the caller's to know; see `kkt_residual`.
        problem: the program.
        row_weights: a, (V,), positive, sum 1; per-vector budgets only; None: 1/V each.
        column_weights: b, (m,), likewise.

    Returns:
        The gap, in nats; rounding may make it slightly negative.

    Raises:
        ValueError: weights for Frobenius budgets, or not of sum 1.

    Example:
        >>> import jax.numpy as jnp
        >>> problem = LayerPeeledProblem(jnp.array([[0.75], [0.25]]))
        >>> bool(duality_gap(jnp.log(problem.targets) - jnp.log(problem.targets).mean(), problem) < 1e-6)
        True
    """
    V, m = problem.shape
    if problem.norm == "frobenius":
        if row_weights is not None or column_weights is not None:
            raise ValueError("row_weights and column_weights are for norm='per_vector'; the problem has 'frobenius'")
        _, gap, _ = scaled_gap(loss_of(problem), scaled(logits, problem), problem.radius)
        return gap
    a = jnp.full((V,), 1 / V, logits.dtype) if row_weights is None else jnp.asarray(row_weights, logits.dtype)
    b = jnp.full((m,), 1 / m, logits.dtype) if column_weights is None else jnp.asarray(column_weights, logits.dtype)
    check_masses("row_weights", a, V)
    check_masses("column_weights", b, m)
    return per_vector_gap(logits, problem, a, b)


def kkt_residual(logits: Float[Array, "V m"], problem: LayerPeeledProblem) -> Float[Array, ""]:
    r"""``max((||Z||_* - tau)_+, gap / ||G||_op) / tau``: how far logits are from feasible and optimal; 0 where G = 0.

    Args:
        logits: Z, (V, m).
        problem: with Frobenius budgets.

    Returns:
        A dimensionless number.

    Raises:
        ValueError: per-vector budgets.

    Example:
        >>> import jax.numpy as jnp
        >>> float(kkt_residual(jnp.zeros((2, 1)), LayerPeeledProblem(jnp.array([[0.5], [0.5]]))))
        0.0
    """
    require_frobenius(problem)
    image = scaled(logits, problem)
    _, gap, norm = scaled_gap(loss_of(problem), image, problem.radius)
    excess = jnp.maximum(jnp.sum(singular_values(ordered(image, gap))) - problem.radius, 0)
    residual = jnp.maximum(excess, safe_ratio(jnp.maximum(gap, 0), norm))
    return jnp.where(norm == 0, 0, safe_ratio(residual, problem.radius))


def per_vector_gap(
    logits: Float[Array, "V m"], problem: LayerPeeledProblem, a: Float[Array, " V"], b: Float[Array, " m"]
) -> Float[Array, ""]:
    """The bound for per-vector budgets with row weights a and column weights b.

    Args:
        logits: Z.
        problem: the program.
        a: positive, sum 1.
        b: positive, sum 1.

    Returns:
        The gap.
    """
    _, gradient = loss_of(problem)(logits)
    weighted = gradient / jnp.sqrt(a)[:, None] / jnp.sqrt(b)
    return jnp.sum(gradient * logits) + jnp.sqrt(problem.budget_W) * jnp.sqrt(problem.budget_H) * spectral_norm(
        weighted
    )


def scaled_gap(loss: ScaledLoss, image: Float[Array, "V m"], radius: Float[Array, ""]) -> tuple[Array, Array, Array]:
    """Value, gap and ``||G'||_op`` at ``Z' = Z diag(sqrt(m rho))``.

    Args:
        loss: as a function of Z'.
        image: Z'.
        radius: tau.

    Returns:
        Three numbers.
    """
    value, gradient = loss(image)
    norm = spectral_norm(gradient)
    return value, jnp.sum(gradient * image) + radius * norm, norm


def loss_of(problem: LayerPeeledProblem) -> ScaledLoss:
    """The loss in the coordinates in which the constraint is a nuclear-norm ball.

    Args:
        problem: the program.
    """
    if problem.context_mass is None:
        return ScaledLoss(problem.targets, problem.weights, jnp.ones_like(problem.weights))
    return ScaledLoss(problem.targets, problem.weights, jnp.sqrt(problem.weights.size * problem.context_mass))


def scaled(logits: Float[Array, "V m"], problem: LayerPeeledProblem) -> Float[Array, "V m"]:
    """``Z diag(sqrt(m rho))``.

    Args:
        logits: Z.
        problem: the program.
    """
    return logits * loss_of(problem).scale


def require_frobenius(problem: LayerPeeledProblem) -> None:
    """Raises `ValueError` for per-vector budgets.

    Args:
        problem: the program.
    """
    if problem.norm != "frobenius":
        raise ValueError(f"the problem has norm={problem.norm!r}; expected 'frobenius' (solve_factored takes both)")
