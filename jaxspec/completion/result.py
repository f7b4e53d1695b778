"""What a tensor-completion method returns."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.linalg import singular_values
from jaxspec.solvers import ADMMInfo, Block
from jaxspec.solvers.loop import History


class TensorCompletion(eqx.Module):
    """A completed tensor and what is known about it.

    Attributes:
        tensor: the completion, in the units and dtype of the data.
        duals: W_i, one array per block: subgradients of ``lam alpha_i ||A_i X||_*`` in the limit, with
            ``sum_i A_i^T W_i = -grad`` of the data term. Empty for methods without duals.
        rho: last penalties, one per block.
        info: how the run ended.
        history: per-iteration ``primal``, ``dual``, ``rho``, ``objective`` (and ``nmse`` with a known truth), or None.
        scale: power of two by which the data were divided.
        state: of the engine in the scaled units, to resume; None for methods that cannot.
        blocks: the regularisers.
    """

    tensor: Float[Array, "..."]
    duals: tuple[Array, ...]
    rho: Float[Array, "*batch m"]
    info: ADMMInfo
    history: History | None
    scale: Float[Array, "*batch"]
    state: Any
    blocks: tuple[Block, ...]

    @property
    def ranks(self) -> tuple[Array, ...]:
        """Numerical ranks of the thresholded matrices y_i, one array per block that is a stack of matrices.

        Empty for methods that keep no such matrices.
        """
        if self.state is None:
            return ()
        eps = jnp.finfo(self.state.x.dtype).eps
        stacks = [
            (y, block) for y, block in zip(self.state.y, self.blocks, strict=True) if hasattr(block.prox, "thresholds")
        ]

        def rank(y: Array) -> Array:
            s = singular_values(y)
            return jnp.sum(s > max(y.shape[-2:]) * eps * jnp.max(s, axis=-1, keepdims=True, initial=0), axis=-1)

        return tuple(rank(y) for y, _ in stacks)
