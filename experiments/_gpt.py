"""A small GPT for experiments, on bytes or any other tokens.

``x <- x + attention(rms(x))``, ``x <- x + mlp(rms(x))`` in every block; learned positions, untied head, no biases. The
layers are stacked on the first axis of their parameters, so that their matrices are mapped in one batch.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer, PyTree

from jaxspec.optim import MatrixDims


class Shape(NamedTuple):
    """Sizes of a model.

    Attributes:
        width: of the residual stream.
        heads: of the attention, dividing the width.
        layers: blocks.
        context: tokens that a prediction sees at most.
        vocabulary: number of tokens; 256 for bytes.
    """

    width: int = 96
    heads: int = 4
    layers: int = 2
    context: int = 64
    vocabulary: int = 256


class Blocks(eqx.Module):
    """Parameters of the blocks, one layer along the first axis; kernels are applied as ``x @ kernel``."""

    query: Float[Array, "layers width width"]
    key: Float[Array, "layers width width"]
    value: Float[Array, "layers width width"]
    output: Float[Array, "layers width width"]
    up: Float[Array, "layers width hidden"]
    down: Float[Array, "layers hidden width"]
    attention_gain: Float[Array, "layers width"]
    mlp_gain: Float[Array, "layers width"]


class GPT(eqx.Module):
    """The model; every array in it is a parameter."""

    embedding: Float[Array, "vocabulary width"]
    positions: Float[Array, "context width"]
    blocks: Blocks
    gain: Float[Array, "width"]
    head: Float[Array, "width vocabulary"]
    heads: int = eqx.field(static=True)

    def logits(self, tokens: Int[Array, "*batch length"]) -> Float[Array, "*batch length vocabulary"]:
        """Scores of the next token after every token.

        Args:
            tokens: at most as many as the context.

        Returns:
            Unnormalised log-probabilities; those at a place depend on no later token.
        """
        x = self.embedding[tokens] + self.positions[: tokens.shape[-1]]

        def layer(x, block):
            x = x + _attention(block, rms_norm(x, block.attention_gain), self.heads)
            return x + jax.nn.gelu(rms_norm(x, block.mlp_gain) @ block.up) @ block.down, None

        # Unrolled: inside a loop the CPU runs element-wise work on one thread, which doubles the time of a step.
        x, _ = jax.lax.scan(layer, x, self.blocks, unroll=True)
        return rms_norm(x, self.gain) @ self.head


def initial_model(key: Array, shape: Shape) -> GPT:
    """Gaussian parameters, all gains 1.

    Standard deviations: ``fan_in^(-1/2)`` for query, key, value and up, half of that for output and down, so that the
    residual stream grows slowly; embedding 0.1, positions 0.02, head ``0.1 width^(-1/2)``: near-uniform predictions.

    Args:
        key: randomness.
        shape: sizes.

    Returns:
        The model.
    """
    width, hidden = shape.width, 4 * shape.width
    if width % shape.heads:
        raise ValueError(f"width is {width} and heads is {shape.heads}; expected a divisor")
    square, keys = (shape.layers, width, width), iter(jax.random.split(key, 9))

    def normal(size: tuple[int, ...], deviation: float) -> Array:
        return deviation * jax.random.normal(next(keys), size)

    blocks = Blocks(
        query=normal(square, width**-0.5),
        key=normal(square, width**-0.5),
        value=normal(square, width**-0.5),
        output=normal(square, width**-0.5 / 2),
        up=normal((shape.layers, width, hidden), width**-0.5),
        down=normal((shape.layers, hidden, width), hidden**-0.5 / 2),
        attention_gain=jnp.ones((shape.layers, width)),
        mlp_gain=jnp.ones((shape.layers, width)),
    )
    return GPT(
        embedding=normal((shape.vocabulary, width), 0.1),
        positions=normal((shape.context, width), 0.02),
        blocks=blocks,
        gain=jnp.ones(width),
        head=normal((width, shape.vocabulary), 0.1 * width**-0.5),
        heads=shape.heads,
    )


def block_matrices(params: PyTree) -> PyTree:
    """Dimension numbers for `jaxspec.optim`: the kernels of the blocks are matrices, everything else goes to Adam."""
    return jax.tree.map(lambda leaf: MatrixDims(-2, -1) if jnp.ndim(leaf) == 3 else None, params)


def loss(model: GPT, windows: Int[Array, "batch length"]) -> Float[Array, ""]:
    """Mean cross-entropy of the next token, in nats per token.

    Args:
        model: the model.
        windows: of tokens; each predicts all of its tokens but the first.

    Returns:
        The loss; ``log vocabulary`` for uniform predictions (5.545 for bytes).
    """
    scores = model.logits(windows[:, :-1])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, windows[:, 1:]))


def random_windows(
    key: Array, text: Integer[Array | np.ndarray, "tokens"], count: int, context: int
) -> Int[Array, "count length"]:
    """Windows of ``context + 1`` tokens at random places.

    Args:
        key: randomness.
        text: tokens.
        count: number of windows.
        context: tokens that are predicted from.

    Returns:
        The windows.
    """
    starts = jax.random.randint(key, (count, 1), 0, len(text) - context)
    return jnp.asarray(text)[starts + jnp.arange(context + 1)].astype(jnp.int32)


def rms_norm(x: Float[Array, "*batch width"], gain: Float[Array, "width"]) -> Float[Array, "*batch width"]:
    """``gain x / rms(x)``."""
    return gain * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def _attention(block, x, heads):
    def split(kernel):
        y = x @ kernel
        return y.reshape(*y.shape[:-1], heads, -1)

    mixed = jax.nn.dot_product_attention(split(block.query), split(block.key), split(block.value), is_causal=True)
    return mixed.reshape(x.shape) @ block.output
