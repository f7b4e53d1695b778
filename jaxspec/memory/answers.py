"""Keys with several right answers, and values that are no answer at all."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Num

from jaxspec.memory.associations import Associations


def with_answers(
    keys: Num[Array | np.ndarray, "m d"],
    values: Num[Array | np.ndarray, "q d"],
    answers: Bool[Array | np.ndarray, "m q"] | Sequence[Sequence[int]],
) -> Associations:
    """Associations of keys with one or several right answers each, all other values competing.

    A key with r right answers becomes r rows; each of its right answers is to beat every wrong one.

    Args:
        keys: one row a key.
        values: all values, right for some key or for none.
        answers: mask of the values that are right for each key, or their indices, key by key.

    Returns:
        The associations, ``p = number of (key, right answer)`` in the order of keys.

    Raises:
        ValueError: shapes that do not fit, an index out of range, or a key without a right or without a wrong answer.

    Example:
        >>> import jax.numpy as jnp
        >>> with_answers(jnp.eye(2), jnp.eye(2), [[1], [0]]).y
        Array([[0., 1.],
               [1., 0.]], dtype=float32)
    """
    shape = len(keys), len(values)
    if values.shape[1] != keys.shape[1]:
        raise ValueError(f"values has shape {values.shape}; expected (q, {keys.shape[1]}), as the keys")
    if hasattr(answers, "dtype") and answers.dtype == np.dtype(bool):
        right = np.asarray(answers)
    else:
        if any(not 0 <= nu < shape[1] for row in answers for nu in row):
            raise ValueError(f"answers has an index out of range; expected 0 to {shape[1] - 1}, a row of values")
        right = np.array([np.isin(np.arange(shape[1]), row) for row in answers])
    if right.shape != shape:
        raise ValueError(f"answers has shape {right.shape}; expected {shape}, a row for each key")
    count = right.sum(1)
    if np.any((count == 0) | (count == shape[1])):
        key = int(np.argmax((count == 0) | (count == shape[1])))
        raise ValueError(f"answers of key {key} are {count[key]} of {shape[1]} values; expected right and wrong ones")
    mu, nu = np.nonzero(right)
    keys, values = jnp.asarray(keys), jnp.asarray(values)
    return Associations(keys[mu], values[nu], values, jnp.asarray(right[mu]))
