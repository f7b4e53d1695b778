r"""The root ``A = (X X^T + eps^2 I)^(1/2)`` and two linear solves with it, differentiable at every order.

With ``L = L_A(C)`` the solution of ``A L + L A = C`` and ``Y = A^(-1) C``,

    dA = L_A(dX X^T + X dX^T + 2 eps deps I) ,   dL = L_A(dC - dA L - L dA) ,   dY = A^(-1) (dC - dA Y) .

One factorisation serves derivatives of every order; eigenvectors are never differentiated. Reference: Higham,
"Functions of Matrices" (2008), chapter 6.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.linalg import decompositions
from jaxspec.linalg.normalisation import matmul


class Root(NamedTuple):
    """``A`` with its factorisation. The rules below differentiate through ``a`` alone.

    Attributes:
        a: ``A``, (*batch, r, r).
        vectors: its eigenvectors, columns, (*batch, r, r).
        values: its eigenvalues, (*batch, r).
    """

    a: Float[Array, "*batch r r"]
    vectors: Float[Array, "*batch r r"]
    values: Float[Array, "*batch r"]


def gram_tangent(
    x: Float[Array, "*batch r k"],
    eps: Float[Array, "*batch 1 1"],
    dx: Float[Array, "*batch r k"],
    deps: Float[Array, "*batch 1 1"],
) -> Float[Array, "*batch r r"]:
    """Tangent of ``X X^T + eps^2 I``.

    Args:
        x: matrices.
        eps: floors.
        dx: their tangents.
        deps: tangents of the floors.

    Returns:
        The tangent.
    """
    half = matmul(dx, x.mT)
    return half + half.mT + 2 * eps * deps * jnp.eye(x.shape[-2], dtype=x.dtype)


@jax.custom_jvp
def gram_root(x: Float[Array, "*batch r k"], eps: Float[Array, "*batch 1 1"]) -> Root:
    """``A = (x x^T + eps^2 I)^(1/2)`` of wide matrices, r <= k.

    Args:
        x: matrices with entries of at most about 1.
        eps: floors, > 0.

    Returns:
        The root.
    """
    # From the singular values of x: squaring would cost (s_1/eps)^2 units of rounding instead of s_1/eps.
    u, s, _ = decompositions.svd(x)
    h = jnp.hypot(s, eps[..., 0])
    return Root(matmul(u * h[..., None, :], u.mT), u, h)


@gram_root.defjvp
def _gram_root_jvp(primals, tangents):
    root = gram_root(*primals)
    da = lyapunov(root, gram_tangent(*primals, *tangents))
    return root, Root(da, jnp.zeros_like(root.vectors), jnp.zeros_like(root.values))


def lyapunov(root: Root, c: Float[Array, "*batch r r"]) -> Float[Array, "*batch r r"]:
    """``L`` with ``A L + L A = c``.

    Args:
        root: ``A``.
        c: right-hand sides.

    Returns:
        The solutions.
    """
    u, h = root.vectors, root.values

    def by_factors(_, c):
        core = matmul(u.mT, matmul(c, u)) / (h[..., :, None] + h[..., None, :])
        return matmul(u, matmul(core, u.mT))

    return _linear_solve(lambda x: matmul(root.a, x) + matmul(x, root.a), c, by_factors)


def solve(root: Root, c: Float[Array, "*batch r k"]) -> Float[Array, "*batch r k"]:
    """``A^(-1) c``.

    Args:
        root: ``A``.
        c: right-hand sides.

    Returns:
        The solutions.
    """

    def by_factors(_, c):
        return matmul(root.vectors, matmul(root.vectors.mT, c) / root.values[..., :, None])

    return _linear_solve(lambda x: matmul(root.a, x), c, by_factors)


def _linear_solve(operator, right, by_factors):
    # A primitive of its own, also when linearised and transposed: a custom rule would be inlined there, and an outer
    # derivative would then see the factors, whose tangents are not given, in place of A.
    return jax.lax.custom_linear_solve(operator, right, by_factors, by_factors, symmetric=True)
