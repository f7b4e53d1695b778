"""Statistics of a Gram matrix whose rows may lie on a circle, and the hidden order that shows it.

If G is circulant in the order 0, 1, .., n - 1 it is circulant in every order 0, k, 2k, .. with k coprime to n:
`circulant_r2` cannot tell them apart (3 orders for n = 7, 2 for n = 12), `harmonic_score` can.
"""

import itertools
import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxspec.chance import upper_p_value
from jaxspec.checks import check_integers, finite
from jaxspec.linalg import eigh, polar
from jaxspec.linalg.normalisation import matmul
from jaxspec.peeled.checks import floating
from jaxspec.solvers.loop import CONVERGED, RUNNING, iterate
from jaxspec.solvers.stopping import safe_ratio

# Up to this length all cyclic orders are tried: (n - 1)! / 2 = 2520.
EXHAUSTIVE = 8


@partial(jax.jit, inline=True)
def circulant_r2(G: Float[Array, "n n"]) -> Float[Array, ""]:
    """Share of the variance of the pairs ``i < j`` that their cyclic distance explains; in [0, 1].

    Args:
        G: symmetric, for example `cosines` of centred rows.

    Returns:
        The share; NaN where all pairs are equal.

    Example:
        >>> import jax.numpy as jnp
        >>> angles = 2 * jnp.pi * jnp.arange(5) / 5
        >>> round(float(circulant_r2(jnp.cos(angles[:, None] - angles))), 5)
        1.0
    """
    n = G.shape[0]
    rows, columns = np.triu_indices(n, 1)
    distance = np.minimum(columns - rows, n - (columns - rows)) - 1
    classes = max(n // 2, 1)
    pairs = G[rows, columns]
    # Centred, so that rounding is relative to the spread.
    pairs = pairs - jnp.mean(pairs) if pairs.size else pairs
    sums = jax.ops.segment_sum(pairs, distance, classes)
    means = sums / np.maximum(np.bincount(distance, minlength=classes), 1)
    total, within = jnp.sum(pairs**2), jnp.sum((pairs - means[distance]) ** 2)
    rounding = pairs.size * (8 * jnp.finfo(G.dtype).eps * jnp.max(jnp.abs(G), initial=0)) ** 2
    varies = total > rounding
    return jnp.where(varies, 1 - within / jnp.where(varies, total, 1), jnp.nan)


def harmonic_score(G: Float[Array, "n n"], order: Any = None) -> Float[Array, ""]:
    """``sum_ij G[o_i, o_j] cos(2 pi (i - j) / n)``: energy of G in the first harmonic of the order; not bounded.

    Args:
        G: symmetric.
        order: tokens in cyclic order, (n,); None: as they are.

    Returns:
        The score.

    Example:
        >>> import jax.numpy as jnp
        >>> float(harmonic_score(jnp.eye(4)))
        4.0
    """
    angles = 2 * np.pi * np.arange(G.shape[0]) / G.shape[0]
    return _harmonic_score(G, order, np.cos(angles[:, None] - angles))


@partial(jax.jit, inline=True)
def _harmonic_score(G, order, harmonic):
    G = G if order is None else G[jnp.asarray(order)][:, jnp.asarray(order)]
    return jnp.sum(G * jnp.asarray(harmonic, G.dtype))


@partial(jax.jit, inline=True)
def mode_power(G: Float[Array, "n n"]) -> Float[Array, " K"]:
    """Shares of ``f_k^* G f_k`` over the frequencies ``k = 1..n//2``, k and n - k together; f_k unit Fourier vectors.

    Args:
        G: symmetric, positive semi-definite.

    Returns:
        (n//2,), of sum 1; zeros where there is no power.

    Example:
        >>> import jax.numpy as jnp
        >>> mode_power(jnp.eye(5))
        Array([0.5, 0.5], dtype=float32)
    """
    n = G.shape[0]
    points = np.arange(n)
    waves = 2 * np.pi * np.arange(1, n // 2 + 1)[:, None] * points / n
    waves = jnp.asarray(np.concatenate([np.cos(waves), np.sin(waves)]), G.dtype)
    # cos^T G cos + sin^T G sin = n f^* G f, the same for k and n - k; the frequency n/2 stands alone.
    energies = jnp.sum(jnp.matmul(waves, G, precision="highest") * waves, axis=1).reshape(2, -1).sum(0)
    energies = energies * np.where(2 * np.arange(1, n // 2 + 1) == n, 1, 2)
    energies = jnp.maximum(energies, 0)
    rounding = n**2 * 8 * jnp.finfo(G.dtype).eps * jnp.max(jnp.abs(G), initial=0)
    return jnp.where(jnp.sum(energies) > rounding, safe_ratio(energies, jnp.sum(energies)), 0)


class CyclicOrder(NamedTuple):
    """A cyclic order found in a Gram matrix.

    Attributes:
        order: tokens in cyclic order, token 0 first and the smaller neighbour of it second, (n,).
        score: `harmonic_score` of the centred Gram matrix in that order.
        circulant_r2: of the Gram matrix in that order; NaN where all pairs are equal.
        p_value: share of random rotations of the centred Gram matrix, its eigenvalues kept, whose best order scores as
            much; it accounts for the search.
        equivalent_orders: all orders in which G is as circulant, that one first, (count, n).
    """

    order: np.ndarray
    score: float
    circulant_r2: float
    p_value: float
    equivalent_orders: np.ndarray


def discover_cyclic_order(G: Any, *, key: Key[Array, ""], refine: bool = True, num_samples: int = 200) -> CyclicOrder:
    """The cyclic order with the largest harmonic score.

    Up to n = 8 all orders are tried. Beyond, tokens are sorted by their angle in the plane of the two leading
    eigenvectors of the centred Gram matrix, then segments are reversed while that raises the score.

    Args:
        G: symmetric, (n, n), n >= 4.
        key: random key of the null.
        refine: whether to reverse segments (static).
        num_samples: random rotations; each is searched as G is: costs ``num_samples`` searches, of about ``n^4``
            operations a round beyond n = 8.

    Returns:
        The order and its p-value. Under a permutation of the tokens the best score does not change: the null must
        change the geometry.

    Raises:
        ValueError: fewer than four tokens, a matrix that is not square, symmetric and finite, or ``num_samples < 1``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> hidden = jnp.array([0, 3, 1, 4, 2])
        >>> angles = 2 * jnp.pi * jnp.argsort(hidden) / 5
        >>> discover_cyclic_order(jnp.cos(angles[:, None] - angles), key=jax.random.key(0)).order
        array([0, 2, 4, 1, 3])
    """
    G = floating("G", G)
    n = G.shape[0] if G.ndim == 2 else 0
    if G.shape != (n, n) or n < 4:
        raise ValueError(f"G has shape {G.shape}; expected (n, n) with n >= 4")
    check_symmetric("G", G)
    check_integers(1, num_samples=num_samples)
    order, score, null = _discover(G, key, refine, num_samples)
    order = canonical_order(np.asarray(order, np.int64))
    slack = rounding_slack(G.dtype, n) * max(float(jnp.trace(G)), abs(float(score)), 1e-300)
    p_value = float(upper_p_value(np.asarray(null), float(score), slack))
    r2 = float(circulant_r2(G[order][:, order]))
    return CyclicOrder(order, float(score), r2, p_value, equivalent_orders(order))


def equivalent_orders(order: Any) -> np.ndarray:
    """Orders in which a matrix is circulant if it is in ``order``: every k-th token, k coprime to n, the given first.

    Args:
        order: tokens in cyclic order, (n,).

    Returns:
        (phi(n) / 2, n), up to rotation and reflection, each with token 0 first.

    Example:
        >>> equivalent_orders([0, 1, 2, 3, 4])
        array([[0, 1, 2, 3, 4],
               [0, 2, 4, 1, 3]])
    """
    order = np.asarray(order)
    n = order.size
    steps = [k for k in range(1, max(n // 2, 1) + 1) if math.gcd(k, n) == 1]
    return np.array([canonical_order(order[(k * np.arange(n)) % n]) for k in steps])


def canonical_order(order: np.ndarray) -> np.ndarray:
    """The same cyclic order, token 0 first and its smaller neighbour second.

    Args:
        order: tokens in cyclic order, (n,).
    """
    order = np.roll(order, -int(np.argmin(order)))
    return order if order.size < 3 or order[1] < order[-1] else np.roll(order[::-1], 1)


@lru_cache(maxsize=8)
def all_orders(n: int) -> np.ndarray:
    """All cyclic orders of n tokens up to rotation and reflection, ``((n - 1)! / 2, n)``, the given one first.

    Args:
        n: number of tokens, at most 9.
    """
    if n == 1:
        return np.zeros((1, 1), np.int32)
    rest = np.array(list(itertools.permutations(range(1, n))), dtype=np.int32)
    kept = rest[rest[:, 0] <= rest[:, -1]]
    return np.concatenate([np.zeros((len(kept), 1), np.int32), kept], axis=1)


def check_symmetric(name: str, G: Array) -> None:
    """Raises `ValueError` unless a known matrix is finite and symmetric to rounding.

    Args:
        name: of the argument, for the message.
        G: (n, n).
    """
    values = np.asarray(finite(name, G), float)
    if np.abs(values - values.T).max() > 1e-4 * np.abs(values).max():
        raise ValueError(f"{name} is not symmetric; expected a Gram matrix")


def rounding_slack(dtype: Any, n: int) -> float:
    """Relative difference of scores that counts as a tie: equivalent orders must not be lost to rounding.

    Args:
        dtype: of the scores.
        n: number of tokens.
    """
    return max(1e-9, 8 * n * float(jnp.finfo(dtype).eps))


@eqx.filter_jit
def _discover(G: Array, key: Array, refine: bool, num_samples: int) -> tuple[Array, Array, Array]:
    n = G.shape[0]
    centred = G - jnp.mean(G, axis=0) - jnp.mean(G, axis=1)[:, None] + jnp.mean(G)
    order, score = best_cyclic_order(centred, refine=refine)
    # The vector of ones stays a null vector: rotations act on its complement, of which `basis` is one.
    basis = jnp.asarray(_ones_complement(n), G.dtype)
    spectrum, _ = eigh(matmul(basis.T, matmul(centred, basis)), after=score)

    def draw(key: Array) -> Array:
        rotation = matmul(basis, polar(jax.random.normal(key, (n - 1, n - 1), G.dtype), engine="svd"))
        return best_cyclic_order(matmul(rotation * spectrum, rotation.T), refine=refine)[1]

    return order, score, jax.lax.map(draw, jax.random.split(key, num_samples))


def _ones_complement(n: int) -> np.ndarray:
    """Orthonormal basis of the vectors of sum 0, (n, n - 1)."""
    k = np.arange(1, n)
    basis = np.where(np.arange(n)[:, None] < k, 1.0, 0.0)
    basis[k, k - 1] = -k
    return basis / np.sqrt(k * (k + 1.0))


def best_cyclic_order(G: Float[Array, "n n"], *, refine: bool = True) -> tuple[Int[Array, " n"], Float[Array, ""]]:
    """The search of `discover_cyclic_order` alone, under jit and vmap: its order and harmonic score.

    Args:
        G: symmetric, centred.
        refine: as there (static).
    """
    n = G.shape[0]
    if n <= EXHAUSTIVE:
        orders = jnp.asarray(all_orders(n))
        scores = jax.vmap(lambda order: harmonic_score(G, order))(orders)
        best = jnp.argmax(scores)
        return orders[best], scores[best]
    _, vectors = eigh(G)
    order = jnp.argsort(jnp.arctan2(vectors[:, -2], vectors[:, -1])).astype(jnp.int32)
    return _two_opt(G, order) if refine else (order, harmonic_score(G, order))


class _Search(NamedTuple):
    order: Int[Array, " n"]
    score: Float[Array, ""]
    iter: Int[Array, ""]
    status: Int[Array, ""]


def _two_opt(G: Array, order: Array) -> tuple[Array, Array]:
    """The best of all reversals of a segment, until none raises the score."""
    n = G.shape[0]
    starts, ends = np.triu_indices(n, 1)
    position = np.arange(n)
    inside = (position >= starts[:, None]) & (position <= ends[:, None])
    reversals = jnp.asarray(np.where(inside, starts[:, None] + ends[:, None] - position, position))

    def step(state: _Search) -> _Search:
        scores = jax.lax.map(lambda r: harmonic_score(G, state.order[r]), reversals, batch_size=64)
        best = jnp.argmax(scores)
        rises = scores[best] > state.score + rounding_slack(G.dtype, n) * jnp.abs(state.score)
        order = jnp.where(rises, state.order[reversals[best]], state.order)
        score = jnp.where(rises, scores[best], state.score)
        status = jnp.where(rises, RUNNING, CONVERGED).astype(jnp.int32)
        return _Search(order, score, state.iter + 1, status)

    zero = jnp.zeros((), jnp.int32)
    last = iterate(step, lambda state: state, _Search(order, harmonic_score(G, order), zero, zero), max_iter=4 * n)
    return last.order, last.score
