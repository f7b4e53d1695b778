"""Capacity seed by seed, against linear programs, and the bookkeeping of undecided numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import capacity, sample_associations
from jaxspec.memory.bisection import _Bracket, _following, _narrowed
from tests.memory.problems import separable


@pytest.mark.parametrize("model", ["original", "decoupled"])
def test_brackets_are_those_of_linear_programs(model):
    key = jax.random.key(4)
    found = capacity(key, 4, model=model, num_seeds=3)
    assert np.all(found.undecided == 0)
    np.testing.assert_array_equal(found.high - found.low, 1)
    for seed in range(3):
        a = sample_associations(jax.random.fold_in(key, seed), int(found.high[seed]), 4, model=model)
        assert separable(a, int(found.low[seed]))
        assert not separable(a)


def test_a_small_first_bracket_is_doubled_and_the_answer_stays():
    key = jax.random.key(4)
    found, other = capacity(key, 4, num_seeds=3), capacity(key, 4, num_seeds=3, p_max=10)
    np.testing.assert_array_equal(found.low, other.low)
    np.testing.assert_array_equal(found.high, other.high)
    coarse = capacity(key, 4, num_seeds=3, resolution=3)
    assert np.all(coarse.high - coarse.low <= 3)
    assert np.all((coarse.low <= found.low) & (found.high <= coarse.high))


def test_a_search_without_the_means_to_decide_ends_and_says_so():
    key = jax.random.key(4)
    found, starved = capacity(key, 4, num_seeds=2), capacity(key, 4, num_seeds=2, p_max=4, max_newton=1, max_cg=1)
    assert np.all((starved.low <= found.low) & (found.high <= starved.high))
    assert np.all(starved.undecided > 0)


def bisected(status, p=100, resolution=1):
    """The bisection of one seed with a known answer to every n."""
    zero = jnp.int32(0)
    bracket = _Bracket(jnp.int32(1), jnp.int32(p + 1), jnp.int32(p + 1), zero, zero, zero, zero)
    tried = []
    while not bool(_following(bracket, resolution)[1]):
        n = int(_following(bracket, resolution)[0])
        assert n not in tried
        tried.append(n)
        bracket = _narrowed(bracket, n, status(n), p)
    return int(bracket.low), int(bracket.high), int(bracket.undecided)


@pytest.mark.parametrize("edges", [(37, 38), (37, 45), (1, 2), (50, 51), (60, 99), (2, 90)])
def test_undecided_numbers_are_kept_apart(edges):
    """Feasible up to the first edge, infeasible from the second, undecided between."""
    low, high, undecided = bisected(lambda n: 1 if n <= edges[0] else -1 if n >= edges[1] else 0)
    assert (low, high) == edges
    assert (undecided > 0) == (edges[1] - edges[0] > 1)


def test_an_answer_beyond_undecided_ones_settles_them():
    status = dict.fromkeys(range(60), 1) | {51: 0, 25: 0}
    low, high, undecided = bisected(lambda n: status.get(n, -1))
    assert (low, high) == (59, 60)
    assert undecided == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"d": 0}, "d is 0"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"resolution": 0}, "resolution"),
        ({"p_max": 1}, "p_max"),
        ({"max_newton": 0}, "max_newton"),
        ({"max_cg": 0}, "max_cg"),
        ({"tol": -1.0}, "tol"),
        ({"model": "other"}, "model"),
        ({"embedding": "cube"}, "embedding"),
        ({"top": 0}, "top"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        capacity(jax.random.key(0), **{"d": 3, **options})
