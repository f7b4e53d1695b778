r"""Proof that no memory has any positive margin, from multipliers that only nearly solve ``A^T lambda = 0``.

Gordan: some W has M > 0 on all pairs, or some lambda >= 0, not 0, has ``A^T lambda = 0``. Rounding leaves a residual
``r = A^T lambda``; but on a support S where A has full column rank d^2 the least correction ``delta = -A (A^T A)^-1 r``
solves it exactly and has no entry above ``||r|| / sigma``, sigma the least singular value of A on S. So ``||r|| / sigma
< min lambda`` proves that exact multipliers exist, with bounds on all rounding inside, without computing them.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxspec.memory.associations import Associations, checked, competing, competitors_at, num_competitors

_KEPT = 1e-9  # multipliers below this fraction of the largest are left out before the least squares


class Infeasible(NamedTuple):
    """Result of `prove_infeasible`.

    Attributes:
        proved: no W has a positive margin, for the numbers as they are stored.
        distance: an exact multiplier lies within this of ``multipliers``, entry by entry; infinity: none was shown to.
        smallest: least multiplier of the support; proved if above ``distance``.
        multipliers: corrected ones, >= 0, one a pair of the support, largest 1, float64.
        pairs: the support, row and competitor of each pair.
    """

    proved: bool
    distance: float
    smallest: float
    multipliers: np.ndarray
    pairs: np.ndarray


def prove_infeasible(
    a: Associations, multipliers: Float[Array | np.ndarray, "p k"], listed: Int[Array | np.ndarray, "p k"] | None = None
) -> Infeasible:
    """Whether multipliers of `check_feasible` or `max_margin` prove that no memory recalls all associations.

    A status of -1 says that no margin exceeds ``tol``; this says that none is positive. Sound: in float64 on the host,
    with every rounding bounded. Not complete: it needs at least ``d^2 + 1`` pairs in general position, which
    generic infeasible instances have, or one pair that cannot be told apart. Memory d^4.

    Args:
        a: the associations.
        multipliers: >= 0; those of pairs that do not compete are ignored.
        listed: the field ``listed`` of the result they come from.

    Returns:
        The proof, or its absence.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.

    Example:
        >>> import jax
        >>> from jaxspec.memory import check_feasible, sample_associations
        >>> many = sample_associations(jax.random.key(0), 12, 2)
        >>> prove_infeasible(many, check_feasible(many).multipliers).proved
        True
    """
    _, a = checked(None, a)
    p, q = len(a.x), num_competitors(a)
    entries = np.broadcast_to(np.arange(q), (p, q)) if listed is None else np.asarray(listed)
    weights = np.asarray(multipliers, np.float64)
    if weights.shape != entries.shape or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ValueError(f"multipliers has shape {weights.shape}; expected numbers >= 0, {entries.shape}")
    mu = np.arange(p)
    mask = np.asarray(_competing(a, mu, entries))
    row, place = np.nonzero(mask & (weights > _KEPT * weights.max(initial=0, where=mask)))
    if not len(row):
        return Infeasible(False, np.inf, 0.0, np.zeros(0), np.zeros((0, 2), int))
    other = entries[row, place]
    # Their number depends on the numbers: rounded up, it seldom asks for another program.
    rest = (0, (1 << (len(row) - 1).bit_length()) - len(row))
    c = np.asarray(_competitors(a, np.pad(row, rest), np.pad(other, rest)))[: len(row)]
    x, y, c = (np.asarray(v, np.float64) for v in (np.asarray(a.x)[row], np.asarray(a.y)[row], c))
    return _proof(x, y, c, weights[row, place], np.stack([row, other], -1))


@eqx.filter_jit
def _competing(a, mu, entries):
    return jax.vmap(lambda row, nu: competing(a, row, nu))(mu, entries)


@eqx.filter_jit
def _competitors(a, row, other):
    return jax.vmap(lambda mu, nu: competitors_at(a, mu, nu[None])[0])(row, other)


def _proof(x, y, c, weights, pairs):
    alike = ~np.any(x, 1) | np.all(y == c, 1)  # rows of zeros: M = 0 for every W, exactly
    if alike.any():
        return Infeasible(True, 0.0, 1.0, alike.astype(float), pairs)
    eps = np.finfo(float).eps
    size = np.linalg.norm(x, axis=1) * (np.linalg.norm(y, axis=1) + np.linalg.norm(c, axis=1))
    A = ((y - c)[:, :, None] * x[:, None]).reshape(len(x), -1) / size.max()
    size = size / size.max()
    m, columns = A.shape
    gram = A.T @ A
    spectrum = np.linalg.eigvalsh(gram)
    # Each entry of A is within 3/2 eps of |z||x|, sums of m products within m/2 eps: twice that, and the eigenvalues'.
    least = spectrum[0] - (m + columns + 8) * eps * np.sum(size**2)
    if least <= 0:
        return Infeasible(False, np.inf, float(weights.min()), weights / weights.max(), pairs)
    weights = np.maximum(weights - A @ np.linalg.solve(gram, A.T @ weights), 0)
    weights = weights / weights.max()
    residual = np.linalg.norm(A.T @ weights) * (1 + 4 * columns * eps) + (m + 8) * eps * np.sum(weights * size)
    distance = float(residual / np.sqrt(least) * (1 + 8 * eps))
    return Infeasible(bool(distance < weights.min()), distance, float(weights.min()), weights, pairs)
