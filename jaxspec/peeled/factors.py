r"""From logits to weights: the factorisation that every global minimiser has when the budget is active.

    Z' = U S V^T,  alpha = sqrt(V E_W / (m E_H)):   W = sqrt(alpha) U S^{1/2} R,   H' = R^T S^{1/2} V^T / sqrt(alpha)

with any orthonormal R, so that ``W W^T = alpha (Z' Z'^T)^{1/2}`` and ``W^T W = alpha^2 H' H'^T``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_integers, check_numbers, is_concrete
from jaxspec.linalg import decompositions
from jaxspec.peeled.checks import floating, masses_or_uniform
from jaxspec.peeled.problem import numerical_rank


def factorize_logits(
    logits: Any,
    budget_W: Any,
    budget_H: Any,
    dim: int | None = None,
    *,
    context_mass: Any = None,
    truncate: bool = False,
) -> tuple[Float[Array, "V d"], Float[Array, "d m"]]:
    """Balanced factors of logits, of least Frobenius norms among all with ``W H = Z``.

    Meets both budgets, with equality if ``||Z'||_* = sqrt(V m E_W E_H)``.

    Args:
        logits: Z, (V, m).
        budget_W: E_W > 0; only its ratio to ``budget_H`` matters.
        budget_H: E_H > 0.
        dim: d; None: min(V, m). Columns beyond the rank are 0.
        context_mass: rho of the budget of H, (m,); None: 1/m each.
        truncate: whether ``dim`` below the numerical rank is allowed; the product is then the best approximation.

    Returns:
        ``(W, H)``, (V, d) and (d, m).

    Raises:
        ValueError: non-positive budgets, ``dim < 1``, or ``dim`` below the rank without ``truncate``.

    Example:
        >>> import jax.numpy as jnp
        >>> W, H = factorize_logits(jnp.diag(jnp.array([4.0, 0.0])), 1.0, 1.0)
        >>> float(jnp.abs(W @ H - jnp.diag(jnp.array([4.0, 0.0]))).max()) < 1e-6
        True
    """
    logits = floating("logits", logits)
    check_numbers(0, ends="()", budget_W=budget_W, budget_H=budget_H)
    check_integers(1, dim=dim)
    V, m = logits.shape
    mass = masses_or_uniform("context_mass", context_mass, m, logits.dtype)
    W, H, values = _factors(logits, jnp.asarray(budget_W), jnp.asarray(budget_H), jnp.sqrt(m * mass))
    if dim is None:
        return W, H
    if is_concrete(values) and not truncate:
        rank = int(numerical_rank(values, jnp.sum(values), max(V, m)))
        if dim < rank:
            raise ValueError(f"dim is {dim}, below the rank {rank} of the logits; expected more, or truncate=True")
    extra = max(dim - W.shape[1], 0)
    return jnp.pad(W, ((0, 0), (0, extra)))[:, :dim], jnp.pad(H, ((0, extra), (0, 0)))[:dim]


@jax.jit
def _factors(
    logits: Float[Array, "V m"], budget_W: Array, budget_H: Array, scale: Float[Array, " m"]
) -> tuple[Array, Array, Array]:
    V, m = logits.shape
    u, s, vt = decompositions.svd(logits * scale)
    root = jnp.sqrt(s)
    balance = ((V * budget_W) / (m * budget_H)).astype(logits.dtype) ** 0.25
    safe = jnp.where(scale > 0, scale, 1)
    return balance * u * root, jnp.where(scale > 0, root[:, None] * vt / balance / safe, 0), s
