"""Which parameters are matrices to be mapped, and the full optimiser that sends the others to AdamW."""

import re
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from jaxspec.optim.layout import DimsTree, leaf_layout, leaves_with_dims

EXCLUDED = ("embed", "embedding", "embeddings", "unembed", "head", "logits", "wte", "wpe")
MATRIX, ADAM = "matrix", "adam"
Partition = Callable[[PyTree], PyTree]


def matrix_partition(
    params: PyTree, *, exclude: Sequence[str] = EXCLUDED, dimension_numbers: DimsTree = None
) -> PyTree:
    """Label every parameter ``"matrix"`` or ``"adam"``, for `optax.partition`.

    Without dimension numbers, a matrix is a parameter with two axes, both of length 2 or more, no part of whose path is
    an excluded word. Path parts are compared in lower case, camel case taken apart and trailing numbers dropped; a part
    matches a word that it equals, begins or ends with: ``Embed_0``, ``lm_head`` and ``embed_tokens`` match,
    ``MultiHeadAttention_0`` does not. With dimension numbers, the parameters that have them, and sides of 2 or more,
    are matrices; of a whole tree with one layout, those with two axes or more whose path has no excluded word.

    Args:
        params: the parameters.
        exclude: words; embeddings and output heads by default, whose rows are used one at a time. ``()`` labels as
            `optax.contrib.muon` does, up to matrices with one row or column.
        dimension_numbers: as in `scale_by_spectral`; None in the tree means AdamW.

    Returns:
        Labels with the structure of ``params``.

    Raises:
        ValueError: dimension numbers that do not fit their parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> w = jnp.ones((4, 4))
        >>> matrix_partition({"block": {"w": w, "scale": w[0]}, "lm_head": w})
        {'block': {'scale': 'adam', 'w': 'matrix'}, 'lm_head': 'adam'}
    """
    words = tuple(word.lower() for word in exclude)
    labels = []
    for (path, leaf), (name, _, dims, shared) in zip(
        jax.tree_util.tree_flatten_with_path(params)[0], leaves_with_dims(params, dimension_numbers), strict=True
    ):
        if dimension_numbers is None:
            mapped = jnp.ndim(leaf) == 2 and min(jnp.shape(leaf)) >= 2 and not _excluded(path, words)
        elif dims is None or (shared and (jnp.ndim(leaf) < 2 or _excluded(path, words))):
            mapped = False
        else:
            mapped = leaf_layout(name, jnp.shape(leaf), dims).min_side >= 2
        labels.append(MATRIX if mapped else ADAM)
    return jax.tree.unflatten(jax.tree.structure(params), labels)


def with_adam(
    matrix_tx: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: ArrayLike = 0.0,
    weight_decay_mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_eps: ArrayLike = 1e-8,
    adam_weight_decay: ArrayLike = 0.0,
    adam_nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    dimension_numbers: DimsTree = None,
    partition: Partition | None = None,
) -> optax.GradientTransformation:
    """The full optimiser: ``matrix_tx``, decoupled weight decay and the learning rate for matrices, AdamW for the rest.

    Args:
        matrix_tx: what matrices go through, for example `scale_by_spectral` with any map.
        learning_rate: number or schedule.
        weight_decay: multiple of the parameter added to the update before the learning rate.
        weight_decay_mask: as in `optax.add_decayed_weights`.
        adam_learning_rate: default ``learning_rate``.
        adam_b1: decay of AdamW's first moment.
        adam_b2: decay of AdamW's second moment.
        adam_eps: AdamW's ``eps``.
        adam_weight_decay: AdamW's weight decay.
        adam_nesterov: AdamW's Nesterov form (`optax.contrib.muon` ties it to its own).
        mu_dtype: dtype of AdamW's first moment.
        dimension_numbers: those of ``matrix_tx``, by which the parameters are told apart.
        partition: parameters to labels ``"matrix"`` and ``"adam"``; default `matrix_partition`, which leaves
            embeddings and heads out.

    Returns:
        The optimiser.
    """
    matrix = optax.chain(
        matrix_tx,
        optax.add_decayed_weights(weight_decay, weight_decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    adam = optax.adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=adam_nesterov,
    )
    return by_label(matrix, adam, partition, dimension_numbers)


def by_label(
    matrix_tx: optax.GradientTransformation,
    rest_tx: optax.GradientTransformation,
    partition: Partition | None,
    dimension_numbers: DimsTree,
) -> optax.GradientTransformation:
    """``matrix_tx`` for the parameters labelled ``"matrix"``, ``rest_tx`` for those labelled ``"adam"``.

    Args:
        matrix_tx: what matrices go through.
        rest_tx: what all else goes through.
        partition: as in `with_adam`.
        dimension_numbers: as in `with_adam`.

    Returns:
        The transformation.
    """
    labels = partial(matrix_partition, dimension_numbers=dimension_numbers) if partition is None else partition
    return optax.partition({MATRIX: matrix_tx, ADAM: rest_tx}, labels)


def _excluded(path, words):
    return any(_matches(_snake(jax.tree_util.keystr((part,), simple=True)), words) for part in path)


def _matches(name, words):
    return any(name == word or name.startswith(word + "_") or name.endswith("_" + word) for word in words)


def _snake(name):
    """``"MultiHead_0"`` to ``"multi_head"``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[_\d]+$", "", re.sub(r"\W+", "_", spaced)).lower()
