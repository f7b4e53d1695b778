"""How symmetric a matrix is: defects that vanish for an exact geometry. All work under jit and vmap.

A small defect alone proves nothing: random rows in a large dimension are nearly a simplex frame. `jaxspec.peeled.nulls`
has the comparisons.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.linalg import spectral_map
from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.peeled.averages import reynolds
from jaxspec.solvers.stopping import safe_ratio


def circulant_defect(M: Float[Array, "m n"]) -> Float[Array, ""]:
    """``||M - Pi M||_F / ||M||_F`` with the projection Pi on circulant matrices; in [0, 1], 0 for the zero matrix.

    Args:
        M: square matrix.

    Returns:
        The defect.

    Raises:
        ValueError: not square.

    Example:
        >>> import jax.numpy as jnp
        >>> float(circulant_defect(jnp.eye(3)))
        0.0
    """
    n = M.shape[-1]
    if M.shape != (n, n):
        raise ValueError(f"M has shape {M.shape}; expected a square matrix")
    index = jnp.arange(n)
    return group_defect(M, (index[:, None] - index) % n, n)


def group_defect(M: Float[Array, "V m"], labels: Any, count: int | None = None) -> Float[Array, ""]:
    """``||M - R(M)||_F / ||M||_F`` with the Reynolds average R; in [0, 1], 0 for the zero matrix.

    Args:
        M: matrix.
        labels: of `orbitals`, (V, m).
        count: number of orbitals; None: from the labels, which must then be known.

    Returns:
        The defect.

    Raises:
        ValueError: labels of another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.peeled import PermutationAction, orbitals
        >>> float(group_defect(jnp.diag(jnp.array([1.0, -1.0])), orbitals(PermutationAction.cyclic(2))[1]))
        1.0
    """
    count = int(jnp.max(jnp.asarray(labels), initial=-1)) + 1 if count is None else count
    return _group_defect(M, jnp.asarray(labels), count)


@partial(jax.jit, static_argnums=2, inline=True)
def _group_defect(M, labels, count):
    M = _scaled(M)
    return safe_ratio(jnp.linalg.norm(M - reynolds(M, labels, count)), jnp.linalg.norm(M))


@partial(jax.jit, static_argnames="center", inline=True)
def simplex_etf_defect(W: Float[Array, "V d"], *, center: bool = False) -> Float[Array, ""]:
    """``|| W W^T / ||W W^T||_F - (I - J/V) / sqrt(V - 1) ||_F``: distance from a simplex frame, in [0, 2].

    For Gaussian rows it is about ``sqrt(V / d)``: report it beside `gaussian_test`.

    Args:
        W: rows, (V, d), V >= 2.
        center: subtract the mean of the rows first (static).

    Returns:
        The defect; 1 for the zero matrix.

    Raises:
        ValueError: a single row.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(simplex_etf_defect(jnp.eye(3), center=True)), 6)
        0.0
    """
    V = W.shape[0]
    if V < 2:
        raise ValueError(f"W has shape {W.shape}; expected at least two rows")
    gram = _gram(_centred(W) if center else W)
    return jnp.linalg.norm(_unit(gram) - (jnp.eye(V, dtype=W.dtype) - 1 / V) / jnp.sqrt(V - 1))


@partial(jax.jit, inline=True)
def equinorm_cv(W: Float[Array, "V d"]) -> Float[Array, ""]:
    """Standard deviation of the row norms over their mean; 0 for equal norms, not bounded by 1.

    Args:
        W: rows, (V, d).

    Returns:
        The coefficient of variation.

    Example:
        >>> import jax.numpy as jnp
        >>> float(equinorm_cv(jnp.array([[3.0, 4.0], [0.0, 5.0]])))
        0.0
    """
    norms = jnp.linalg.norm(_scaled(W), axis=1)
    return safe_ratio(jnp.std(norms), jnp.mean(norms))


@partial(jax.jit, inline=True)
def equiangular_std(W: Float[Array, "V d"]) -> Float[Array, ""]:
    """Standard deviation of the cosines of all pairs of rows; 0 for equal angles.

    Args:
        W: rows, (V, d), V >= 2; a zero row has cosine 0 with every other.

    Returns:
        The deviation, in [0, 1].

    Raises:
        ValueError: a single row.

    Example:
        >>> import jax.numpy as jnp
        >>> float(equiangular_std(jnp.eye(3)))
        0.0
    """
    V = W.shape[0]
    if V < 2:
        raise ValueError(f"W has shape {W.shape}; expected at least two rows")
    return jnp.std(cosines(W)[jnp.triu_indices(V, 1)])


@partial(jax.jit, static_argnames="center", inline=True)
def cosines(W: Float[Array, "V d"], *, center: bool = False) -> Float[Array, "V V"]:
    """Cosines of all pairs of rows; 0 with a zero row.

    Args:
        W: rows, (V, d).
        center: subtract the mean of the rows first (static).

    Returns:
        Symmetric matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> cosines(jnp.array([[2.0, 0.0], [3.0, 3.0]])).round(3)
        Array([[1.   , 0.707],
               [0.707, 1.   ]], dtype=float32)
    """
    W = _scaled(_centred(W) if center else W)
    norms = jnp.linalg.norm(W, axis=1, keepdims=True)
    rows = W / jnp.where(norms > 0, norms, 1)
    return jnp.matmul(rows, rows.T, precision="highest")


@partial(jax.jit, inline=True)
def balancedness_defect(W: Float[Array, "V d"], H: Float[Array, "d m"]) -> Float[Array, ""]:
    """Distance of ``W^T W`` and ``H H^T``, both of unit norm: 0 for balanced factors, in [0, sqrt(2)].

    Args:
        W: (V, d).
        H: (d, m).

    Returns:
        The defect.

    Example:
        >>> import jax.numpy as jnp
        >>> float(balancedness_defect(jnp.eye(2), 3 * jnp.eye(2)))
        0.0
    """
    return jnp.linalg.norm(_unit(_gram(W.T)) - _unit(_gram(H)))


@partial(jax.jit, inline=True)
def factorization_defect(W: Float[Array, "V d"], Z: Float[Array, "V m"]) -> Float[Array, ""]:
    """Distance of ``W W^T`` and ``(Z Z^T)^{1/2}``, both of unit norm: 0 for the sharp factorisation.

    Args:
        W: (V, d).
        Z: logits (V, m).

    Returns:
        The defect, in [0, sqrt(2)].

    Example:
        >>> import jax.numpy as jnp
        >>> float(factorization_defect(jnp.eye(2), 5 * jnp.eye(2))) < 1e-6
        True
    """
    # (Z Z^T)^{1/2} = X X^T with X = U S^{1/2} V^T, whose map needs no root of a rounded Gram matrix.
    half = spectral_map(Z, jnp.sqrt)
    return jnp.linalg.norm(_unit(_gram(W)) - _unit(_gram(half)))


def _centred(W: Array) -> Array:
    return W - jnp.mean(W, axis=0)


def _scaled(M: Array) -> Array:
    """M over a power of two next to its largest entry: squares neither overflow nor vanish."""
    return M / power_of_two_scale(M)


def _gram(W: Array) -> Array:
    """Gram matrix of the rows, up to scale."""
    W = _scaled(W)
    # TF32 would spoil defects at 1e-3.
    return jnp.matmul(W, W.T, precision="highest")


def _unit(M: Array) -> Array:
    norm = jnp.linalg.norm(M)
    return M / jnp.where(norm > 0, norm, 1)
