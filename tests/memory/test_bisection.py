"""Capacity seed by seed, against linear programs, and the bookkeeping of undecided numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import Associations, bisection, capacity, sample_associations
from jaxspec.memory.bisection import _Bracket, _following, _narrowed, _Prior
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


def test_a_search_without_the_means_to_decide_ends_and_says_so(monkeypatch):
    monkeypatch.setattr(bisection, "_DOUBLINGS", 2)  # each is a program of its own
    key = jax.random.key(4)
    found, starved = capacity(key, 4, num_seeds=2), capacity(key, 4, num_seeds=2, p_max=4, max_newton=1, max_cg=1)
    assert np.all((starved.low <= found.low) & (found.high <= starved.high))
    assert np.all(starved.undecided > 0)


@pytest.mark.parametrize("top", [None, 8])
def test_every_answer_on_the_way_is_that_of_a_linear_program(x64, monkeypatch, top):
    """Searches that start from the memory of the one before stay sound, at all numbers that a bisection tries."""
    calls, whole = [], bisection.check_feasible

    def recorded(a, *, n, **options):
        found = whole(a, n=n, **options)
        jax.debug.callback(
            lambda n, status, W0: calls.append((int(n), int(status), np.any(W0 != 0))), n, found.status, options["W0"]
        )
        return found

    monkeypatch.setattr(bisection, "check_feasible", recorded)
    key = jax.random.key(21)
    found = capacity(key, 5, num_seeds=1, top=top, max_newton=99)  # a program of its own
    jax.effects_barrier()
    a = sample_associations(jax.random.fold_in(key, 0), max(n for n, _, _ in calls), 5)
    assert int(found.calls[0]) == len(calls)
    assert any(warm for _, _, warm in calls)
    for n, status, _ in calls:
        assert status == (1 if separable(a, n) else -1)


def bisected(status, p=100, resolution=1, prior=None):
    """The bisection of one seed with a known answer to every n."""
    zero = jnp.int32(0)
    bracket = _Bracket(jnp.int32(1), jnp.int32(p + 1), jnp.int32(p + 1), zero, zero, zero, zero)
    tried = []
    while not bool(_following(bracket, resolution, prior)[1]):
        n = int(_following(bracket, resolution, prior)[0])
        assert n not in tried
        assert 2 <= n <= p
        tried.append(n)
        bracket = _narrowed(bracket, n, status(n), p)
    return int(bracket.low), int(bracket.high), int(bracket.undecided), len(tried)


@pytest.mark.parametrize("prior", [None, _Prior(40.0, 3.0), _Prior(500.0, 2.0), _Prior(3.0, 0.1)])
@pytest.mark.parametrize("edges", [(37, 38), (37, 45), (1, 2), (50, 51), (60, 99), (2, 90)])
def test_undecided_numbers_are_kept_apart(edges, prior):
    """Feasible up to the first edge, infeasible from the second, undecided between; wherever they are expected."""
    low, high, undecided, _ = bisected(lambda n: 1 if n <= edges[0] else -1 if n >= edges[1] else 0, prior=prior)
    assert (low, high) == edges
    assert (undecided > 0) == (edges[1] - edges[0] > 1)


def test_a_capacity_near_the_expected_one_takes_fewer_calls_and_a_far_one_not_many_more():
    def calls(capacity, prior):
        return bisected(lambda n: 1 if n <= capacity else -1, p=2400, prior=prior)[3]

    prior = _Prior(1813.0, 28.0)
    near = range(1780, 1847, 6)
    assert np.mean([calls(n, prior) for n in near]) < np.mean([calls(n, None) for n in near]) - 3
    assert max(calls(n, prior) for n in (1, 2, 50, 900, 1500, 2300, 2399)) <= 22


@pytest.mark.parametrize("capacity", [1770, 1801, 1813, 1840, 2300])
def test_no_number_is_tried_that_the_resolution_does_not_need(capacity):
    tried = []

    def status(n):
        tried.append(n)
        return 1 if n <= capacity else -1

    low, high, _, calls = bisected(status, p=2400, resolution=45, prior=_Prior(1791.0, 28.0))
    assert low <= capacity < high <= low + 45
    assert min(np.diff(sorted(tried))) >= 22  # half of the resolution, as in plain bisection
    assert calls <= (3 if abs(capacity - 1813) < 30 else 12)


def test_an_answer_beyond_undecided_ones_settles_them():
    status = dict.fromkeys(range(60), 1) | {51: 0, 25: 0}
    low, high, undecided, _ = bisected(lambda n: status.get(n, -1))
    assert (low, high) == (59, 60)
    assert undecided == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"d": 0}, "d is 0"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"resolution": 0}, "resolution"),
        ({"p_max": 1}, "p_max"),
        ({"p_max": 0}, "p_max"),
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


def test_capacity_of_ones_own_facts_is_that_of_the_draw():
    key, d = jax.random.key(3), 6
    drawn = capacity(key, d, num_seeds=1)
    facts = sample_associations(jax.random.fold_in(key, 0), 40, d)
    for own in (facts, Associations(*(np.asarray(v, np.float64) for v in facts[:2]))):
        found = capacity(own)
        assert (found.low, found.high) == (drawn.low, drawn.high)
    few = Associations(*(v[: int(drawn.low[0])] for v in facts[:2]))
    assert (capacity(few).low, capacity(few).high) == (drawn.low, drawn.low + 1)
    with pytest.raises(ValueError, match="d is 5; expected None or 6"):
        capacity(facts, 5)
    with pytest.raises(ValueError, match="d is None"):
        capacity(key)
