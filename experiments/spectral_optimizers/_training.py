"""Trains the language model with one of the optimisers under test on the matrices of its blocks.

Embeddings, positions, head and gains always get Adam with a learning rate of their own: what differs between two runs
is what happens to the matrices.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from experiments._gpt import GPT, Shape, block_matrices, initial_model, loss, random_windows
from experiments._sweep import divided
from experiments.spectral_optimizers._text import Text, fixed_windows
from jaxspec.optim import scale_by_freon, scale_by_kaon, truncated_sgd, with_adam

ADAM_RATE, B1, B2 = 3e-3, 0.9, 0.95


@dataclass(frozen=True)
class Recipe:
    """How a run trains, apart from optimiser, learning rate and seed.

    Attributes:
        shape: of the model.
        batch: windows per step.
        steps: updates.
        validation: fixed windows on which the validation loss is measured.
        warmup: steps of linear warm-up, after which the rate decays linearly to a tenth.
        eps: regularisation of the powers of the spectrum.
        shape_scale: factor of the shape of a matrix.
        head_rate: factor of Adam's learning rate for the head.
    """

    shape: Shape
    batch: int = 16
    steps: int = 100
    validation: int = 256
    warmup: int = 10
    eps: float = 1e-3
    shape_scale: str = "rms"
    head_rate: float = 1.0


class Run(NamedTuple):
    """A trained model and its history.

    Attributes:
        model: after the last step.
        train: loss of the batch of every step, before the step.
        validation: loss after the last step, nats per byte.
    """

    model: GPT
    train: np.ndarray
    validation: float


def signed_uniform(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform on (-1, 1), of mean 0: the spectrum that must not work, as half of the directions ascend."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def matrix_transformation(
    name: str,
    key: Array,
    *,
    beta: float = 0.95,
    eps: float = 1e-3,
    shape_scale: str = "rms",
) -> optax.GradientTransformation:
    """What the gradients of the matrices go through, before the learning rate.

    Args:
        name: ``c=NUMBER`` (Freon; 0 is SGD with rms-normalised updates, 0.5 Muon), ``Kaon``, ``Kaon T=NUMBER``,
            ``Kaon iid``, ``signed noise``, ``Adam``, ``SGD`` or ``truncated SGD``.
        key: randomness of the random spectra.
        beta: momentum, with Nesterov's look-ahead; 0: none.
        eps: regularisation of Freon, relative to the Frobenius norm.
        shape_scale: as in `jaxspec.optim.scale_by_spectral`.

    Returns:
        The transformation.

    Raises:
        ValueError: an unknown name.
    """
    common = {
        "beta": beta,
        "nesterov": beta > 0,
        "bias_correction": False,  # with it the first Nesterov steps turn; the figures we compare with are without
        "shape_scale": shape_scale,
        "dimension_numbers": block_matrices,
    }
    if name.startswith("c="):
        return scale_by_freon(float(name.removeprefix("c=")), eps=eps, **common)
    if name in ("Kaon", "Kaon iid", "signed noise") or name.startswith("Kaon T="):
        if name in ("Kaon iid", "signed noise"):
            sampler = signed_uniform if name == "signed noise" else jax.random.uniform
            return scale_by_kaon(key, method="iid", sampler=sampler, **common)
        steps = int(name.removeprefix("Kaon T=")) if "=" in name else 5
        # the paper's in_scale: the default guards against gradients of rank one, which do not occur here
        return scale_by_kaon(steps=steps, in_scale=1.0, **common)
    plain = {
        "Adam": lambda: optax.scale_by_adam(b1=B1, b2=B2),
        "SGD": optax.identity,
        "truncated SGD": lambda: optax.chain(truncated_sgd(1.0, dimension_numbers=block_matrices), optax.scale(-1.0)),
    }
    if name not in plain:
        raise ValueError(f"name is {name!r}; expected c=NUMBER, a form of Kaon, 'signed noise' or one of {list(plain)}")
    return plain[name]()


def optimizer(name: str, learning_rate: ArrayLike, recipe: Recipe, key: Array) -> optax.GradientTransformation:
    """The full optimiser: ``name`` for the matrices, Adam for the rest.

    Args:
        name: as in `matrix_transformation`.
        learning_rate: of the matrices at its peak; may be traced.
        recipe: how long, and for which shapes.
        key: randomness of the random spectra.

    Returns:
        The optimiser.
    """
    full = with_adam(
        matrix_transformation(name, key, eps=recipe.eps, shape_scale=recipe.shape_scale),
        functools.partial(rate_at, learning_rate, recipe.warmup, recipe.steps),
        adam_learning_rate=functools.partial(rate_at, ADAM_RATE, recipe.warmup, recipe.steps),
        adam_b1=B1,
        adam_b2=B2,
        dimension_numbers=block_matrices,
    )
    return optax.chain(full, optax.stateless(functools.partial(_scale_head, recipe.head_rate)))


def _scale_head(factor: float, updates: GPT, params: GPT | None) -> GPT:
    del params
    return eqx.tree_at(lambda model: model.head, updates, updates.head * factor)


def rate_at(peak: ArrayLike, warmup: int, steps: int, count: ArrayLike) -> Array:
    """Learning rate of step ``count`` = 0, 1, ...: linear warm-up to the peak, then linear decay towards a tenth of it.

    Args:
        peak: largest rate; may be traced.
        warmup: steps of warm-up.
        steps: of the whole run.
        count: the step.

    Returns:
        The rate.
    """
    rising = (count + 1) / max(warmup, 1)
    falling = 1 - 0.9 * (count - warmup) / max(steps - warmup, 1)
    return jnp.asarray(peak) * jnp.minimum(1.0, jnp.minimum(rising, falling))


def train(
    text: Text,
    recipe: Recipe,
    name: str,
    learning_rate: float,
    seed: int,
    *,
    advance: Callable[[], None] = lambda: None,
) -> Run:
    """Train one model. Windows and initial parameters depend on the seed alone, not on the optimiser.

    With several devices every batch is divided among them where their number divides it.

    Args:
        text: bytes.
        recipe: how.
        name: optimiser of the matrices.
        learning_rate: its peak.
        seed: of everything.
        advance: called after every step.

    Returns:
        The trained model and its history.
    """
    start, batches, noise = jax.random.split(jax.random.key(seed), 3)
    model = initial_model(start, recipe.shape)
    state = optimizer(name, learning_rate, recipe, noise).init(model)
    device_text = jnp.asarray(text.train)
    losses = []
    for step in range(recipe.steps):
        windows = draw_windows(jax.random.fold_in(batches, step), device_text, recipe.batch, recipe.shape.context)
        value, slope = _value_and_grad(model, divided(windows))
        model, state = _update(model, state, slope, learning_rate, noise, name=name, recipe=recipe)
        losses.append(value)
        advance()
    return Run(model, np.asarray(jnp.stack(losses)), validation_loss(model, text, recipe))


def validation_loss(model: GPT, text: Text, recipe: Recipe) -> float:
    """Loss on the fixed windows of the validation text, nats per byte."""
    windows = fixed_windows(text.validation, recipe.validation, recipe.shape.context)
    return float(model_loss(model, divided(windows)))


def gradient_of_batch(model: GPT, text: Text, recipe: Recipe, key: Array) -> GPT:
    """Gradient of the loss on one batch of random training windows."""
    return gradient(model, draw_windows(key, jnp.asarray(text.train), recipe.batch, recipe.shape.context))


def gradient(model: GPT, windows: Int[Array, "batch length"]) -> GPT:
    """Gradient of the loss on given windows, for all parameters."""
    return _value_and_grad(model, divided(windows))[1]


draw_windows = jax.jit(random_windows, static_argnames=("count", "context"))
model_loss = jax.jit(loss)
_value_and_grad = jax.jit(jax.value_and_grad(loss))


@functools.partial(jax.jit, static_argnames=("name", "recipe"), donate_argnames=("model", "state"))
def _update(model, state, gradient, learning_rate, noise, *, name, recipe):
    # The optimiser is built where the rate and the key are traced, so that a sweep over both compiles once.
    updates, state = optimizer(name, learning_rate, recipe, noise).update(gradient, state, model)
    return optax.apply_updates(model, updates), state
