"""Spectra of parameters, momenta and updates, leaf by leaf, for logs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxspec.linalg import singular_values
from jaxspec.optim.layout import DimsTree, buckets, leaf_layout, leaves_with_dims, stack


class LeafSpectrum(NamedTuple):
    """Spectrum of the matrices of one leaf.

    Attributes:
        values: singular values, descending.
        effective_rank: see `effective_rank`.
        stable_rank: see `stable_rank`.
    """

    values: Float[Array, "batch r"]
    effective_rank: Float[Array, " batch"]
    stable_rank: Float[Array, " batch"]


def leaf_spectra(tree: PyTree, *, dimension_numbers: DimsTree = None) -> dict[str, tuple[LeafSpectrum, ...]]:
    """Singular values and ranks of every leaf that is made of matrices; leaves with fewer than two axes are left out.

    Equal shapes share one batched decomposition. Under `jit` the result is a pytree, so it can be returned from a
    training step every so many steps and logged by path.

    Args:
        tree: parameters, gradients, momentum or updates.
        dimension_numbers: as in `scale_by_spectral`.

    Returns:
        Path to one `LeafSpectrum` per block of the leaf's layout (one, unless unequal matrices are fused).

    Raises:
        ValueError: a leaf with more than two axes and no dimension numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> (found,) = leaf_spectra({"w": jnp.diag(jnp.array([3.0, 3.0, 0.0])), "b": jnp.ones(3)})["['w']"]
        >>> found.effective_rank
        Array([2.], dtype=float32)
    """
    leaves = [
        (leaf, leaf_layout(path, leaf.shape, dims))
        for path, leaf, dims, _ in leaves_with_dims(tree, dimension_numbers)
        if jnp.ndim(leaf) >= 2 and jnp.size(leaf)
    ]
    spectra = [layout.split(leaf) for leaf, layout in leaves]
    for members in buckets(spectra):
        values, start = singular_values(stack([spectra[leaf][piece] for leaf, piece in members])), 0
        for leaf, piece in members:
            stop = start + len(spectra[leaf][piece])
            s = values[start:stop]
            spectra[leaf][piece] = LeafSpectrum(s, effective_rank(s), stable_rank(s))
            start = stop
    return {layout.path: tuple(found) for (_, layout), found in zip(leaves, spectra, strict=True)}


def effective_rank(values: Float[Array, "*batch r"]) -> Float[Array, "*batch"]:
    """Exponential of the entropy of the singular values, ``exp(-sum p_i log p_i)``, ``p = s / sum s``; 0 for zeros.

    Args:
        values: singular values.

    Returns:
        Between 1 (rank one) and r (all equal).

    Reference:
        Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> import jax.numpy as jnp
        >>> effective_rank(jnp.array([1.0, 1.0, 0.0]))
        Array(2., dtype=float32)
    """
    total = jnp.sum(values, axis=-1, keepdims=True)
    p = values / jnp.where(total == 0, 1, total)
    entropy = -jnp.sum(p * jnp.log(jnp.where(p == 0, 1, p)), axis=-1)
    return jnp.where(total[..., 0] == 0, 0, jnp.exp(entropy))


def stable_rank(values: Float[Array, "*batch r"]) -> Float[Array, "*batch"]:
    """``||X||_F^2 / ||X||_2^2``, from the singular values; 0 for zeros.

    Args:
        values: singular values, descending.

    Returns:
        Between 1 and the rank.

    Example:
        >>> import jax.numpy as jnp
        >>> stable_rank(jnp.array([2.0, 1.0, 1.0]))
        Array(1.5, dtype=float32)
    """
    top = values[..., :1]
    return jnp.sum((values / jnp.where(top == 0, 1, top)) ** 2, axis=-1)
