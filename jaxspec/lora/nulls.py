"""How much a statistic of directions is by chance: independent isotropic directions, and control adapters."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxspec.chance import upper_p_value
from jaxspec.linalg import decompositions
from jaxspec.linalg.normalisation import matmul

# Beyond this number of vectors a draw costs more than the Tracy-Widom law is wrong.
_LARGEST_DRAWN = 128
# From this number of degrees of freedom the cube root of a chi-squared variable is normal to three digits.
_FREEDOM = 30
# Shifted gamma law with the first three moments of the Tracy-Widom law of order 1.
_SHAPE, _SCALE, _SHIFT = 46.446, 0.186054, 9.84801


def alignment_p_value(
    alignment: Float[Array, ""], count: Int[Array, ""], null: Float[Array, " num_samples"], d: int
) -> Float[Array, ""]:
    """Share of draws of independent isotropic directions that are as aligned; 1 for fewer than two directions.

    Args:
        alignment: largest eigenvalue of ``(1/L) sum_l u_l u_l^T``.
        count: ``L``.
        null: `alignment_null` for that ``L`` and ``d``, or empty where it is not drawn: then the Tracy-Widom law.
        d: dimension.

    Returns:
        The p-value.
    """
    # Where relations leave one direction only, alignments differ by rounding.
    p = upper_p_value(null, alignment, 1e-5) if null.size else _tracy_widom(alignment, count, d)
    return jnp.where(count > 1, p, 1.0).astype(alignment.dtype)


def alignment_null(
    key: Key[Array, ""],
    layers: int,
    d: int,
    *,
    num_samples: int = 199,
    count: Int[Array, ""] | int | None = None,
    relations: Int[Array, ""] | int = 0,
    most_relations: int = 0,
) -> Float[Array, " num_samples"]:
    r"""Draws of ``A = lambda_max((1/L) sum_l u_l u_l^T)`` for ``L`` independent isotropic unit vectors in ``R^d``.

    Their upper edge is about ``(1 + sqrt(L/d))^2 / L``. Where d is above L the Gram matrix of the vectors is drawn,
    from Bartlett's triangle with rows of unit length: ``L^2`` numbers a draw whatever ``d``.

    Args:
        key: random key.
        layers: largest ``L`` (static).
        d: dimension (static).
        num_samples: number of draws (static).
        count: ``L``, at most ``layers``; default ``layers``. May be traced.
        relations: so many linear relations hold among the vectors before they are made of unit length, as among what is
            left of matrices of rank one when directions that were fitted to them have been removed. May be traced.
        most_relations: largest number of them (static).

    Returns:
        The draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> float(jnp.quantile(alignment_null(jax.random.key(0), 8, 64, num_samples=2000), 0.95))
        0.22
    """
    count = layers if count is None else count
    present = jnp.arange(layers) < count
    triangle = d - layers >= _FREEDOM
    size = layers if triangle else d

    def draw(key):
        related, key = jax.random.split(key) if most_relations else (None, key)
        x = jax.random.normal(key, (layers, size), jnp.float32)
        if triangle:
            x = jnp.tril(x, -1) + jnp.diag(_chi(jnp.diagonal(x), d - jnp.arange(layers, dtype=jnp.float32)))
        if most_relations:
            x = _related(x, related, present, relations, most_relations)
        x = x / jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True)) * present[:, None]
        gram = matmul(x, x.T) if layers <= size else matmul(x.T, x)
        return jax.lax.platform_dependent(gram, cpu=_bisected, default=_largest)

    keys = jax.random.split(key, num_samples)
    largest = jax.lax.map(draw, keys, batch_size=max(1, min(num_samples, 2**20 // (layers * size))))
    return largest / jnp.maximum(count, 1)


def _related(x, key, present, relations, most):
    """Rows that ``relations`` random vectors annihilate."""
    held = jnp.arange(most) < relations
    weights = jax.random.normal(key, (len(x), most), x.dtype) * present[:, None] * held
    q, _ = decompositions.qr(weights)
    q = q * held
    return x - matmul(q, matmul(q.T, x))


def is_drawn(layers: int, d: int) -> bool:
    """Whether the null of so many directions is drawn; beyond, the Tracy-Widom law is near enough.

    Args:
        layers: number of directions.
        d: dimension.

    Returns:
        Whether `alignment_null` is meant to be used.
    """
    return min(layers, d) <= _LARGEST_DRAWN


def _largest(gram):
    """Largest eigenvalue."""
    return decompositions.eigh(gram, symmetrize=False)[0][-1]


def _bisected(gram):
    """The same in less than half the time, from a tridiagonal form; without eigenvectors, and not on every device."""
    last = gram.shape[-1] - 1
    if last == 0:
        return gram[0, 0]
    _, diagonal, beside, _ = jax.lax.linalg.tridiagonal(gram, lower=True)
    select = {"eigvals_only": True, "select": "i", "select_range": (last, last)}
    return jax.scipy.linalg.eigh_tridiagonal(diagonal, beside, **select)[0]


def _chi(normal, freedom):
    """Chi variables from normal ones by Wilson and Hilferty's cube."""
    spread = 2 / (9 * freedom)
    return jnp.sqrt(freedom * (1 - spread + normal * jnp.sqrt(spread)) ** 3)


def _tracy_widom(alignment, count, d):
    """Upper tail of the largest Wishart eigenvalue, a little above that of unit vectors: conservative."""
    count = jnp.maximum(count, 2).astype(jnp.float32)
    a, b = jnp.sqrt(count - 0.5), math.sqrt(d - 0.5)
    centre, spread = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    standard = (alignment * count * d - centre) / spread
    return jax.scipy.special.gammaincc(_SHAPE, jnp.maximum(standard + _SHIFT, 0) / _SCALE)
