r"""The layer-peeled program and what its solvers return.

    min_{W, H} sum_j pi_j [logsumexp(z_j) - <p_j, z_j>],  Z = W H,  ||W||_F^2 / V <= E_W,  ||H||_F^2 / m <= E_H

equals, when the inner dimension is at least the rank of the solution, the convex program

    min_Z L(Z)  subject to  ||Z||_* <= tau = sqrt(V m E_W E_H).

With masses rho (``sum_j rho_j ||h_j||^2 <= E_H``) the same holds for ``Z' = Z diag(sqrt(m rho))``.

References: Fang, He, Long, Su, "Exploring deep neural networks via layer-peeled model" (arXiv 2101.12699); Du, He, Su,
"Uncovering symmetry transfer in large language models via layer-peeled optimization" (arXiv 2605.12756), of which only
the abstract was at hand: the conventions are reconstructed.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.checks import check_choice, check_numbers, is_concrete
from jaxspec.peeled.checks import check_distributions, floating, masses_or_uniform

_NORMS = ("frobenius", "per_vector")


class LayerPeeledProblem(eqx.Module):
    r"""A layer-peeled program with soft targets.

        min_{W, H} L(W H),   L(Z) = sum_j pi_j [logsumexp(z_j) - <p_j, z_j>],   Z of shape (V, m),
        ||W||_F^2 <= V E_W,   sum_j rho_j ||h_j||^2 <= E_H      (rho_j = 1/m: ||H||_F^2 <= m E_H)

    over all inner dimensions; as a program in Z: ``||Z diag(sqrt(m rho))||_* <= tau = sqrt(V m E_W E_H)``. With
    ``norm="per_vector"``: ``||w_i||^2 <= E_W`` for every row and ``||h_j||^2 <= E_H`` for every column.

    A column stands for a context, or for a class whose samples have one common feature. ``context_mass=None`` lets each
    column cost the same however often it occurs; ``context_mass=weights`` counts it once a sample, the convention of
    imbalanced classification (a budget on the mean of ``||h||^2`` over samples). For unequal weights the optima differ.

    Attributes:
        targets: next-token distributions as columns, (V, m).
        weights: pi, probability of each context, (m,).
        budget_W: E_W, mean squared norm of the rows of W (``per_vector``: of each row).
        budget_H: E_H, mean squared norm of the columns of H (``per_vector``: of each column).
        context_mass: rho, weights of the columns of H in their budget, (m,); None: 1/m each, whatever the weights.
        norm: ``"frobenius"`` or ``"per_vector"`` (static).

    Example:
        >>> import jax.numpy as jnp
        >>> problem = LayerPeeledProblem(jnp.eye(3), budget_W=2.0)
        >>> float(problem.radius)
        6.0
    """

    targets: Float[Array, "V m"]
    weights: Float[Array, " m"]
    budget_W: Float[Array, ""]
    budget_H: Float[Array, ""]
    context_mass: Float[Array, " m"] | None
    norm: str = eqx.field(static=True)

    def __init__(
        self,
        targets: Any,
        weights: Any = None,
        budget_W: Any = 1.0,
        budget_H: Any = None,
        context_mass: Any = None,
        *,
        norm: str = "frobenius",
        checked: bool = True,
    ):
        """Builds the program, checking what is known.

        Args:
            targets: (V, m); integers become floats, half precision float32.
            weights: (m,), >= 0, sum 1; None: 1/m each.
            budget_W: E_W >= 0.
            budget_H: E_H >= 0; None: E_W, so that one number E is both budgets.
            context_mass: (m,), >= 0, sum 1, positive where the weight is; only with ``frobenius``. None: each column
                costs the same; ``weights``: each sample does.
            norm: which budgets.
            checked: whether to look at the values; False for a caller that knows them to be good.

        Raises:
            ValueError: for an argument out of range, naming it (and the column of a bad target).
            TypeError: complex targets.
        """
        check_choice("norm", norm, _NORMS)
        self.targets = floating("targets", targets)
        dtype = self.targets.dtype
        if checked:
            check_distributions("targets", self.targets)
            check_numbers(0, budget_W=budget_W, budget_H=budget_H)
        count = self.targets.shape[-1]
        self.weights = masses_or_uniform("weights", weights, count, dtype, checked=checked)
        self.budget_W = jnp.asarray(budget_W, dtype)
        self.budget_H = jnp.asarray(budget_W if budget_H is None else budget_H, dtype)
        self.norm = norm
        self.context_mass = None
        if context_mass is not None:
            if norm != "frobenius":
                raise ValueError("context_mass is given; expected None with norm='per_vector'")
            self.context_mass = masses_or_uniform("context_mass", context_mass, count, dtype, checked=checked)
            if checked:
                _check_support(self.weights, self.context_mass)

    @property
    def shape(self) -> tuple[int, int]:
        """(V, m)."""
        return self.targets.shape

    @property
    def radius(self) -> Float[Array, ""]:
        """``tau = sqrt(V m E_W E_H)``; with per-vector budgets it is the radius of a relaxation."""
        V, m = self.shape
        return jnp.sqrt(jnp.asarray(V * m, self.targets.dtype)) * jnp.sqrt(self.budget_W) * jnp.sqrt(self.budget_H)


def _check_support(weights: Array, masses: Array) -> None:
    if is_concrete(weights, masses) and bool(jnp.any((masses == 0) & (weights > 0))):
        column = int(jnp.argmax((masses == 0) & (weights > 0)))
        raise ValueError(f"context_mass is 0 at column {column}, whose weight is {weights[column]}; expected more")


class PeeledSolution(NamedTuple):
    """Solution of a logit-level program, with its certificate.

    Attributes:
        logits: Z, columns of sum 0, (V, m); kernels or representatives from the solvers that reduce by symmetry.
        value: L(Z), in nats.
        gap: proved bound on ``L(Z) - min L``, in nats (absolute); rounding may make it slightly negative.
        multiplier: ``||G||_op``, minus the derivative of the value by the radius; 0 where the budget is not active.
        singular_values: of the whole Z diag(sqrt(m rho)), descending.
        rank: how many of them exceed rounding.
        iterations: done.
        converged: whether the gap fell to the tolerance. Where it is rounding already, below 1000 eps, and 100
            iterations do not lower it by a tenth, a run ends before its iterations are used up, with False.
        active: whether the budget binds; if not, Z is the centred log of the targets.
    """

    logits: Float[Array, "..."]
    value: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    multiplier: Float[Array, "*batch"]
    singular_values: Float[Array, "*batch r"]
    rank: Int[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    active: Bool[Array, "*batch"]


class FactoredSolution(NamedTuple):
    """A point of the factorised program, with the certificate of its product.

    Attributes:
        W: (V, d).
        H: (d, m).
        value: L(W H), in nats.
        gap: proved bound on the distance of ``value`` from the global optimum over all dimensions, in nats (absolute);
            rounding may make it slightly negative.
        grad_norm: norm of the gradient along the budgets; near 0 at a stationary point, global or not.
        iterations: done.
        converged: whether the stopping rule was met: ``certified`` or ``stationary``. A stationary point may be far
            from the optimum; a small ``gap`` alone proves it.
        certified: whether ``gap`` fell to its tolerance: a global optimum, over all dimensions.
        stationary: whether ``grad_norm`` did.
    """

    W: Float[Array, "*batch V d"]
    H: Float[Array, "*batch d m"]
    value: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    grad_norm: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    certified: Bool[Array, "*batch"] | None = None
    stationary: Bool[Array, "*batch"] | None = None


def numerical_rank(values: Float[Array, " r"], radius: Float[Array, ""], size: int) -> Int[Array, ""]:
    """Number of singular values above rounding.

    Args:
        values: singular values, descending.
        radius: bound on their sum, a scale where all of them are rounding.
        size: larger side of the matrix.

    Returns:
        The count.
    """
    largest = jnp.maximum(jnp.max(values, initial=0), jnp.minimum(radius, 1))
    return jnp.sum(values > 10 * size * jnp.finfo(values.dtype).eps * largest).astype(jnp.int32)
