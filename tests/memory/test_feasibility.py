"""Feasibility against a linear program, with certificates recomputed by definition."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import Associations, check_feasible, margins, sample_associations, with_answers
from tests.memory.problems import rows, separable, weyl

P, D = 20, 5  # critical p: 11.7


def draw(seed, model="original", embedding="gaussian"):
    return sample_associations(jax.random.key(seed), P, D, model=model, embedding=embedding)


def assert_certified(found, a, n=None, tol=1e-5):
    """Both certificates by definition, in float64."""
    W, d = np.asarray(found.W, float), a.x.shape[1]
    A = rows(a, n)
    if int(found.status) > 0:
        lower = d / np.linalg.norm(W) * np.min(A @ W.ravel())
        assert lower > 0
        np.testing.assert_allclose(found.lower, lower, rtol=1e-4, atol=1e-5)
    if int(found.status) < 0:
        n = len(a.x) if n is None else n
        multipliers = np.asarray(found.multipliers, float)[:n, :n][~np.eye(n, dtype=bool)]
        assert np.all(multipliers >= 0)
        np.testing.assert_allclose(multipliers.sum(), 1, rtol=1e-5)
        assert np.sum(found.multipliers) == pytest.approx(1, rel=1e-5)  # nothing on pairs that do not compete
        assert d * np.linalg.norm(A.T @ multipliers) < 1.5 * tol


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_status_is_wrong_and_few_are_open(x64, dtype):
    """200 draws near capacity, of both models and both embeddings, with x64 on: every status is a proof."""
    rng = np.random.default_rng(dtype(0).itemsize)
    statuses = []
    for seed in range(100):
        a = draw(seed, ("original", "decoupled")[seed % 2], ("gaussian", "sphere")[seed // 2 % 2])
        a = Associations(*(v if v is None else jnp.asarray(v, dtype) for v in a))
        n = int(rng.integers(10, 16))
        found = check_feasible(a, n=n)
        expected = 1 if separable(a, n) else -1
        assert int(found.status) in (0, expected)
        assert found.W.dtype == dtype
        if seed < 20:
            assert_certified(found, a, n)
        statuses.append(int(found.status))
    assert statuses.count(0) <= 1
    assert min(statuses.count(1), statuses.count(-1)) >= 20


def test_no_start_changes_what_is_true(x64):
    """From memories of other sizes, from their negatives and from noise, of any scale: proofs or nothing."""
    rng = np.random.default_rng(3)
    statuses = []
    for seed in range(12):
        a = Associations(
            *(v if v is None else jnp.asarray(v, float) for v in draw(seed, ("original", "decoupled")[seed % 2]))
        )
        n = int(rng.integers(10, 16))
        expected = 1 if separable(a, n) else -1
        near = [check_feasible(a, n=m).W for m in (n - 2, n + 3)]
        for W0 in (*near, -near[0], 1e200 * near[1], jnp.asarray(rng.standard_normal((D, D)))):
            found = check_feasible(a, n=n, W0=W0)
            assert_certified(found, a, n)
            assert int(found.status) in (0, expected)
            statuses.append(int(found.status) == expected)
    assert np.mean(statuses) >= 0.98


def test_a_solution_is_a_start_that_needs_no_step():
    a = draw(1)
    found = check_feasible(a, n=10)
    assert int(found.status) == 1
    again = check_feasible(a, n=10, W0=1e-3 * found.W)
    assert int(again.status) == 1
    assert int(again.newton) == 0


def test_weyl_data(x64):
    for (p, d), status in {(4, 2): -1, (12, 5): 1}.items():
        found = check_feasible(weyl(p, d))
        assert int(found.status) == status
        assert_certified(found, weyl(p, d))


def test_independent_keys_are_always_recalled():
    a = draw(3)
    found = check_feasible(a, n=D)
    assert int(found.status) == 1
    assert_certified(found, a, D)
    assert float(margins(found.W, Associations(a.x[:D], a.y[:D])).min()) > 0


def test_feasibility_is_monotone_in_the_number_of_pairs():
    a = draw(4)
    statuses = [int(check_feasible(a, n=n).status) for n in range(2, P + 1)]
    assert 0 not in statuses, statuses
    assert statuses == sorted(statuses, reverse=True)


@pytest.mark.parametrize("n", [9, 16])
def test_status_survives_scale_rotation_and_order(n):
    a = draw(5)
    expected = check_feasible(a, n=n)
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((D, D)))[0].astype(np.float32) for _ in range(2))
    order = np.r_[rng.permutation(n), np.arange(n, P)]
    for other in (
        Associations(a.x * 1e-20, a.y * 1e18),
        Associations(a.x * 2.0**60, a.y * 2.0**50),
        Associations(a.x @ v.T, a.y @ u.T),
        Associations(a.x[order], a.y[order]),
    ):
        assert int(check_feasible(other, n=n).status) == int(expected.status) != 0
    scaled = check_feasible(Associations(a.x * 2.0**60, a.y * 2.0**-50), n=n)
    np.testing.assert_array_equal(scaled.W, expected.W)
    np.testing.assert_array_equal(scaled.lower, expected.lower * 2**10)


def test_pairs_that_cannot_be_told_apart():
    a = draw(6)
    for other, told in (
        (Associations(a.x, a.y.at[1].set(a.y[0])), True),
        (Associations(a.x.at[2].set(0), a.y), False),
        (Associations(0 * a.x, a.y), False),
        (Associations(a.x, 0 * a.y), True),
    ):
        with pytest.warns(UserWarning, match="with_answers") if told else nullcontext():
            found = check_feasible(other, n=4)
        assert int(found.status) == -1
        assert float(found.upper) < 1e-5
        assert_certified(found, other, 4)


def test_two_pairs_and_one_dimension():
    a = Associations(jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [-1.0]]))
    assert int(check_feasible(a).status) == -1  # W > 0 for the first, W < 0 for the second
    a = a._replace(x=jnp.array([[1.0], [-2.0]]))
    assert int(check_feasible(a).status) == 1
    integers = Associations(np.array([[1, 0], [0, 1]]), np.array([[2, 1], [1, 3]]))
    assert int(check_feasible(integers).status) == 1
    assert check_feasible(integers).W.dtype == jnp.float32


def test_seeds_in_a_batch_and_no_recompilation():
    batch = jax.tree.map(lambda *v: jnp.stack(v), *[draw(seed) for seed in range(3)])
    many = jax.jit(jax.vmap(lambda a, n, tol: check_feasible(a, n=n, tol=tol), (0, 0, None)))
    together = many(batch, jnp.array([9, 12, 16]), 1e-5)
    for seed, n in enumerate((9, 12, 16)):
        alone = check_feasible(draw(seed), n=n)
        assert int(together.status[seed]) == int(alone.status)
        if int(alone.status) > 0:
            np.testing.assert_allclose(together.W[seed], alone.W, rtol=2e-2, atol=2e-2)
    compiled = many._cache_size()
    many(batch, jnp.array([5, 6, 7]), 1e-4)
    assert many._cache_size() == compiled == 1


def test_numbers_that_are_not_finite():
    a = draw(7)
    bad = a._replace(x=a.x.at[3, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="x holds"):
        check_feasible(bad, n=9)
    found = jax.jit(lambda a: check_feasible(a, n=9))(bad)
    assert int(found.status) == 0
    assert (float(found.lower), float(found.upper)) == (-np.inf, np.inf)
    assert all(np.all(~np.isnan(v)) for v in found[:5])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"n": 1}, "n is 1"),
        ({"n": P + 1}, "n is 21"),
        ({"tol": -1.0}, "tol is"),
        ({"tol": float("nan")}, "tol is"),
        ({"top": 0}, "top is 0"),
        ({"block": 0}, "block is 0"),
        ({"max_cg": 0}, "max_cg is 0"),
        ({"max_newton": -1}, "max_newton is -1"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        check_feasible(draw(0), **options)
    with pytest.raises(ValueError, match="W0 has shape"):
        check_feasible(draw(0), W0=jnp.ones((D + 1, D + 1)))
    with pytest.raises(ValueError, match="W0 holds"):
        check_feasible(draw(0), W0=jnp.full((D, D), jnp.nan))
    with pytest.raises(ValueError, match="y has shape"):
        check_feasible(Associations(jnp.ones((3, 2)), jnp.ones((2, 2))))


def test_keys_that_share_a_value_are_told_of_with_answers():
    values = jnp.eye(4)[jnp.array([0, 1, 2, 0])]
    shared = Associations(jnp.eye(4), values)
    with pytest.warns(UserWarning, match="with_answers"):
        assert check_feasible(shared).status == -1
    assert check_feasible(shared, n=3).status == 1  # the first three values differ
    assert check_feasible(with_answers(jnp.eye(4), jnp.eye(4), [[0], [1], [2], [0]])).status == 1
