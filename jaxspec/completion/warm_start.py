"""Warm starts of the tensor solver: a tensor, optionally with duals W_i, subgradients of ``alpha_i ||A_i X||_*``.

A good start (its error well below that of a cold start) about halves the iterations to moderate accuracy; the
asymptotic rate is unchanged, and a bad start gains nothing. Without duals the first penalty must be ten times larger,
or the first thresholding wipes the start out, even if it is the truth.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxspec.completion.blocks import unfoldings
from jaxspec.completion.validation import normalised_weights
from jaxspec.linalg import spectral_map, top_svd
from jaxspec.linalg.normalisation import matmul
from jaxspec.solvers import Block
from jaxspec.solvers.admm import without_excess

# Slope of the polar duals in units of the first penalty; 10 to 100 were found to do.
_POLAR_SLOPE = 30.0


class WarmStart(eqx.Module):
    """Where `complete_tensor` starts.

    Attributes:
        x: initial tensor in the units of the data; the exact problem overwrites its observed entries by the data.
        duals: None or ``"none"``: zero; ``"polar"``: ``U min(q s, alpha_i) V^T`` of the unfoldings of x, corrected to
            the support of the data; or one array per block, e.g. the ``duals`` of another result or of
            `dual_from_low_rank`.
        rho_scale: factor of the first penalty; None: 10 without duals, 1 with.
    """

    x: Float[Array, "..."]
    duals: Literal["none", "polar"] | Sequence[Array] | None = None
    rho_scale: float | Float[Array, ""] | None = None

    @property
    def has_duals(self) -> bool:
        """Whether the start brings duals."""
        return not (self.duals is None or (isinstance(self.duals, str) and self.duals == "none"))


def _off_support_removed(
    blocks: Sequence[Block], duals: Sequence[Array], support: Bool[Array, "..."]
) -> tuple[Array, ...]:
    """Duals moved by the least amount such that ``sum_i A_i^T W_i`` vanishes off the support of the data."""
    total = sum(block.scatter(block.data, w) for block, w in zip(blocks, duals, strict=True))
    return without_excess(blocks, duals, jnp.where(support, 0, total))


def polar_duals(
    blocks: Sequence[Block],
    x: Float[Array, "..."],
    support: Bool[Array, "..."],
    rho: Float[Array, ""],
    factor: float | Float[Array, ""] = 1.0,
) -> tuple[Array, ...]:
    """``W_i = U min(q s, threshold_i) V^T`` of the matrices of each block, corrected to the support.

    Args:
        blocks: regularisers made of nuclear norms (`blocks.unfoldings`, `blocks.row_groups`).
        x: tensor.
        support: True where the data term is not flat.
        rho: first penalty; q is 30 times it.
        factor: of the regularisers (lam).

    Returns:
        One array per block.

    Raises:
        ValueError: for a block that is not a stack of nuclear norms.
    """
    if not all(hasattr(block.prox, "thresholds") for block in blocks):
        raise ValueError("duals is 'polar'; expected a regulariser made of nuclear norms of matrices")

    def dual(block: Block) -> Array:
        thresholds = factor * block.prox.thresholds(block.data, x.dtype)[..., None]
        return spectral_map(block.gather(block.data, x), lambda s: jnp.minimum(_POLAR_SLOPE * rho * s, thresholds))

    return _off_support_removed(blocks, [dual(block) for block in blocks], support)


class _LowRank(NamedTuple):
    sign: Array  # alpha U V^T
    left: Array  # U
    right: Array  # V^T


def dual_from_low_rank(
    x: Float[Array, "..."],
    mask: Bool[Array, "..."],
    ranks: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    steps: int = 40,
) -> tuple[Array, ...]:
    """Duals for the exact problem at a low-rank tensor, by alternating between the two conditions that they must meet.

    ``W_i <- W_i - A_i(R) / m`` (nothing off the observed entries) and ``W_i <- alpha_i U V^T + (I - U U^T) W_i (I - V
    V^T)`` (a subgradient of ``alpha_i ||A_i X||_*``), with thin products only. The largest gain of all warm starts
    where the ranks are right.

    Args:
        x: low-rank tensor, e.g. the result of a factorisation method.
        mask: True where observed.
        ranks: rank of each plain unfolding of x.
        weights: alpha_i of the plain unfoldings; None: 1/N each. Normalised to sum 1, as in `complete_tensor`.
        steps: number of alternations (static).

    Returns:
        One array per block of ``blocks.unfoldings(x.shape, weights)``, for `WarmStart`.

    Raises:
        ValueError: for a wrong number of ranks, a rank out of range, a wrong number of weights, a negative or infinite
            one, or all weights 0.
    """
    if len(ranks) != x.ndim or any(not 1 <= rank <= x.shape[mode] for mode, rank in enumerate(ranks)):
        raise ValueError(f"ranks is {tuple(ranks)}; expected one rank per mode, each from 1 to its length in {x.shape}")
    weights = normalised_weights([1.0] * x.ndim if weights is None else weights, x.ndim)
    blocks = unfoldings(x.shape, weights)
    parts = tuple(_low_rank(block, x, tuple(ranks)) for block in blocks)
    return _alternated(blocks, parts, mask, steps)


@eqx.filter_jit
def _alternated(
    blocks: tuple[Block, ...], parts: tuple[_LowRank, ...], mask: Bool[Array, "..."], steps: int
) -> tuple[Array, ...]:
    def body(_: Array, duals: tuple[Array, ...]) -> tuple[Array, ...]:
        duals = _off_support_removed(blocks, duals, mask)
        return tuple(part.sign + _complement(part, w) for part, w in zip(parts, duals, strict=True))

    duals = jax.lax.fori_loop(0, steps, body, tuple(part.sign for part in parts))
    return _off_support_removed(blocks, duals, mask)


def _low_rank(block: Block, x: Array, ranks: tuple[int, ...]) -> _LowRank:
    matrices = block.gather(block.data, x)
    of_block = [ranks[mode] for mode in block.gather.modes]
    u, _, vt = top_svd(matrices, max(of_block))[:3]
    keep = jnp.arange(max(of_block)) < jnp.asarray(of_block)[:, None]
    u, vt = u * keep[:, None, :], vt * keep[:, :, None]
    thresholds = block.prox.thresholds(block.data, x.dtype)[:, None, None]
    return _LowRank(thresholds * matmul(u, vt), u, vt)


def _complement(part: _LowRank, w: Array) -> Array:
    w = w - matmul(part.left, matmul(part.left.mT, w))
    return w - matmul(matmul(w, part.right.mT), part.right)
