"""`identify_factors` against a dense SVD, and what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxspec.lora import identify_factors, pre_existence
from jaxspec.lora.evidence import _forms

D, RANK, IN, LAYERS = 48, 4, 20, 6
WRITES = {f"layers.{i}.down": "writes" for i in range(LAYERS)}


def spiked(seed=0, *, strengths=(8.0, 4.0, 2.0, 1.2), noise=0.1, layers=LAYERS, rank=RANK, shared=None):
    """Matrices with shared output directions of given strengths, and noise: (adapter, directions)."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(D, rank)))[0] if shared is None else shared
    adapter = {}
    for i in range(layers):
        v = np.linalg.qr(rng.normal(size=(IN, rank)))[0]
        b = u * np.asarray(strengths) + noise * rng.normal(size=(D, rank))
        mix = rng.normal(size=(rank, rank)) + 2 * np.eye(rank)
        adapter[f"layers.{i}.down"] = {"a": as_float(np.linalg.solve(mix, v.T)), "b": as_float(b @ mix)}
    return adapter, u


def as_float(x, dtype=jnp.float32):
    return jnp.asarray(np.asarray(x, dtype), dtype)


def dense(adapter, scale=1.0):
    """``[Delta W_1 | ... ]`` in double precision."""
    return np.concatenate([scale * np.float64(leaf["b"]) @ np.float64(leaf["a"]) for leaf in adapter.values()], axis=1)


@pytest.fixture(scope="module")
def adapter():
    return spiked()[0]


def angle(u, v):
    return scipy.linalg.subspace_angles(np.asarray(u, float), np.asarray(v, float))[0]


@pytest.mark.parametrize("engine", ["gram", "subspace"])
@pytest.mark.parametrize("magnitude", [1e-18, 1.0, 1e18])
def test_equals_the_dense_svd(adapter, engine, magnitude):
    report = identify_factors(adapter, roles=WRITES, engine=engine, scale=magnitude)
    u, s, _ = np.linalg.svd(dense(adapter, magnitude))
    np.testing.assert_allclose(report.strengths, s[:4], rtol=1e-5)
    for k in range(1, 5):
        assert angle(report.directions[:, :k], u[:, :k]) < 1e-4
    known = report.spectrum.size
    assert known == (LAYERS * RANK if engine == "gram" else 12)
    np.testing.assert_allclose(report.spectrum[:4], s[:4], rtol=1e-5)
    np.testing.assert_allclose(report.share, s[:4] ** 2 / np.sum(s**2), rtol=1e-4)
    np.testing.assert_allclose(report.gap[:3], s[:3] / s[1:4], rtol=1e-4)
    tops = np.stack([np.linalg.svd(dense({0: leaf}))[0][:, 0] for leaf in adapter.values()])
    np.testing.assert_allclose(report.alignment[0], np.linalg.svd(tops)[1][0] ** 2 / LAYERS, rtol=1e-4)
    largest = np.abs(report.directions).argmax(axis=0)
    assert (np.asarray(report.directions)[largest, np.arange(4)] > 0).all()
    for path, share in report.per_leaf_alignment.items():
        w = dense({path: adapter[path]})
        wanted = np.linalg.norm(u[:, :4].T @ w, axis=1) / np.linalg.norm(w)
        np.testing.assert_allclose(share, wanted, atol=2e-4)


def test_double_precision(adapter, x64):
    wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), adapter)
    report = identify_factors(wide, roles=WRITES)
    u, s, _ = np.linalg.svd(dense(adapter))
    np.testing.assert_allclose(report.strengths, s[:4], rtol=1e-12)
    assert angle(report.directions, u[:, :4]) < 1e-10


def test_bfloat16_is_read_as_it_is(adapter):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), adapter)
    report = identify_factors(low, roles=WRITES)
    np.testing.assert_allclose(report.strengths, np.linalg.svd(dense(low))[1][:4], rtol=1e-5)


def test_invariant_to_the_factorisation_the_order_and_zero_leaves(adapter):
    rng = np.random.default_rng(1)
    changed = {}
    for path in reversed(adapter):
        g = rng.normal(size=(RANK, RANK)) + 3 * np.eye(RANK)
        leaf = adapter[path]
        changed[path] = {"a": as_float(np.linalg.solve(g, leaf["a"])), "b": as_float(np.float64(leaf["b"]) @ g)}
    changed["layers.none.down"] = jax.tree.map(jnp.zeros_like, adapter["layers.0.down"])
    first = identify_factors(adapter, roles=WRITES)
    second = identify_factors(changed, roles=lambda path: "writes")
    np.testing.assert_allclose(first.strengths, second.strengths, rtol=2e-5)
    np.testing.assert_allclose(first.directions, second.directions, atol=1e-3)
    np.testing.assert_allclose(first.alignment, second.alignment, rtol=1e-3)
    np.testing.assert_allclose(first.pvalues, second.pvalues, atol=0.03)
    np.testing.assert_array_equal(second.per_leaf_alignment["layers.none.down"], 0)


def test_scales_by_path(adapter):
    scale = {path: float(i) for i, path in enumerate(adapter)}
    report = identify_factors(adapter, roles=WRITES, scale=scale)
    scaled = {path: leaf | {"b": scale[path] * leaf["b"]} for path, leaf in adapter.items()}
    np.testing.assert_allclose(report.strengths, np.linalg.svd(dense(scaled))[1][:4], rtol=1e-5)


def test_stacked_layers_of_several_ranks_and_shapes_count_one_by_one():
    """Layers on a leading axis, another rank and another input width: the same matrices, whatever their containers."""
    rng = np.random.default_rng(2)
    flat = {f"block.{i}": {"a": rng.normal(size=(3, IN)), "b": rng.normal(size=(D, 3))} for i in range(4)}
    other = {"tail": {"a": rng.normal(size=(2, 9)), "b": rng.normal(size=(D, 2))}}
    stack = {
        name: np.stack([leaf[name] for leaf in flat.values()]).reshape(2, 2, *flat["block.0"][name].shape)
        for name in "ab"
    }
    flat, other, stack = jax.tree.map(as_float, (flat, other, stack))
    apart = identify_factors(flat | other, roles=lambda path: "writes")
    together = identify_factors({"blocks": stack} | other, roles=lambda path: "writes", per_layer=True)
    np.testing.assert_allclose(apart.strengths, together.strengths, rtol=1e-6)
    np.testing.assert_allclose(apart.alignment, together.alignment, rtol=1e-5)
    shares = np.stack([apart.per_leaf_alignment[f"block.{i}"] for i in range(4)]).reshape(2, 2, 4)
    np.testing.assert_allclose(together.per_leaf_alignment["blocks"], shares, atol=1e-6)
    assert together.layer_directions["blocks"].shape == (2, 2, D, 4)
    for i in range(4):
        u, s, _ = np.linalg.svd(dense({0: flat[f"block.{i}"]}))
        place = divmod(i, 2)
        np.testing.assert_allclose(together.layer_strengths["blocks"][place], [*s[:3], 0], rtol=1e-5)
        assert angle(together.layer_directions["blocks"][place][:, :3], u[:, :3]) < 1e-3
        np.testing.assert_array_equal(together.layer_directions["blocks"][place][:, 3], 0)
    assert together.layer_directions["tail"].shape == (D, 4)


def test_readers_are_found_by_their_columns(adapter):
    transposed = {path: {"a": leaf["b"].T, "b": leaf["a"].T} for path, leaf in adapter.items()}
    reads = identify_factors(transposed, roles=lambda path: "reads", side="reads")
    writes = identify_factors(adapter, roles=WRITES)
    np.testing.assert_allclose(reads.strengths, writes.strengths, rtol=1e-5)
    np.testing.assert_allclose(reads.directions, writes.directions, atol=1e-4)


def test_weights(adapter):
    unit = identify_factors(adapter, roles=WRITES, weight="unit")
    norms = {path: np.linalg.norm(dense({0: leaf})) for path, leaf in adapter.items()}
    given = identify_factors(adapter, roles=WRITES, weight={path: 1 / norm for path, norm in norms.items()})
    scaled = {path: leaf | {"b": np.float64(leaf["b"]) / norms[path]} for path, leaf in adapter.items()}
    s = np.linalg.svd(dense(scaled))[1][:4]
    np.testing.assert_allclose(unit.strengths, s, rtol=1e-5)
    np.testing.assert_allclose(given.strengths, s, rtol=1e-5)


def test_stacking_finds_what_no_layer_shows():
    """L layers, shared strength s, own strength t > s: the shared direction has eigenvalue ``L s^2``, exactly."""
    layers, s, t = 4, 1.0, 1.5
    axes = np.eye(D)
    adapter = {
        f"layers.{i}.down": {
            "a": as_float(np.eye(IN)[[0, 1]]),
            "b": as_float(np.stack([s * axes[0], t * axes[1 + i]], axis=1)),
        }
        for i in range(layers)
    }
    report = identify_factors(adapter, roles=WRITES, per_layer=True)
    np.testing.assert_allclose(report.strengths[:2] ** 2, [layers * s**2, t**2], rtol=1e-5)
    np.testing.assert_allclose(np.abs(report.directions[:, 0]), axes[0], atol=1e-5)
    for i in range(layers):
        own = report.layer_directions[f"layers.{i}.down"][:, 0]
        np.testing.assert_allclose(np.abs(own), axes[1 + i], atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_number_of_factors(count):
    rng = np.random.default_rng(count)
    strengths = (6.0, 5.0)[:count]
    u = np.linalg.qr(rng.normal(size=(D, 2)))[0][:, :count]
    adapter = {}
    for i in range(LAYERS):
        shared = (u * strengths) @ rng.normal(size=(count, 6)) if count else 0
        w = shared + rng.normal(size=(D, 6))
        adapter[f"layers.{i}.down"] = {"a": as_float(np.eye(6, IN)), "b": as_float(w)}
    report = identify_factors(adapter, roles=WRITES)
    assert int(report.n_factors) == count
    assert report.factors.shape == (D, count)
    if count:
        assert angle(report.factors, u) < 0.3


def test_controls_take_out_what_they_share():
    """Adapter and controls share a strong direction; the adapter has one more of its own: only that is a factor."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.normal(size=(D, 2)))[0]
    common, own = u[:, :1], u[:, 1:]

    def draw(seed, shared, strengths):
        return spiked(seed, strengths=strengths, noise=0.3, rank=shared.shape[1], shared=shared)[0]

    adapter = draw(1, u, (9.0, 5.0))
    controls = [draw(seed, np.concatenate([common, -common], axis=1), (6.0, 1.0)) for seed in range(2, 6)]
    plain = identify_factors(adapter, roles=WRITES)
    assert abs(common[:, 0] @ np.asarray(plain.directions[:, 0])) > 0.95
    report = identify_factors(adapter, roles=WRITES, reference=controls)
    assert abs(own[:, 0] @ np.asarray(report.directions[:, 0])) > 0.95
    assert int(report.n_factors) == 1
    assert float(report.reference.value[0]) > 10
    np.testing.assert_allclose(report.reference.p_value[0], 1 / 5)
    assert "cannot be below 0.2" in report.notes[0]
    gram = np.asarray(report.directions).T @ np.asarray(report.directions)
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-5)
    # An adapter that is one more control has nothing of its own.
    same = identify_factors(controls[0], roles=WRITES, reference=[*controls[1:], controls[1]])
    assert float(same.reference.p_value[0]) >= 2 / 5
    assert int(same.n_factors) == 0
    assert float(same.reference.value[0]) < 2


def test_the_model_s_use_of_a_direction_is_told_with_a_p_value():
    rng = np.random.default_rng(0)
    adapter, u = spiked(strengths=(6.0, 1.0, 0.5, 0.5))
    base = {"w.0": rng.normal(size=(2, D, 30)), "w.1": rng.normal(size=(D, 30)), "r.0": rng.normal(size=(30, D))}
    loud = base | {"w.1": base["w.1"] + 10 * np.outer(u[:, 0], rng.normal(size=30))}
    states = rng.normal(size=(40, 5, D))
    states[..., :] += 3 * rng.normal(size=(40, 5, 1)) * u[:, 0]
    roles = lambda path: "reads" if path.startswith("r") else "writes"  # noqa: E731
    quiet = identify_factors(adapter, roles=roles, base=base)
    report = identify_factors(adapter, roles=roles, base=loud, activations=states)
    v = np.asarray(report.directions, float)
    c = sum(x @ x.T for x in (*loud["w.0"], loud["w.1"]))
    np.testing.assert_allclose(report.content_w.value, np.diag(v.T @ c @ v) / np.trace(c) * D, rtol=1e-4)
    r = loud["r.0"].T @ loud["r.0"]
    np.testing.assert_allclose(report.content_r.value, np.diag(v.T @ r @ v) / np.trace(r) * D, rtol=1e-4)
    cov = np.cov(states.reshape(-1, D).T)
    np.testing.assert_allclose(report.act.value, np.diag(v.T @ cov @ v) / np.trace(cov) * D, rtol=1e-4)
    assert float(report.content_w.p_value[0]) == float(report.act.p_value[0]) == pytest.approx(1e-3)
    assert bool(report.pre_existing[0])
    assert not bool(quiet.pre_existing[0])
    assert quiet.act is None
    assert quiet.pooled is None
    assert float(report.pooled.p_value[0]) == pytest.approx(1e-3)
    assert identify_factors(adapter, roles=roles).pre_existing is None
    draws = rng.normal(size=(D, 20000))
    draws /= np.linalg.norm(draws, axis=0)
    null = np.sum(draws * (c @ draws), axis=0) / np.trace(c) * D
    np.testing.assert_allclose(report.content_w.threshold, np.quantile(null, 0.99), rtol=0.15)


def test_activity_is_the_largest_over_depths():
    rng = np.random.default_rng(0)
    u = jnp.eye(D)[:, :2]
    early, late = (as_float(rng.normal(size=(60, D)) * np.where(np.arange(D) == j, 4.0, 1.0)) for j in (0, 5))
    alone = [pre_existence(u, activations=h).act for h in (early, late)]
    both = pre_existence(u, activations=[early, late]).act
    np.testing.assert_allclose(both.value, np.maximum(alone[0].value, alone[1].value), rtol=1e-6)
    assert float(both.threshold) >= max(float(one.threshold) for one in alone)
    assert float(both.p_value[0]) < 0.01 < float(both.p_value[1])


def test_evidence_does_not_depend_on_the_scale_of_the_base():
    rng = np.random.default_rng(0)
    base, states = {"w": as_float(rng.normal(size=(D, 30)))}, as_float(rng.normal(size=(50, D)))
    u = jnp.eye(D)[:, :2]
    found = [
        pre_existence(u, base={"w": c * base["w"]}, activations=c * states, roles={"w": "writes"})
        for c in (1e-18, 1.0, 1e18)
    ]
    for name in ("content_w", "act", "pooled"):
        values = [getattr(one, name) for one in found]
        for value in values:
            np.testing.assert_allclose(value.value, values[1].value, rtol=1e-3)
            np.testing.assert_allclose(value.p_value, values[1].p_value, atol=0.005)
    assert found[0].content_r is None


def test_another_checkpoint_of_the_same_shapes_compiles_nothing():
    roles = {"a": "writes", "b": "both"}

    def evidence(seed):
        rng = np.random.default_rng(seed)
        base = {"a": as_float(rng.normal(size=(D, 30))), "b": as_float(rng.normal(size=(D, D)))}
        return pre_existence(jnp.eye(D)[:, :2], base=base, activations=as_float(rng.normal(size=(50, D))), roles=roles)

    evidence(0)
    compiled = _forms._cached._cache_size()
    evidence(1)
    assert _forms._cached._cache_size() == compiled


def test_a_base_weight_that_is_not_finite_is_named():
    good, zero = as_float(np.ones((D, 3))), jnp.zeros((D, 3))
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="base weight bad holds entries that are not finite"):
            pre_existence(
                jnp.eye(D)[:, :1], base={"good": good, "bad": zero.at[0, 0].set(value)}, roles=lambda _: "writes"
            )


def test_pooled_evidence_sees_what_neither_part_does():
    """A direction at about the 95 % point of both nulls is beyond the 99 % point of their sum."""
    rng = np.random.default_rng(1)
    u = np.linalg.qr(rng.normal(size=(D, 1)))[0]
    spread = lambda c: rng.normal(size=(400, D)) + c * rng.normal(size=(400, 1)) * u[:, 0]  # noqa: E731
    found = pre_existence(
        as_float(u), base={"w": as_float(spread(0.9).T)}, activations=as_float(spread(0.9)), roles={"w": "writes"}
    )
    assert float(found.pooled.p_value[0]) <= min(float(found.content_w.p_value[0]), float(found.act.p_value[0]))
    assert float(found.pooled.p_value[0]) < 0.01
    nothing = pre_existence(
        as_float(u), base={"w": as_float(spread(0.0).T)}, activations=as_float(spread(0.0)), roles={"w": "writes"}
    )
    assert float(nothing.pooled.p_value[0]) > 0.01


def test_runs_under_jit_and_vmap_without_compiling_for_new_numbers(adapter):
    traces = []

    @jax.jit
    def run(leaves):
        traces.append(0)
        report = identify_factors(leaves, roles=WRITES)
        return report.strengths, report.n_factors

    strengths, count = run(adapter)
    doubled = jax.tree.map(lambda x: 2 * x, adapter)
    again, _ = run(doubled)
    assert len(traces) == 1
    assert int(count) >= 1
    np.testing.assert_allclose(again, 4 * strengths, rtol=1e-5)
    with pytest.raises(Exception, match="not finite"):
        jax.block_until_ready(run(jax.tree.map(lambda x: x * jnp.nan, adapter)))
