"""Problems that several parts of this paper measure: synthetic tensors, photographs, and real tensors from packages."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

CHINA_ROWS, CHINA_COLUMNS = 400, 640


class Problem(NamedTuple):
    """A tensor to complete.

    Attributes:
        truth: the tensor without noise.
        data: what is observed where the mask is True.
        mask: True where observed.
    """

    truth: Float[Array, "..."]
    data: Float[Array, "..."]
    mask: Bool[Array, "..."]


def tucker(
    key: PRNGKeyArray, shape: tuple[int, ...], ranks: tuple[int, ...], sampling: float, noise: float = 0.0
) -> Problem:
    """Gaussian core and factors, scaled to root mean square 1, with a Bernoulli mask.

    Args:
        key: randomness.
        shape: of the tensor.
        ranks: Tucker ranks.
        sampling: probability that an entry is observed.
        noise: standard deviation of the Gaussian noise on the data.

    Returns:
        The problem.
    """
    core_key, mask_key, noise_key, *factor_keys = jax.random.split(key, 3 + len(shape))
    x = jax.random.normal(core_key, ranks)
    for mode, (n, rank, factor_key) in enumerate(zip(shape, ranks, factor_keys, strict=True)):
        factor = jax.random.normal(factor_key, (n, rank))
        x = jnp.moveaxis(jnp.tensordot(factor, x, axes=(1, mode)), 0, mode)
    return observe(x / jnp.sqrt(jnp.mean(x**2)), mask_key, sampling, noise, noise_key)


def observe(
    truth: Float[Array, "..."],
    mask_key: PRNGKeyArray,
    sampling: float,
    noise: float = 0.0,
    noise_key: PRNGKeyArray | None = None,
) -> Problem:
    """Bernoulli mask and, if asked for, Gaussian noise."""
    mask = jax.random.bernoulli(mask_key, sampling, truth.shape)
    data = truth if noise == 0 else truth + noise * jax.random.normal(noise_key, truth.shape)
    return Problem(truth, data, mask)


def photograph(name: str, block: int) -> np.ndarray:
    """A photograph bundled with scikit-learn or scikit-image, averaged over blocks of pixels, values in [0, 1].

    Args:
        name: ``china`` or ``flower`` (scikit-learn; the first 400 rows and 640 columns), or ``astronaut``, ``coffee``,
            ``chelsea`` (scikit-image).
        block: side of the blocks that are averaged; 1: the photograph itself.

    Returns:
        Pixels, shape (rows // block, columns // block, 3).
    """
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")[:CHINA_ROWS, :CHINA_COLUMNS]
    else:
        import skimage.data

        pixels = getattr(skimage.data, name)()
    rows, columns = (side // block for side in pixels.shape[:2])
    blocks = pixels[: rows * block, : columns * block].reshape(rows, block, columns, block, 3)
    return blocks.mean(axis=(1, 3)) / 255.0


def real_tensor(name: str) -> np.ndarray:
    """A measured tensor bundled with tensorly, scaled to root mean square 1; NaN where it was not measured.

    Args:
        name: ``il2`` (IL-2 response, ligand x time x dose x cell), ``covid`` (serology, subject x antigen x receptor),
            ``kinetic`` (fluorescence, every second sample) or ``pines`` (hyperspectral, a 48 x 48 crop, every fourth
            band).

    Returns:
        The tensor.
    """
    from tensorly import datasets

    if name == "il2":
        tensor = datasets.load_IL2data().tensor
    elif name == "covid":
        tensor = datasets.load_covid19_serology().tensor
    elif name == "kinetic":
        tensor = datasets.load_kinetic().tensor[::2]
    elif name == "pines":
        tensor = datasets.load_indian_pines().tensor[:48, :48, ::4]
    else:
        raise ValueError(f"name is {name!r}; expected il2, covid, kinetic or pines")
    tensor = np.asarray(tensor, dtype=float)
    return tensor / np.sqrt(np.nanmean(tensor**2))


def first_below(curve: Float[np.ndarray, "*batch iterations"], bound: float, cap: int) -> Float[np.ndarray, "*batch"]:
    """Iterations until a recorded curve first falls to ``bound``; ``cap`` where it never does.

    Args:
        curve: one value per iteration along the last axis, NaN after the end.
        bound: to fall to.
        cap: what a miss counts as.

    Returns:
        Iterations, counted from 1.
    """
    below = np.asarray(curve) <= bound
    return np.where(below.any(axis=-1), below.argmax(axis=-1) + 1, cap).astype(float)
