"""Orthonormal bases of column spaces, from columns that need not be independent."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxspec.linalg import decompositions
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale


def orthonormal_basis(
    x: Float[Array, "*batch m k"],
) -> tuple[Float[Array, "*batch m r"], Bool[Array, "*batch r"]]:
    r"""Left singular vectors ``u_j`` of ``X`` with ``s_j > 10 max(m, k) eps s_1``: a basis of the range of ``X``.

    Args:
        x: columns, with leading batch axes. bfloat16 and float16 are computed in, and returned as, float32.

    Returns:
        ``(basis, kept)``, ``r = min(m, k)``: orthonormal columns, and zeros in the places of those that the rank does
        not reach, which ``kept`` marks as False. NaN where the matrix is not finite.

    Raises:
        TypeError: integer or complex ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> basis, kept = orthonormal_basis(jnp.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]))
        >>> kept
        Array([ True, False], dtype=bool)
        >>> jnp.round(basis @ basis.T, 3)  # the projection onto (1, 0, 1)
        Array([[0.5, 0. , 0.5],
               [0. , 0. , 0. ],
               [0.5, 0. , 0.5]], dtype=float32)
    """
    y = jnp.asarray(x, compute_dtype(x))
    if y.size == 0:
        *batch, m, k = y.shape
        return jnp.zeros((*batch, m, min(m, k)), y.dtype), jnp.zeros((*batch, min(m, k)), bool)
    u, s, _ = decompositions.svd(y / power_of_two_scale(y, keepdims=True))
    kept = s > 10 * max(y.shape[-2:]) * jnp.finfo(y.dtype).eps * s[..., :1]
    # A product, not a selection: NaN of a matrix that is not finite must reach the caller.
    return u * kept[..., None, :].astype(u.dtype), kept
