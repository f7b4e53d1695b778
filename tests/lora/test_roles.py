"""Roles by name for the naming schemes in use, and what they say about factors, full weights and normalised readers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora import (
    factor_roles,
    fold_norm,
    kernel_layout,
    module_path,
    orthonormal_directions,
    resolve_roles,
    roles_from_path,
    weight_roles,
)
from jaxspec.optim import project_updates

NAMES = """
model.layers.3.        | self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.gate_proj mlp.up_proj
                       | self_attn.o_proj mlp.down_proj
model.layers.0.block_sparse_moe. | gate router experts.1.w1 experts.1.w3 | experts.1.w2
model.layers.0.        | self_attn.qkv_proj mlp.gate_up_proj mlp.fc1 | self_attn.dense mlp.fc2
transformer.h.0.       | attn.c_attn mlp.c_fc mlp.fc_in attn.q_proj | attn.c_proj mlp.c_proj attn.out_proj mlp.fc_out
gpt_neox.layers.0.     | attention.query_key_value mlp.dense_h_to_4h | attention.dense mlp.dense_4h_to_h
transformer.h.0.       | self_attention.query_key_value mlp.dense_h_to_4h | self_attention.dense mlp.dense_4h_to_h
model.decoder.layers.0.| self_attn.q_proj fc1 encoder_attn.k_proj | self_attn.out_proj fc2
bert.encoder.layer.0.  | attention.self.query attention.self.value intermediate.dense
                       | attention.output.dense output.dense
encoder.block.0.layer. | 0.SelfAttention.q 0.SelfAttention.v 1.DenseReluDense.wi 1.DenseReluDense.wi_0
                       | 0.SelfAttention.o 1.DenseReluDense.wo
layers.0.              | attention.wq attention.wk attention.wv feed_forward.w1 | attention.wo feed_forward.w2
Block_0/               | MultiHeadDotProductAttention_0/query attn/value MlpBlock_0/Dense_0
                       | MultiHeadDotProductAttention_0/out MlpBlock_0/Dense_1
blocks/0/              | attn/query_proj attn/value_proj | attn/output_proj
model.                 | lm_head embed_out | embed_tokens wte wpe shared word_embeddings Embed_0
"""
ROWS = [[part.strip() for part in row.split("|")] for row in NAMES.replace("\n  ", " ").strip().splitlines()]
CASES = [
    (prefix + name, role)
    for prefix, reads, writes in ROWS
    for role, names in (("reads", reads), ("writes", writes))
    for name in names.split()
]


@pytest.mark.parametrize(("path", "role"), CASES)
def test_names_of_the_families(path, role):
    for suffix in ("", ".weight", "/kernel", "/embedding"):
        assert roles_from_path(path + suffix) == role, suffix
    assert roles_from_path("base." + path) == role


@pytest.mark.parametrize("path", ["model.norm", "h.0.ln_1", "x.input_layernorm.weight", "LayerNorm_0", "q_b_proj"])
def test_norms_and_inner_projections_are_off_the_stream(path):
    assert roles_from_path(path) == "none"


@pytest.mark.parametrize(
    "path", ["model.normal.x", "layers.0.mystery", "q_proj.lora", "up_projector", "adapter.xq_proj"]
)
def test_other_names_have_no_role(path):
    assert roles_from_path(path) is None


def test_roles_come_from_mappings_functions_and_tables():
    paths = ["x.q_proj", "x.thing"]
    expected = {"x.q_proj": "reads", "x.thing": "both"}
    assert resolve_roles(paths, expected) == expected
    assert resolve_roles(paths, lambda path: "reads" if "q" in path else None, default_role="both") == expected
    assert resolve_roles(paths, (("thing$", "both"), ("q_", "reads"))) == expected
    assert resolve_roles(paths, default_role="both") == expected


def test_paths_without_a_role_are_listed_and_unknown_roles_named():
    with pytest.raises(ValueError, match=r"none for layers\.0\.foo, layers\.1\.bar;"):
        resolve_roles(["layers.0.foo", "q_proj", "layers.1.bar"])
    with pytest.raises(ValueError, match="'writer'"):
        resolve_roles(["x"], {"x": "writer"})
    with pytest.raises(ValueError, match=r"none for gadget;"):
        factor_roles({"gadget": {"a": 0, "b": 0}})


def test_factors_of_writers_and_readers():
    adapter = {path: {"a": 0, "b": 0} for path in ("o_proj", "q_proj", "z", "n")}
    found = factor_roles(adapter, {"o_proj": "writes", "q_proj": "reads", "z": "both", "n": "none"})
    assert found == {
        "o_proj": {"a": "none", "b": "writes"},
        "q_proj": {"a": "reads", "b": "none"},
        "z": {"a": "reads", "b": "writes"},
        "n": {"a": "none", "b": "none"},
    }


def test_full_weights_name_the_axis_of_the_stream():
    params = {
        "q_proj.weight": jnp.ones((3, 2)),
        "down_proj.weight": jnp.ones((2, 3)),
        "down_proj.bias": jnp.ones(2),
        "q_proj.bias": jnp.ones(3),
        "norm.weight": jnp.ones((5, 2)),
        "wte.weight": jnp.ones((7, 2)),
        "h.0.mlp.c_proj.weight": jnp.ones((3, 2)),
        "mlp": {
            "up": {"kernel": jnp.ones((4, 2, 3)), "bias": jnp.ones((4, 3))},
            "down": {"kernel": jnp.ones((4, 3, 2))},
        },
        "attn": {"out": {"kernel": jnp.ones((2, 4, 2))}},
    }
    assert weight_roles(params) == {
        "q_proj.weight": "reads",
        "down_proj.weight": "writes",
        "down_proj.bias": "reads",  # its last axis
        "q_proj.bias": "none",
        "norm.weight": "none",
        "wte.weight": "reads",
        "h.0.mlp.c_proj.weight": "reads",
        "mlp": {"up": {"kernel": "writes", "bias": "none"}, "down": {"kernel": "reads"}},
        "attn": {"out": {"kernel": "reads"}},
    }
    with pytest.raises(ValueError, match="'in_heads'"):
        weight_roles({"attn": {"query": {"kernel": jnp.ones((2, 4, 2))}}})
    with pytest.raises(ValueError, match="none for gadget;"):
        weight_roles({"gadget": jnp.ones((2, 2))})


def test_the_axes_named_for_full_weights_are_those_that_keep_the_stream():
    rng = np.random.default_rng(3)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    u, params = (
        normal(4, 1),
        {
            "down_proj.weight": normal(4, 6),
            "up_proj.weight": normal(6, 4),
            "wte.weight": normal(9, 4),
            "down_proj.bias": normal(4),
            "block": {"down": {"kernel": normal(3, 6, 4)}, "up": {"kernel": normal(3, 4, 6)}},
        },
    )
    tx = project_updates(u, weight_roles(params))
    steps = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params))[0]
    along = {
        "down_proj.weight": u.T @ steps["down_proj.weight"],
        "up_proj.weight": steps["up_proj.weight"] @ u,
        "wte.weight": steps["wte.weight"] @ u,
        "down_proj.bias": steps["down_proj.bias"] @ u,
        "down": steps["block"]["down"]["kernel"] @ u,
        "up": steps["block"]["up"]["kernel"].mT @ u,
    }
    for name, moved in along.items():
        assert float(jnp.abs(moved).max()) < 1e-5, name
    assert all(float(jnp.abs(step).max()) > 0.1 for step in jax.tree.leaves(steps))


def test_module_paths_and_layouts_by_name():
    leaves = jax.tree_util.tree_flatten_with_path({"attn": {"value": {"kernel": 1}}, "list": [{"weight": 2}]})[0]
    assert [module_path(path) for path, _ in leaves] == ["attn.value", "list.0"]
    assert module_path("kernel") == "kernel"
    assert module_path("a.value") == "a.value"
    layouts = {
        "q_proj.weight": "out_in",
        "transformer.wte.weight": "in_out",
        "embed_tokens/embedding": "in_out",
        "h.0.attn.c_attn.weight": "in_out",
        "Dense_0/kernel": "in_out",
        "up": "in_out",
        "attn/query/kernel": "in_heads",
        "attn/out/kernel": "heads_out",
    }
    assert {path: kernel_layout(path, (2, 3, 4)) for path in layouts} == layouts
    assert kernel_layout("attn/query/kernel", (2, 3)) == "in_out"


@pytest.mark.parametrize("centred", [False, True])
def test_a_folded_norm_hides_the_directions_from_the_reader(centred):
    rng = np.random.default_rng(1)
    u = np.linalg.qr(rng.standard_normal((10, 2)))[0]
    gain = rng.uniform(0.5, 2, 10)
    basis = np.asarray(fold_norm(jnp.asarray(u, jnp.float32), jnp.asarray(gain, jnp.float32), centred=centred), float)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-6)
    w = rng.standard_normal((4, 10)) @ (np.eye(10) - basis @ basis.T)
    h, moved = rng.standard_normal(10), u @ [3.0, -1.0]
    mean = np.mean if centred else lambda x: 0.0
    read = [w @ (gain * (x - mean(x))) for x in (h, h + moved)]
    np.testing.assert_allclose(read[0], read[1], atol=1e-5)
    assert abs(w @ moved).max() > 0.1  # blocking the directions themselves would not have done


def test_what_the_normalisation_removes_is_dropped():
    u = jnp.stack([jnp.full(9, 1 / 3), jnp.eye(9)[0] - jnp.eye(9)[1]], axis=1)
    with pytest.warns(UserWarning, match="2 columns of rank 1"):
        basis = fold_norm(u, centred=True)
    np.testing.assert_allclose(np.abs(basis[:2, 0]), 2**-0.5, atol=1e-6)
    traced = jax.jit(lambda u: fold_norm(u, centred=True))(u)
    np.testing.assert_allclose(traced @ traced.T, basis @ basis.T, atol=1e-6)
    np.testing.assert_array_equal(fold_norm(basis), basis)
    with pytest.raises(ValueError, match=r"gain has shape \(3,\)"):
        fold_norm(u, jnp.ones(3))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_orthonormal_directions_span_what_was_given(scale):
    rng = np.random.default_rng(2)
    u = rng.standard_normal((8, 3))
    q = np.linalg.qr(u)[0]
    columns = jnp.asarray(u * np.array([scale, 1.0, 1 / scale]), jnp.float32)
    for basis in (orthonormal_directions(columns), jax.jit(orthonormal_directions)(columns)):
        np.testing.assert_allclose(basis @ basis.T, q @ q.T, atol=1e-5)


def test_traced_directions_that_are_not_finite_are_refused():
    with pytest.raises(Exception, match="not finite"):
        jax.block_until_ready(jax.jit(orthonormal_directions)(jnp.full((3, 1), jnp.nan)))
