"""Lists of competitors, competitors that are drawn again, and rows divided over devices, against all pairs at once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import Associations, check_feasible, margins, max_margin, sample_associations, scores
from jaxspec.memory.hinges import scaled
from jaxspec.memory.pairs import all_pairs, listed_pairs, smallest_gaps
from tests.memory.problems import rows

P, D = 24, 5


def draw(seed, regenerate=True, model="decoupled"):
    return sample_associations(jax.random.key(seed), P, D, model=model, regenerate=regenerate)


@pytest.mark.parametrize("model", ["original", "decoupled"])
def test_a_pass_in_blocks_finds_the_smallest_gaps(model):
    a = draw(0, model=model)
    W = jax.random.normal(jax.random.key(1), (D, D))
    correct, others = scores(W, sample_associations(jax.random.key(0), P, D, model=model))
    expected = np.array(correct[:, None] - others)
    expected[:, 20:], expected[20:] = np.inf, np.inf
    gaps, entries = smallest_gaps(a, jnp.asarray(20), W, 6, 7)
    np.testing.assert_allclose(gaps[:20], np.sort(expected, 1)[:20, :6], atol=1e-5)
    assert np.all(np.isinf(gaps[20:]))
    np.testing.assert_allclose(np.take_along_axis(expected[:20], np.asarray(entries[:20]), 1), gaps[:20], atol=1e-5)


def test_a_pass_keeps_given_entries_and_fills_up_with_the_smallest_gaps():
    a, n, rng = draw(0, regenerate=False), jnp.asarray(20), np.random.default_rng(0)
    W = jax.random.normal(jax.random.key(1), (D, D))
    kept = np.stack([rng.choice(np.delete(np.arange(20), row), 2, replace=False) for row in range(20)] + [[P, P]] * 4)
    kept[3] = P  # none
    gaps, entries = (np.asarray(v) for v in smallest_gaps(a, n, W, 6, 7, jnp.asarray(kept)))
    every = np.where(all_pairs(a, n).mask, all_pairs(a, n).gaps(W), np.inf)
    np.testing.assert_allclose(np.take_along_axis(every[:20], entries[:20], 1), gaps[:20], atol=1e-5)
    for row in range(20):
        assert len(set(entries[row])) == 6
        own = [] if row == 3 else list(kept[row])
        assert set(entries[row, : len(own)]) == set(own)
        others = np.sort(np.delete(every[row], own))[: 6 - len(own)]
        np.testing.assert_allclose(gaps[row, len(own) :], others, atol=1e-5)


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_lists_no_longer_than_the_active_pairs_of_a_row_decide(seed):
    """At load 14 and 24 these draws have 1 to 9 active pairs a row in the mean, and up to 15."""
    a = sample_associations(jax.random.key(seed), 40, 8, model="decoupled", regenerate=False)
    statuses = [[int(check_feasible(a, n=n, top=top, block=16).status) for n in (14, 24)] for top in (6, None)]
    assert statuses[0] == statuses[1]


@pytest.mark.parametrize("model", ["original", "decoupled"])
def test_the_map_its_adjoint_and_its_square_agree(x64, model):
    a = draw(2, regenerate=False, model=model)
    entries = jnp.argsort(jax.random.uniform(jax.random.key(0), (P, P)), 1)[:, :8]
    W, G = jax.random.normal(jax.random.key(3), (D, D)), jax.random.uniform(jax.random.key(4), (P, P))
    whole = all_pairs(a, jnp.asarray(P))
    some = listed_pairs(a, jnp.asarray(P), entries)
    np.testing.assert_allclose(some.gaps(W), jnp.take_along_axis(whole.gaps(W), entries, 1), atol=1e-12)
    for pairs, weights in ((whole, G), (some, G[:, :8])):
        weights = jnp.where(pairs.mask, weights, 0)
        np.testing.assert_allclose(jnp.sum(pairs.gaps(W) * weights), jnp.sum(W * pairs.adjoint(weights)), rtol=1e-10)
        active = weights > 0.5
        square = pairs.adjoint(jnp.where(active, pairs.gaps(W), 0))
        np.testing.assert_allclose((pairs.gram(active) @ W.ravel()).reshape(D, D), square, atol=1e-10)


def test_drawn_again_or_stored_is_the_same():
    again, stored = draw(5), draw(5, regenerate=False)
    W = jax.random.normal(jax.random.key(1), (D, D))
    np.testing.assert_allclose(margins(W, again, 5), margins(W, stored), atol=1e-5)
    both = (all_pairs(a, jnp.asarray(P)) for a in (again, stored))
    np.testing.assert_allclose(*(pairs.others for pairs in both), atol=1e-6)


@pytest.mark.parametrize("model", ["original", "decoupled"])
def test_lists_reach_the_status_and_margin_of_all_pairs(model):
    statuses = []
    for seed in range(4):
        a = draw(seed, model=model)
        for n in (8, 11, 18):
            found = check_feasible(a, n=n, top=10, block=7)
            statuses.append(int(found.status))
            assert statuses[-1] == int(check_feasible(a, n=n).status) != 0
            assert found.multipliers.shape == found.listed.shape == (P, 10)
    assert set(statuses) == {-1, 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certificates_over_lists_hold_for_all_pairs(x64, dtype):
    """Recomputed by definition: memories over all pairs, multipliers at the pairs that they belong to."""
    statuses = set()
    for seed, model in ((0, "original"), (1, "decoupled")):
        a = draw(seed, regenerate=False, model=model)
        a = Associations(*(v if v is None else jnp.asarray(v, dtype) for v in a))
        for n in (8, 16):
            cold, near = (check_feasible(a, n=m, top=6, block=7) for m in (n, n + 2))
            for found in (cold, check_feasible(a, n=n, top=6, block=7, W0=near.W)):
                assert int(found.status) == int(cold.status)
                statuses.add(int(found.status))
                if int(found.status) > 0:
                    least = np.min(rows(a, n) @ np.asarray(found.W, float).ravel())
                    np.testing.assert_allclose(found.lower, least, rtol=1e-4)
                    assert 0 < found.lower <= least
                else:
                    assert found.lower == -np.inf
                    L = np.zeros((P, P))
                    np.add.at(L, (np.arange(P)[:, None], np.minimum(found.listed, P - 1)), found.multipliers)
                    inside = L[:n, :n][~np.eye(n, dtype=bool)]
                    np.testing.assert_allclose(inside.sum(), 1, rtol=1e-5)
                    assert D * np.linalg.norm(rows(a, n).T @ inside) <= float(found.upper) < 1e-5
    assert statuses == {-1, 1}


def test_the_best_scale_of_a_memory_is_found():
    a = draw(3, regenerate=False, model="original")
    pairs = all_pairs(a, jnp.asarray(9))
    for seed, scale in ((0, 1.0), (1, 1e-4), (2, 1e4)):
        W = scale * check_feasible(a, n=10).W + scale * jax.random.normal(jax.random.key(seed), (D, D))
        M = np.asarray(pairs.gaps(W), float)[np.asarray(pairs.mask)]
        values = [np.sum(np.maximum(1 - t * M, 0) ** 2) for t in np.r_[0, np.geomspace(1e-3, 1e3, 4001) / scale]]
        best = np.asarray(pairs.gaps(scaled(pairs, W)), float)[np.asarray(pairs.mask)]
        assert np.sum(np.maximum(1 - best, 0) ** 2) <= min(values) * (1 + 1e-4)
    assert np.all(scaled(pairs, jnp.zeros((D, D))) == 0)


def test_lists_reach_the_margin_of_all_pairs():
    a = draw(0, model="original")
    best, whole = max_margin(a, n=7, top=10, block=7), max_margin(a, n=7)
    assert bool(best.converged)
    np.testing.assert_allclose(best.lower, whole.lower, rtol=2e-3)


DIVIDED = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxspec.memory import check_feasible, sample_associations
from jaxspec.memory.hinges import scaled
from jaxspec.memory.pairs import all_pairs

a = sample_associations(jax.random.key(1), 48, 6)
mesh = Mesh(np.array(jax.devices()), ("rows",))
rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
divided = a._replace(x=jax.device_put(a.x, rows), y=jax.device_put(a.y, everywhere))
seen = {"devices": len(jax.devices()), "runs": []}
for top in (None, 16):
    for n in (12, 30):
        whole, parts = (check_feasible(each, n=n, top=top, block=12) for each in (a, divided))
        seen["runs"].append({
            "status": [int(whole.status), int(parts.status)],
            "shards": len({str(s.index) for s in parts.multipliers.addressable_shards}),
        })
pairs = all_pairs(divided, jnp.asarray(48))
active = jax.device_put(np.ones((48, 48), bool), rows)
product = jax.jit(lambda x, y, active, V: all_pairs(a._replace(x=x, y=y), 48).adjoint(
    jnp.where(active, all_pairs(a._replace(x=x, y=y), 48).gaps(V), 0)), out_shardings=everywhere)
V = jax.device_put(jnp.ones((6, 6)), everywhere)
text = product.lower(divided.x, divided.y, active, V).compile().as_text()
collectives = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
seen["collectives"] = re.findall(r"(\\S+) (" + collectives + r")(?:-start)?\\(", text)
print(json.dumps(seen))
"""


def test_rows_divided_over_devices(run_python):
    seen = json.loads(run_python(DIVIDED, devices=8, timeout=240.0).stdout)
    assert seen["devices"] == 8
    for one in seen["runs"]:
        assert one["status"][0] == one["status"][1] != 0
        assert one["shards"] == 8, "multipliers should stay divided"
    assert {one["status"][0] for one in seen["runs"]} == {-1, 1}
    # A Hessian product exchanges one d x d matrix and nothing else.
    assert [kind for _, kind in seen["collectives"]] == ["all-reduce"]
    assert "[6,6]" in seen["collectives"][0][0]


def test_lists_and_stored_competitors_in_another_shape_are_named():
    a = draw(0)
    with pytest.raises(ValueError, match="competitors has shape"):
        check_feasible(Associations(a.x, a.y, jnp.ones((3, D + 1))))
    with pytest.raises(ValueError, match="right has shape"):
        check_feasible(a._replace(right=jnp.ones((P, P - 1), bool)))
