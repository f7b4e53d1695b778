"""A small GPT for experiments, on bytes or any other tokens.

``x <- x + attention(rms(x))``, ``x <- x + mlp(rms(x))`` in every block; learned positions, untied head, no biases. The
layers are stacked on the first axis of their parameters, so that their matrices are mapped in one batch. A hook may
read or change the activations on their way (`unchanged` says where).
"""

from collections.abc import Callable
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
        hidden: of the MLP; 0: four times the width.
    """

    width: int = 96
    heads: int = 4
    layers: int = 2
    context: int = 64
    vocabulary: int = 256
    hidden: int = 0


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


def unchanged(x: Float[Array, "*batch width"], place: str, layer: int | Int[Array, ""]) -> Float[Array, "*batch width"]:
    """The hook that does nothing; others have its signature.

    Args:
        x: activations.
        place: ``"attention"`` or ``"mlp"``: the residual stream after that half of the block has written to it;
            ``"mixed"``: the values that attention has mixed, before the output kernel; ``"hidden"``: the hidden
            activations of the MLP, before the down kernel.
        layer: of the block, 0 the first.

    Returns:
        The activations with which the model goes on.
    """
    del place, layer
    return x


class GPT(eqx.Module):
    """The model; every array in it is a parameter."""

    embedding: Float[Array, "vocabulary width"]
    positions: Float[Array, "context width"]
    blocks: Blocks
    gain: Float[Array, " width"]
    head: Float[Array, "width vocabulary"]
    heads: int = eqx.field(static=True)

    def logits(
        self, tokens: Int[Array, "*batch length"], hook: Callable[..., Array] = unchanged
    ) -> Float[Array, "*batch length vocabulary"]:
        """Scores of the next token after every token.

        Args:
            tokens: at most as many as the context.
            hook: of the activations, with the signature of `unchanged`.

        Returns:
            Unnormalised log-probabilities; those at a place depend on no later token.
        """
        x, _ = self._run(self.blocks, self._embedded(tokens), hook)
        return rms_norm(x, self.gain) @ self.head

    def last_logits(
        self, tokens: Int[Array, "*batch length"], hook: Callable[..., Array] = unchanged
    ) -> Float[Array, "*batch vocabulary"]:
        """``logits(tokens, hook)[..., -1, :]``, for which the last block computes nothing at the other places.

        Args:
            tokens: as of `logits`.
            hook: as of `logits`; in the last block it sees the last place alone.

        Returns:
            Scores of the token that follows.
        """
        early, last = (jax.tree.map(lambda kernel, part=part: kernel[part], self.blocks) for part in (slice(-1), -1))
        x, _ = self._run(early, self._embedded(tokens), hook)
        x = _block(x, last, len(self.blocks.up) - 1, self.heads, hook, asked=slice(-1, None))
        return rms_norm(x[..., 0, :], self.gain) @ self.head

    def stream(
        self, tokens: Int[Array, "*batch length"], hook: Callable[..., Array] = unchanged
    ) -> Float[Array, "layers *batch length width"]:
        """The residual stream after every block; arguments as of `logits`."""
        return self._run(self.blocks, self._embedded(tokens), hook)[1]

    def _embedded(self, tokens):
        return self.embedding[tokens] + self.positions[: tokens.shape[-1]]

    def _run(self, blocks, x, hook):
        """The stream after the last of the blocks, and after every one."""

        def layer(x, block_and_number):
            x = _block(x, *block_and_number, self.heads, hook)
            return x, x

        # Unrolled: inside a loop the CPU runs element-wise work on one thread, which doubles the time of a step.
        return jax.lax.scan(layer, x, (blocks, jnp.arange(len(blocks.up))), unroll=True)


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
    width, hidden = shape.width, shape.hidden or 4 * shape.width
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
    key: Array, text: Integer[Array | np.ndarray, " tokens"], count: int, context: int
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


def rms_norm(x: Float[Array, "*batch width"], gain: Float[Array, " width"]) -> Float[Array, "*batch width"]:
    """``gain x / rms(x)``."""
    return gain * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def _block(x, block, number, heads, hook, asked=slice(None)):
    """The stream after one block, at the places that are asked for."""
    mixed = _attention(block, rms_norm(x, block.attention_gain), heads, asked)
    x = hook(x[..., asked, :] + hook(mixed, "mixed", number) @ block.output, "attention", number)
    hidden = hook(jax.nn.gelu(rms_norm(x, block.mlp_gain) @ block.up), "hidden", number)
    return hook(x + hidden @ block.down, "mlp", number)


def _attention(block, x, heads, asked):
    def split(x, kernel):
        y = x @ kernel
        return y.reshape(*y.shape[:-1], heads, -1)

    query = split(x[..., asked, :], block.query)
    causal = query.shape[-3] > 1  # the last place sees all
    mixed = jax.nn.dot_product_attention(query, split(x, block.key), split(x, block.value), is_causal=causal)
    return mixed.reshape(*mixed.shape[:-2], -1)
