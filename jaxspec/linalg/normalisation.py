r"""Scale, short side and floor of a singular-value iteration: ``X -> (Y, sigma)`` with ``Y = X / sigma`` wide.

``sigma`` is an upper bound of the largest singular value, or the number the caller gives. All entries are first divided
by a power of two next to ``max|X|``, so that neither squares overflow nor vanish.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxspec.linalg.scaling import conjugate_transpose, power_of_two_scale

SCALES = ("frobenius", "gram", "spectral")
_POWER_STEPS, _POWER_STARTS, _POWER_MARGIN = 8, 8, 1.05


class Scaled(NamedTuple):
    """A wide matrix divided by its scale.

    Attributes:
        y: ``X / sigma`` or its conjugate transpose, m <= n.
        raw: ``y * rest``, for programs that can apply ``1 / rest`` to something smaller.
        gram: ``y y^H`` when the scale needed it, else None.
        power: power-of-two part of ``sigma``, (*batch, 1, 1).
        rest: ``sigma / power``, (*batch, 1, 1).
        tall: whether ``y`` is the conjugate transpose.
    """

    y: Inexact[Array, "*batch m n"]
    raw: Inexact[Array, "*batch m n"]
    gram: Inexact[Array, "*batch m m"] | None
    power: Float[Array, "*batch 1 1"]
    rest: Float[Array, "*batch 1 1"]
    tall: bool


def matmul(
    a: Inexact[Array, "..."], b: Inexact[Array, "..."], precision: lax.Precision = lax.Precision.HIGHEST
) -> Inexact[Array, "..."]:
    """Matrix product, by default with all digits of the dtype on every backend.

    Args:
        a: (*batch, m, k).
        b: (*batch, k, n).
        precision: of the product.

    Returns:
        ``a b``, (*batch, m, n).
    """
    return jnp.matmul(a, b, precision=precision)


def hermitian_product(
    a: Inexact[Array, "*batch m k"], b: Inexact[Array, "*batch k m"], precision: lax.Precision
) -> Inexact[Array, "*batch m m"]:
    """``a b`` where it is Hermitian up to rounding: on the CPU only the upper block rows of a large one are computed.

    Saves 11-25 % of the time of a product at m = 512 and 768; below, the blocks are too small for several threads.

    Args:
        a: left factor.
        b: right factor.
        precision: of the product.

    Returns:
        The product.
    """
    size, blocks = a.shape[-2], 4
    if size < 512 or jax.default_backend() != "cpu":
        return matmul(a, b, precision)
    edges = [round(block * size / blocks) for block in range(blocks + 1)]
    upper = [matmul(a[..., i:j, :], b[..., :, i:], precision) for i, j in itertools.pairwise(edges)]
    rows = []
    for block, (i, j) in enumerate(itertools.pairwise(edges)):
        left = [conjugate_transpose(upper[k][..., :, i - edges[k] : j - edges[k]]) for k in range(block)]
        rows.append(jnp.concatenate([*left, upper[block]], axis=-1))
    return jnp.concatenate(rows, axis=-2)


def wide(x: Inexact[Array, "*batch m n"]) -> tuple[Inexact[Array, "*batch r k"], bool]:
    """``x`` or its conjugate transpose, whichever has no more rows than columns, and whether it was transposed."""
    tall = x.shape[-2] > x.shape[-1]
    return (conjugate_transpose(x) if tall else x), tall


def normalise(
    x: Inexact[Array, "*batch m n"], scale: str | ArrayLike, precision: lax.Precision, *, need_gram: bool = False
) -> Scaled:
    """Divide ``x`` by ``sigma``.

    Args:
        x: matrices in the compute dtype.
        scale: "frobenius", "gram" (``||X X^H||_F^(1/2)``, at most ``r^(1/4)`` too large), "spectral" (8 power steps
            with 8 starts, times 1.05, never above "gram" or "frobenius") or a number.
        precision: of the matrix products.
        need_gram: return the Gram matrix whatever the scale.

    Returns:
        The scaled matrices; a zero matrix keeps sigma = 1 (0 ** anything is then 0).
    """
    y, tall = wide(x)
    power = power_of_two_scale(y, keepdims=True)
    y = y / power.astype(y.real.dtype)
    gram = None
    if need_gram or (isinstance(scale, str) and scale == "gram"):
        gram = hermitian_product(y, conjugate_transpose(y), precision)
    if not isinstance(scale, str):
        rest = jnp.broadcast_to(jnp.asarray(scale, power.dtype) / power, power.shape)
    elif scale == "spectral":
        rest = spectral_bound(y, gram, precision)
    else:
        rest = _root(frobenius(gram)) if scale == "gram" else frobenius(y) if gram is None else _root(_trace(gram))
    rest = jnp.where(rest > 0, rest, 1) if isinstance(scale, str) else rest
    inverse = 1 / rest
    return Scaled(y * inverse, y, None if gram is None else gram * inverse**2, power, rest, tall)


def frobenius(y: Inexact[Array, "*batch m n"]) -> Float[Array, "*batch 1 1"]:
    """Frobenius norm with a derivative of 0 at the zero matrix."""
    squares = jnp.sum((y * y.conj()).real if jnp.iscomplexobj(y) else y * y, axis=(-2, -1), keepdims=True)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)


def spectral_bound(
    y: Inexact[Array, "*batch m n"], gram: Inexact[Array, "*batch m m"] | None, precision: lax.Precision
) -> Float[Array, "*batch 1 1"]:
    """1.05 times the largest of eight power iterations of eight steps, and no more than the Schatten-2 or -4 norm.

    Power steps estimate from below; with eight starts a direction missed by all of them does not occur in practice, and
    the margin covers the 1-4 % by which eight steps fall short on a flat spectrum.

    Args:
        y: wide matrices.
        gram: ``y y^H``, which makes a step one product; None if not known.
        precision: of the products.

    Returns:
        The bound; 0 for a zero matrix.
    """
    starts = np.random.default_rng(0).normal(size=(y.shape[-2], _POWER_STARTS))
    block = jnp.broadcast_to(jnp.asarray(starts, y.dtype), (*y.shape[:-1], _POWER_STARTS))

    def step(block):
        if gram is not None:
            return matmul(gram, block, precision)
        return matmul(y, matmul(conjugate_transpose(y), block, precision), precision)

    def unit(block):
        norm = jnp.sqrt(jnp.sum(jnp.abs(block) ** 2, axis=-2, keepdims=True))
        return block / jnp.where(norm > 0, norm, 1)

    for _ in range(_POWER_STEPS):
        block = unit(step(block))
    image = step(lax.stop_gradient(block))
    squares = jnp.sum((image * image.conj()).real, axis=-2, keepdims=True)
    largest = jnp.max(jnp.where(squares > 0, jnp.where(squares > 0, squares, 1) ** 0.25, squares), -1, keepdims=True)
    bound = frobenius(y) if gram is None else _root(frobenius(gram))
    return jnp.minimum(_POWER_MARGIN * largest, bound)


def _trace(gram):
    return jnp.trace(gram, axis1=-2, axis2=-1).real[..., None, None]


def _root(value):
    return jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1)), value)


def restore(out: Inexact[Array, "*batch m n"], scaled: Scaled, degree: ArrayLike) -> Inexact[Array, "*batch p q"]:
    """Undo the scale for a map of homogeneity ``degree`` and the transposition.

    Args:
        out: image of ``scaled.y``.
        scaled: what `normalise` returned.
        degree: a number, or one per matrix, (*batch,).

    Returns:
        ``sigma^degree out``, in the orientation of the matrices given to `normalise`.
    """
    if not (isinstance(degree, float) and degree == 0):
        if not isinstance(degree, float) and jnp.ndim(degree):
            degree = jnp.asarray(degree)[..., None, None]
        # Two factors: their product could overflow where the result does not.
        out = out * _raised(scaled.power, degree) * _raised(scaled.rest, degree)
    return conjugate_transpose(out) if scaled.tall else out


def _raised(base, degree):
    if isinstance(degree, float) and degree in (1, -1):
        return base if degree == 1 else 1 / base
    return base**degree
