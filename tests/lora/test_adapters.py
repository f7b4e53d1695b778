"""Adapters on plain pytrees: initialisation, application and merging against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora import LoraConfig, apply, base_weights, delta, init, merge, unmerge

RNG = np.random.default_rng(0)
D, M, R, LAYERS = 8, 12, 3, 4


def normal(*shape, dtype=np.float32):
    return jnp.asarray(RNG.standard_normal(shape).astype(dtype), dtype)


PARAMS = {
    "wte": {"embedding": normal(20, D)},
    "blocks": {
        "up": {"kernel": normal(LAYERS, D, M), "bias": normal(LAYERS, M)},
        "down": {"kernel": normal(LAYERS, M, D)},
    },
    "last": {"q_proj": {"weight": normal(6, D)}, "o_proj": {"weight": normal(D, 6)}},
}
LEAF = {"a": jnp.ones((1, 3)), "b": jnp.ones((4, 1))}
ALL = LoraConfig(rank=R, alpha=6.0, targets=".*")
KEY = jax.random.key(0)
U = np.linalg.qr(RNG.standard_normal((D, 2)))[0]


def moved(adapter):
    """The adapter after steps that made ``b`` anything."""
    return {module: {**leaf, "b": normal(*leaf["b"].shape)} for module, leaf in adapter.items()}


def dense(leaf, scale=1.0):
    return scale * np.asarray(leaf["b"], float) @ np.asarray(leaf["a"], float)


@pytest.fixture(scope="module")
def adapter():
    return moved(init(KEY, PARAMS, ALL))


def test_init_has_the_shapes_of_every_layout_and_changes_nothing():
    fresh = init(KEY, PARAMS, ALL)
    assert jax.tree.map(jnp.shape, fresh) == {
        "wte": {"a": (R, 20), "b": (D, R)},
        "blocks.up": {"a": (LAYERS, R, D), "b": (LAYERS, M, R)},
        "blocks.down": {"a": (LAYERS, R, M), "b": (LAYERS, D, R)},
        "last.q_proj": {"a": (R, D), "b": (6, R)},
        "last.o_proj": {"a": (R, 6), "b": (D, R)},
    }
    for module, leaf in fresh.items():
        bound = 1 if module == "wte" else leaf["a"].shape[-1] ** -0.5
        assert 0.7 * bound < float(jnp.abs(leaf["a"]).max()) <= bound
    after = apply(PARAMS, fresh, ALL.scaling)
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(PARAMS), jax.tree.leaves(after), strict=True))


def test_layers_of_experts_have_two_leading_axes():
    params = {"layers": {"experts": {"w2": normal(3, 5, M, D)}}}
    made = moved(init(KEY, params, LoraConfig(rank=R, alpha=1.0)))
    assert jax.tree.map(jnp.shape, made) == {"layers.experts.w2": {"a": (3, 5, R, M), "b": (3, 5, D, R)}}
    change = np.asarray(apply(params, made, 0.5)["layers"]["experts"]["w2"] - params["layers"]["experts"]["w2"])
    np.testing.assert_allclose(change, 0.5 * dense(made["layers.experts.w2"]).mT, atol=1e-5)


def test_a_module_draws_the_same_whatever_else_is_adapted():
    alone = init(KEY, PARAMS, LoraConfig(rank=R, alpha=1.0, targets="q_proj"))
    assert list(alone) == ["last.q_proj"]
    np.testing.assert_array_equal(alone["last.q_proj"]["a"], init(KEY, PARAMS, ALL)["last.q_proj"]["a"])
    shapes = jax.eval_shape(lambda: PARAMS)
    np.testing.assert_array_equal(init(KEY, shapes, ALL)["wte"]["a"], init(KEY, PARAMS, ALL)["wte"]["a"])


def test_default_targets_are_the_projections_back_from_mlps():
    names = {"mlp.down_proj": 1, "mlp.up_proj": 0, "attn.c_proj": 0, "mlp.c_proj": 1, "self_attn.o_proj": 0, "fc2": 1}
    config = LoraConfig(rank=1, alpha=1.0)
    assert {name: int(config.targeted(name)) for name in names} == names


def test_rank_and_scale_follow_the_patterns():
    config = LoraConfig(4, 8.0, rank_pattern={r"0\.q": 2, "q": 16}, alpha_pattern={r"x\.0\.q": 1.0})
    assert [config.rank_of(m) for m in ("x.0.q", "x.1.q", "x.0.k", "x.0.qq")] == [2, 16, 4, 4]
    assert [config.scaling_of(m) for m in ("x.0.q", "x.1.q", "x.0.k")] == [0.5, 0.5, 2.0]
    assert LoraConfig(4, 8.0, rslora=True).scaling == 4.0
    assert config == LoraConfig(4, 8.0, rank_pattern={r"0\.q": 2, "q": 16}, alpha_pattern={r"x\.0\.q": 1.0})
    assert isinstance(hash(config), int)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_delta_is_the_scaled_product(dtype):
    leaf = {"a": normal(2, R, 5, dtype=dtype), "b": normal(2, 7, R, dtype=dtype)}
    found = delta(leaf, 0.5)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, dense(leaf, 0.5), atol=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_apply_adds_in_the_layout_of_each_parameter(adapter, lazy):
    scale = {module: 0.1 * (index + 1) for index, module in enumerate(adapter)}
    change = {module: dense(leaf, scale[module]) for module, leaf in adapter.items()}
    found = apply(PARAMS, adapter, scale, lazy=lazy)
    weights = jax.tree.map(
        lambda x: np.asarray(x.dense() if lazy and hasattr(x, "layout") else x, float),
        found,
        is_leaf=lambda x: hasattr(x, "layout"),
    )
    expected = jax.tree.map(lambda x: np.asarray(x, float), PARAMS)
    expected["wte"]["embedding"] += change["wte"].T
    expected["blocks"]["up"]["kernel"] += change["blocks.up"].mT
    expected["blocks"]["down"]["kernel"] += change["blocks.down"].mT
    expected["last"]["q_proj"]["weight"] += change["last.q_proj"]
    expected["last"]["o_proj"]["weight"] += change["last.o_proj"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), weights, expected)


def test_lazy_products_are_those_of_the_sum(adapter):
    x = normal(5, D)
    merged, lazy = (apply(PARAMS, adapter, 0.7, lazy=flag) for flag in (False, True))

    @jax.jit
    def products(params):
        up, q = params["blocks"]["up"]["kernel"], params["last"]["q_proj"]["weight"]
        return jnp.broadcast_to(x, (LAYERS, 5, D)) @ up, q @ x[0], q.shape

    for found, expected in zip(products(lazy), products(merged), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    up = lambda adapter, lazy: apply(PARAMS, adapter, 0.7, lazy=lazy)["blocks"]["up"]["kernel"]  # noqa: E731
    for flag in (False, True):
        program = str(jax.make_jaxpr(lambda adapter, flag=flag: x @ up(adapter, flag))(adapter))
        assert ("f32[4,12,8] = dot_general" not in program) == flag  # B A is formed, or is not


def test_gradients_of_the_adapter_are_those_of_the_product():
    leaf = {"a": normal(R, D), "b": normal(6, R)}
    x, g = normal(D), normal(6)
    w = {"weight": PARAMS["last"]["q_proj"]["weight"]}
    for lazy in (False, True):
        grads = jax.grad(lambda leaf: g @ (apply(w, {"weight": leaf}, 0.5, lazy=lazy)["weight"] @ x))(leaf)  # noqa: B023
        np.testing.assert_allclose(grads["a"], 0.5 * np.outer(leaf["b"].T @ g, x), atol=1e-5)
        np.testing.assert_allclose(grads["b"], 0.5 * np.outer(g, leaf["a"] @ x), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_unmerge_takes_out_what_merge_put_in(adapter, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    merged = merge(params, adapter, 0.3)
    back = unmerge(merged, adapter, 0.3)
    for x, y, z in zip(*map(jax.tree.leaves, (params, merged, back)), strict=True):
        assert y.dtype == z.dtype == dtype
        largest = max(float(jnp.abs(y).max()), 1.0)
        np.testing.assert_allclose(
            np.asarray(x, float), np.asarray(z, float), atol=2 * largest * float(jnp.finfo(dtype).eps)
        )


def test_new_numbers_do_not_compile_again(adapter):
    step = jax.jit(lambda params, adapter, scale: apply(params, adapter, scale))
    step(PARAMS, adapter, 0.1)
    step(PARAMS, moved(adapter), 0.7)
    assert step._cache_size() == 1
    swept = jax.vmap(lambda s: apply(PARAMS, adapter, s)["last"]["q_proj"]["weight"])(jnp.arange(3.0))
    np.testing.assert_allclose(swept[0], PARAMS["last"]["q_proj"]["weight"])


def test_a_projected_start_reads_nothing_of_the_directions_after_b_moved():
    readers = ("blocks.up", "last.q_proj")
    plain, projected = (
        moved(init(KEY, PARAMS, ALL, project=project)) for project in (None, jnp.asarray(U, jnp.float32))
    )
    for module in readers:
        read = [np.abs(dense(x[module]) @ U).max() / np.abs(dense(x[module])).max() for x in (plain, projected)]
        assert read[0] > 0.1
        assert read[1] < 1e-6
    for module in set(plain) - set(readers):
        np.testing.assert_array_equal(plain[module]["a"], projected[module]["a"])


def test_an_unprojected_start_reads_the_share_that_dimensions_predict():
    wide = init(
        KEY, {"q_proj": {"weight": jax.ShapeDtypeStruct((8, 64), jnp.float32)}}, LoraConfig(64, 1.0, targets="q_proj")
    )
    u = np.linalg.qr(RNG.standard_normal((64, 2)))[0]
    a = np.asarray(wide["q_proj"]["a"])
    assert np.linalg.norm(a @ u) / np.linalg.norm(a) == pytest.approx((2 / 64) ** 0.5, rel=0.3)


def test_directions_may_differ_by_module():
    small = jnp.asarray(np.linalg.qr(RNG.standard_normal((M, 1)))[0], jnp.float32)
    found = init(KEY, PARAMS, ALL, project={"blocks.down": small}, roles=lambda path: None)
    assert float(jnp.abs(found["blocks.down"]["a"] @ small).max()) < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: init(KEY, PARAMS, LoraConfig(2, 1.0, targets="absent")), "params has blocks.down, blocks.up, last"),
        (lambda: init(KEY, PARAMS, ALL, project=jnp.eye(M)[:, :1]), r"blocks.up has a of shape \(4, 3, 8\)"),
        (lambda: init(KEY, PARAMS, ALL, project=jnp.eye(D)[:, :1], roles={}), "none for blocks.down, blocks.up"),
        (lambda: init(KEY, PARAMS, ALL, project={"absent": jnp.eye(D)}), "project names absent"),
        (lambda: init(KEY, PARAMS, ALL, layout="rows"), "layout of .* is 'rows'"),
        (lambda: init(KEY, PARAMS, ALL, layout="in_heads"), "expected 3 axes"),
        (lambda: init(KEY, {"w": {"weight": jnp.ones((2, 2)), "kernel": jnp.ones((2, 2))}}, ALL), "w has several"),
        (lambda: LoraConfig(0, 1.0), "rank is 0"),
        (lambda: LoraConfig(2, 1.0, rank_pattern={"x": 0}), "rank_pattern"),
        (lambda: LoraConfig(2, float("nan")), "alpha is nan"),
        (lambda: LoraConfig(2, 1.0, targets="("), "no regular expression"),
        (lambda: delta({"a": jnp.ones((2, 3))}), "expected a mapping with 'a' and 'b'"),
        (lambda: delta({"a": jnp.ones((2, 3)), "b": jnp.ones((4, 3))}), r"\(2, 3\) and b of shape \(4, 3\)"),
        (lambda: delta({**LEAF, "b": jnp.full((4, 1), jnp.inf)}), "leaf has entries in b that are not finite"),
        (lambda: merge({"x": jnp.ones((3, 4))}, {"y": LEAF}), "lacks: y; params has x"),
        (lambda: merge({"x": jnp.ones((4, 3))}, {"x": LEAF}), r"x of shape \(4, 3\) in layout 'in_out' expects"),
        (lambda: merge({"x": jnp.ones((3, 4))}, {"x": LEAF}, {"y": 1.0}), "no number for x"),
        (lambda: merge({"x": jnp.ones((3, 4))}, {"x": {**LEAF, "magnitude": jnp.ones(4)}}), "DoRA"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("shape", "layout", "matrix"),
    [
        ((2, D, M), "out_in", (2, D, M)),
        ((D, D), "in_out", (D, D)),
        ((D, 3, 4), "in_heads", (12, D)),
        ((3, 4, D), "heads_out", (D, 12)),
    ],
)
def test_base_weights_are_what_merging_adds_to(shape, layout, matrix):
    """In every layout ``base_weights`` of the merged parameters is ``W + B A``, square or not."""
    params, module = {"block": {"down": {"kernel": normal(*shape), "bias": normal(3)}}}, "block.down"
    *batch, out, inp = matrix
    leaf = {"a": normal(*batch, 2, inp), "b": normal(*batch, out, 2)}
    before, after = (
        base_weights(p, layout)[module] for p in (params, merge(params, {module: leaf}, layout=lambda *_: layout))
    )
    assert before.shape == matrix
    np.testing.assert_allclose(after - before, dense(leaf), atol=1e-5)


def test_base_weights_names_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"down has several parameters"):
        base_weights({"down": {"kernel": normal(2, 3), "weight": normal(2, 3)}})
    with pytest.raises(ValueError, match=r"down/kernel: a parameter of shape \(2, 3\) has layout 'in_heads'"):
        base_weights({"down": {"kernel": normal(2, 3)}}, "in_heads")
