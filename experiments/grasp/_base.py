"""The pretrained decoder that all parts fine-tune: trained once for a seed, then read from a cache on disk.

The cache is the folder ``jaxspec/grasp`` below ``$XDG_CACHE_HOME`` (``~/.cache``); its entries are written whole or not
at all. Where it cannot be written, the model is trained again every time.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments import _gpt
from experiments._gpt import GPT, Shape, initial_model, unchanged
from experiments.grasp import _corpus
from experiments.grasp._corpus import LENGTH, Sizes, World, draw_world, pretraining_rows
from experiments.runner import store
from experiments.runner.contract import Progress, RunnerError


class Pretraining(NamedTuple):
    """How the decoder is made.

    Attributes:
        sizes: of the world.
        permuted: whether the bad answer is one fixed permutation of the good one.
        width: of the residual stream.
        heads: of the attention.
        layers: blocks.
        hidden: of the MLP.
        batch: prompts per step.
        steps: updates of AdamW.
        rate: its learning rate, falling to 0 as a cosine.
        decay: weight decay.
    """

    sizes: Sizes = Sizes()
    permuted: bool = False
    width: int = 64
    heads: int = 4
    layers: int = 3
    hidden: int = 192
    batch: int = 256
    steps: int = 2500
    rate: float = 3e-3
    decay: float = 0.02


class Base(NamedTuple):
    """Pretrained decoders with the worlds they know, one along the leading axis of every array.

    Attributes:
        model: the decoders; all gains are 1.
        world: the facts, or the texts.
    """

    model: GPT
    world: Any


def pretrained(how: Pretraining, seeds: Sequence[int], progress: Progress) -> Base:
    """The decoders of several seeds, trained or read.

    Args:
        how: sizes and training.
        seeds: of the worlds and of the models.
        progress: one stage.

    Returns:
        The decoders, stacked.
    """
    bases = [_one(how, seed) for seed in progress.track("pretrained decoders", seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bases)


def answer_loss(
    model: GPT,
    tokens: Int[Array, "batch length"],
    answers: Int[Array, " batch"],
    hook=unchanged,
) -> Float[Array, ""]:
    """Mean cross-entropy of the answer that follows each prompt, in nats.

    Args:
        model: the decoder.
        tokens: prompts.
        answers: their answers.
        hook: of the activations, as of `experiments._gpt.unchanged`.

    Returns:
        The loss.
    """
    scores = model.last_logits(tokens, hook)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, answers))


def untrained(how: Pretraining, seed: int) -> GPT:
    """The decoder that training starts from.

    The specification leaves the start open, and it decides whether fine-tunes drift at all: with kernels of variance
    ``1/fan_in`` throughout one decoder of four did. That of `experiments._gpt` was chosen on seeds 1000 to 1002, where
    all three drifted after 1000 steps of pretraining (0.70, 0.70, 0.79; the specification's prototype 0.69, 0.75).

    Args:
        how: sizes.
        seed: of the draws.

    Returns:
        The decoder.
    """
    shape = Shape(how.width, how.heads, how.layers, LENGTH, how.sizes.vocabulary, how.hidden)
    return initial_model(jax.random.key(seed), shape)


def cache_folder(how: Any, seed: int, *sources: str) -> Path:
    """Where a decoder is kept: a name for its numbers and for the sources that make it.

    Args:
        how: numbers of the training, with a ``repr`` that tells them apart.
        seed: of the decoder.
        *sources: further files whose text decides what the decoder becomes.

    Returns:
        The folder.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(f"{how!r} {seed} {jax.__version__}".encode())
    for module in (_gpt.__file__, _corpus.__file__, __file__, *sources):
        digest.update(Path(module).read_bytes())
    return root / "jaxspec" / "grasp" / digest.hexdigest()[:16]


def kept(folder: Path, model: GPT, train: Callable[[GPT], GPT], attributes: dict[str, Any]) -> GPT:
    """The decoder that is kept in a folder, or trained and kept there.

    Args:
        folder: of the cache.
        model: untrained.
        train: what trains it.
        attributes: what the folder says about the decoder.

    Returns:
        The trained decoder.
    """
    leaves, structure = jax.tree.flatten(model)
    with contextlib.suppress(RunnerError):  # what cannot be read is made again
        saved = store.load(folder)
        if saved is not None:
            return structure.unflatten([saved.arrays[str(n)] for n in range(len(leaves))])
    trained = jax.block_until_ready(train(model))
    arrays = {str(n): np.asarray(leaf) for n, leaf in enumerate(jax.tree.leaves(trained))}
    with contextlib.suppress(RunnerError):  # a cache that cannot be written, or another process was quicker
        store.save(folder, arrays, attributes)
    return trained


def _one(how: Pretraining, seed: int) -> Base:
    world, model = draw_world(how.sizes, seed, permuted=how.permuted), untrained(how, seed)
    key = jax.random.fold_in(jax.random.key(seed), len(jax.tree.leaves(model)))
    attributes = {"pretraining": repr(how), "seed": seed}
    trained = kept(cache_folder(how, seed), model, lambda model: _train(model, world, key, how), attributes)
    return Base(trained, world)


def pretraining_optimizer(schedule: optax.Schedule, decay: float, model: GPT) -> optax.GradientTransformation:
    """AdamW on everything but the gains, which stay 1.

    Args:
        schedule: of the learning rate.
        decay: weight decay.
        model: for its structure.

    Returns:
        The optimiser.
    """
    kinds = jax.tree_util.tree_map_with_path(_kind, model)
    trained = optax.adamw(schedule, weight_decay=decay)
    return optax.multi_transform({"trained": trained, "fixed": optax.set_to_zero()}, kinds)


@functools.partial(jax.jit, static_argnames="how")
def _train(model: GPT, world: World, key: Array, how: Pretraining) -> GPT:
    optimizer = pretraining_optimizer(optax.cosine_decay_schedule(how.rate, how.steps), how.decay, model)
    facts = jax.tree.map(jnp.asarray, world)

    def step(carry, key):
        model, state = carry
        tokens, answers = pretraining_rows(key, how.sizes, facts, how.batch)
        gradient = jax.grad(answer_loss)(model, tokens, answers)
        updates, state = optimizer.update(gradient, state, model)
        return (optax.apply_updates(model, updates), state), None

    (model, _), _ = jax.lax.scan(step, (model, optimizer.init(model)), jax.random.split(key, how.steps))
    return model


def _kind(path, leaf) -> str:
    """The norms of this decoder have no gain: it stays 1."""
    del leaf
    return "fixed" if "gain" in jax.tree_util.keystr(path) else "trained"
