"""Leading eigenpairs of a positive semidefinite operator, by block subspace iteration with a stopping rule."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxspec.linalg import decompositions
from jaxspec.linalg.normalisation import matmul


class TopEigh(NamedTuple):
    """Leading eigenpairs ``C v_j ~ w_j v_j``.

    Attributes:
        values: eigenvalues, descending, (width,): the first ``rank`` to the tolerance, the others rough.
        vectors: orthonormal, (n, rank).
        residual: largest ``||C v_j - w_j v_j|| / w_j``, relative to ``4 eps w_1 / tol`` where that is above ``w_j``.
        iterations: products with ``C``.
        converged: whether ``residual <= tol``.
    """

    values: Float[Array, " width"]
    vectors: Float[Array, "n rank"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def top_eigh(
    product: Callable[[Float[Array, "w n"]], Float[Array, "w n"]],
    n: int,
    rank: int,
    *,
    oversample: int = 8,
    tol: float = 1e-5,
    max_sweeps: int = 50,
    key: Key[Array, ""] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> TopEigh:
    r"""Leading ``rank`` eigenpairs of ``C``, known by its product with a block.

    One sweep is ``Y = X C``, Rayleigh-Ritz, ``X = orth(Y)``; blocks are rows, which lie in memory as products want
    them. The error of ``v_j`` falls by ``w_{width+1} / w_j`` a sweep, ``width = rank + oversample``.

    Args:
        product: ``X -> X C`` for rows (width, n); its scale should be near 1. Called inside one compiled loop.
        n: size of ``C``.
        rank: number of pairs, 1 <= rank <= n (static).
        oversample: extra columns of the block (static).
        tol: stop when ``||C v_j - w_j v_j|| <= max(tol w_j, 4 eps w_1)`` for the first ``rank``; the second is what
            rounding leaves.
        max_sweeps: largest number of products.
        key: randomness of the start; default ``jax.random.key(0)``.
        dtype: of the products, float32 or wider.

    Returns:
        `TopEigh`; for ``C = 0`` zeros and any basis, converged.

    Raises:
        ValueError: ``rank``, ``oversample``, ``max_sweeps`` or ``tol`` out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> c = jnp.diag(0.5 ** jnp.arange(100.0))
        >>> top_eigh(lambda x: x @ c, 100, 2).values[:2]
        Array([1. , 0.5], dtype=float32)
    """
    if not 1 <= rank <= n or oversample < 0 or max_sweeps < 1 or not tol > 0:
        raise ValueError(
            f"rank is {rank}, oversample {oversample}, max_sweeps {max_sweeps} and tol {tol}; expected 1 <= rank <= "
            f"{n}, oversample >= 0, max_sweeps >= 1 and tol > 0"
        )
    width = min(rank + oversample, n)
    key = jax.random.key(0) if key is None else key
    x, _ = decompositions.qr(jax.random.normal(key, (n, width), dtype))

    floor = 4 * float(jnp.finfo(dtype).eps) / tol

    def sweep(state):
        block, _, _, _, count = state
        image = product(block)
        w, z = decompositions.eigh(matmul(image, block.T))
        w, z = w[::-1], z[:, ::-1].T
        vectors, image = matmul(z, block), matmul(z, image)
        errors = image[:rank] - w[:rank, None] * vectors[:rank]
        relative_to = jnp.maximum(w[:rank], floor * w[0])
        residual = jnp.max(jnp.sqrt(jnp.sum(errors * errors, axis=1)) / jnp.where(w[0] > 0, relative_to, 1))
        following, _ = decompositions.qr(image.T)
        return following.T, w, vectors[:rank], residual, count + 1

    def unfinished(state):
        *_, residual, count = state
        # Written so that NaN goes on and ends without convergence.
        return ~(residual <= tol) & (count < max_sweeps)

    start = (x.T, jnp.zeros(width, dtype), x[:, :rank].T, jnp.array(jnp.inf, dtype), jnp.array(0))
    _, values, vectors, residual, count = lax.while_loop(unfinished, sweep, start)
    return TopEigh(jnp.maximum(values, 0), vectors.T, residual, count, residual <= tol)
