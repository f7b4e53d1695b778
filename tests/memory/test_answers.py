"""Keys with several right answers, and keys and values of one's own."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import check_feasible, margins, max_margin, scores, with_answers
from tests.memory.problems import largest_margin, separable

RNG = np.random.default_rng(0)
KEYS, VALUES = RNG.standard_normal((2, 7, 5)).astype(np.float32)
ANSWERS = [[0], [1, 4], [2], [2, 3, 0], [5], [0, 6], [6]]


def test_every_right_answer_is_to_beat_every_wrong_one():
    a = with_answers(KEYS[:4], VALUES, ANSWERS[:4])
    mask = np.zeros((4, 7), bool)
    for key, row in enumerate(ANSWERS[:4]):
        mask[key, row] = True
    np.testing.assert_array_equal(with_answers(KEYS[:4], VALUES, mask).right, a.right)
    W = jnp.asarray(RNG.standard_normal((5, 5)), jnp.float32)
    S = KEYS[:4] @ np.asarray(W).T @ VALUES.T
    expected = [S[key, nu] - S[key, ~mask[key]].max() for key, nu in zip(*np.nonzero(mask), strict=True)]
    np.testing.assert_allclose(margins(W, a), 5 / np.linalg.norm(W) * np.array(expected), rtol=1e-4, atol=1e-5)
    correct, others = scores(W, a)
    np.testing.assert_allclose(correct, S[mask], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.isneginf(others), mask[np.nonzero(mask)[0]])


@pytest.mark.parametrize("count", [3, 7])
def test_status_and_margin_are_those_of_the_oracles(x64, count):
    a = with_answers(KEYS[:count].astype(float), VALUES.astype(float), ANSWERS[:count])
    found = check_feasible(a)
    assert int(found.status) == (1 if separable(a) else -1)
    if int(found.status) > 0:
        np.testing.assert_allclose(max_margin(a).lower, largest_margin(a), rtol=1e-3)
    else:
        assert int(check_feasible(a, top=4, block=3).status) == int(found.status)


def test_correlated_embeddings():
    """A common direction and a decaying spectrum, as in a checkpoint."""
    decay = (0.5 ** np.arange(5)).astype(np.float32)
    keys, values = KEYS * decay + 1, VALUES * decay + 3
    a = with_answers(keys, values, [[nu] for nu in range(7)])
    found = check_feasible(a)
    assert int(found.status) == (1 if separable(a) else -1)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: with_answers(KEYS, VALUES, ANSWERS[:3]), "answers has shape"),
        (lambda: with_answers(KEYS[:1], VALUES, [[7]]), "index out of range"),
        (lambda: with_answers(KEYS[:1], VALUES, [[]]), "answers of key 0"),
        (lambda: with_answers(KEYS[:1], VALUES[:2], [[0, 1]]), "answers of key 0"),
    ],
)
def test_bad_answers_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_one_key_suffices_where_values_are_given_apart():
    a = with_answers(KEYS[:1], VALUES, [[3, 4]])
    assert len(a.x) == 2
    assert jnp.all(a.right[0] == a.right[1])
    assert int(check_feasible(a).status) == (1 if separable(a) else -1)
