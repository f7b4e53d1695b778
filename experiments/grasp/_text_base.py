"""Decoders pretrained on real text, kept as those of `experiments.grasp._base` are.

One decoder is trained after the other; the rows of a step are divided over the devices.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _sweep
from experiments._gpt import GPT, Shape, initial_model
from experiments._sweep import on_all_devices
from experiments.grasp import _text
from experiments.grasp._base import Base, cache_folder, kept, pretraining_optimizer
from experiments.grasp._text import HEADER, Passages, Texts, log_probabilities
from experiments.runner.contract import Progress
from jaxspec.processes import gathered

CHUNK = 50  # steps of one compiled program, after which progress is shown


class TextPretraining(NamedTuple):
    """How a decoder is made.

    Attributes:
        corpus: the rows.
        width: of the residual stream.
        heads: of the attention.
        layers: blocks.
        hidden: of the MLP.
        batch: rows per step, over all devices.
        steps: updates of AdamW, a multiple of ``CHUNK``.
        rate: its learning rate, after a warm-up over a twentieth of the steps; then falling to 0 as a cosine.
        decay: weight decay.
    """

    corpus: Passages
    width: int
    heads: int
    layers: int
    hidden: int
    batch: int
    steps: int
    rate: float = 3e-3
    decay: float = 0.02

    @property
    def shape(self) -> Shape:
        """Sizes of the decoder."""
        context = HEADER + self.corpus.context - 1  # the last byte is predicted, not read
        return Shape(self.width, self.heads, self.layers, context, self.corpus.vocabulary, self.hidden)


def pretrained_on_text(how: TextPretraining, texts: Sequence[Texts], seeds: Sequence[int], progress: Progress) -> Base:
    """The decoders of several texts, trained or read.

    Args:
        how: sizes and training.
        texts: one for each decoder.
        seeds: of the decoders.
        progress: one stage.

    Returns:
        The decoders, stacked.

    Raises:
        ValueError: ``steps`` is no multiple of ``CHUNK``.
    """
    if how.steps % CHUNK:
        raise ValueError(f"pretraining is {how.steps}; expected a multiple of {CHUNK} steps")
    bases = []
    with progress.stage("steps of pretraining", total=how.steps * len(seeds)):
        for text, seed in zip(texts, seeds, strict=True):
            digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in text)).hexdigest()
            folder = cache_folder((how, digest), seed, _text.__file__, _sweep.__file__, __file__)
            train = functools.partial(_train, text=text, seed=seed, how=how, advance=progress.advance)
            model = initial_model(jax.random.key(seed), how.shape)
            trained = kept(folder, model, train, {"pretraining": repr(how), "seed": seed, "texts": digest})
            bases.append(Base(trained, text))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bases)


def _train(model: GPT, *, text: Texts, seed: int, how: TextPretraining, advance: Any) -> GPT:
    carry = on_all_devices((model, _optimizer(how, model).init(model)))
    text = on_all_devices(jax.tree.map(jnp.asarray, text))
    for first in range(0, how.steps, CHUNK):
        carry = jax.block_until_ready(_steps(carry, text, np.int32(seed), np.arange(first, first + CHUNK), how))
        advance(CHUNK)
    return gathered(carry[0])


@functools.partial(jax.jit, static_argnames="how", donate_argnums=0)
def _steps(carry: Any, text: Texts, seed: Any, numbers: Any, how: TextPretraining) -> Any:
    optimizer, key = _optimizer(how, carry[0]), jax.random.key(seed)

    def loss(model, key):
        return -jnp.mean(log_probabilities(model, how.corpus.spoken(text, key, how.batch)))

    def step(carry, number):
        model, state = carry
        updates, state = optimizer.update(jax.grad(loss)(model, jax.random.fold_in(key, number)), state, model)
        return (optax.apply_updates(model, updates), state), None

    return jax.lax.scan(step, carry, numbers)[0]


def _optimizer(how: TextPretraining, model: GPT) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, how.rate, max(1, how.steps // 20), how.steps)
    return pretraining_optimizer(schedule, how.decay, model)
