"""Adapters made on, applied to and merged into flax.nnx, flax.linen and equinox models, by the values they compute."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxspec.lora import LoraConfig, apply, init, merge, unmerge

RNG = np.random.default_rng(0)
D, M, HEADS = 8, 12, 2
X = jnp.asarray(RNG.standard_normal((5, D)), jnp.float32)
KEY = jax.random.key(0)


def moved(adapter):
    return {
        module: {**leaf, "b": jnp.asarray(RNG.standard_normal(leaf["b"].shape), jnp.float32)}
        for module, leaf in adapter.items()
    }


def low_rank(adapter, module, x, scale):
    """``s x A^T B^T`` by hand, what the adapted module adds to its output."""
    leaf = adapter[module]
    return scale * np.asarray(x, float) @ np.asarray(leaf["a"], float).T @ np.asarray(leaf["b"], float).T


@pytest.mark.parametrize("lazy", [False, True])
def test_equinox(lazy):
    model = eqx.nn.MLP(D, D, M, 1, key=KEY)
    adapter = moved(init(KEY, model, LoraConfig(2, 2.0, targets=".*")))
    assert jax.tree.map(jnp.shape, adapter) == {
        "layers.0": {"a": (2, D), "b": (M, 2)},
        "layers.1": {"a": (2, M), "b": (D, 2)},
    }
    adapted = apply(model, adapter, 0.5, lazy=lazy)
    hidden = jax.nn.relu(jax.vmap(model.layers[0])(X) + low_rank(adapter, "layers.0", X, 0.5))
    expected = jax.vmap(model.layers[1])(hidden) + low_rank(adapter, "layers.1", hidden, 0.5)
    np.testing.assert_allclose(jax.vmap(adapted)(X), expected, atol=1e-5)
    back = unmerge(merge(model, adapter, 0.5), adapter, 0.5)
    np.testing.assert_allclose(jax.vmap(back)(X), jax.vmap(model)(X), atol=1e-5)


def test_linen_with_attention_embedding_and_scanned_layers():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(D, name="down_proj")(jnp.tanh(nn.Dense(M, name="up_proj")(x))), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(20, D, name="wte")(tokens)
            x = x + nn.MultiHeadDotProductAttention(HEADS, name="attn")(x)
            layers = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return layers(name="layers")(x, None)[0]

    model, tokens = Model(), jnp.arange(6)
    params = model.init(KEY, tokens)["params"]
    config = LoraConfig(2, 2.0, targets="wte|attn.(query|value|out)|up_proj|down_proj")
    adapter = moved(init(KEY, params, config))
    shapes = jax.tree.map(jnp.shape, adapter)
    assert shapes["wte"] == {"a": (2, 20), "b": (D, 2)}
    assert shapes["attn.query"] == shapes["attn.out"] == {"a": (2, D), "b": (D, 2)}
    assert shapes["layers.down_proj"] == {"a": (3, 2, M), "b": (3, D, 2)}
    assert len(shapes) == 6

    # Module by module: what an adapted module puts out is what it did plus the low-rank part.
    for module in adapter:
        one = apply(params, {module: adapter[module]}, 0.5)
        (name,) = module.split(".")[-1:]
        seen, plain = (capture(model, p, tokens) for p in (one, params))
        inputs = {"query": plain["wte"], "value": plain["wte"]}
        if module == "wte":
            part = low_rank(adapter, "wte", np.eye(20)[:6], 0.5)
            np.testing.assert_allclose(seen["wte"] - plain["wte"], part, atol=1e-5)
        elif name in inputs:
            part = low_rank(adapter, module, inputs[name], 0.5).reshape(6, HEADS, D // HEADS)
            np.testing.assert_allclose(seen[name] - plain[name], part, atol=1e-5)
        elif name == "out":
            heads = attended(plain)
            np.testing.assert_allclose(seen["out"] - plain["out"], low_rank(adapter, module, heads, 0.5), atol=1e-5)
        else:
            change = jax.tree.map(lambda x, y: x - y, one, params)["layers"][name]["kernel"]
            leaf = adapter[module]
            np.testing.assert_allclose(change, 0.5 * np.swapaxes(leaf["b"] @ leaf["a"], 1, 2), atol=1e-5)


def capture(model, params, tokens):
    """Outputs of the embedding and of the parts of the attention."""
    state = model.apply({"params": params}, tokens, capture_intermediates=True, mutable=["intermediates"])[1]
    found = state["intermediates"]
    parts = {name: found["attn"][name]["__call__"][0] for name in ("query", "key", "value", "out")}
    return {"wte": found["wte"]["__call__"][0], **parts}


def attended(parts):
    """Attention by hand: (tokens, heads * width)."""
    logits = jnp.einsum("qhd,khd->hqk", parts["query"], parts["key"]) / (D // HEADS) ** 0.5
    return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(logits), parts["value"]).reshape(-1, D)


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.up_proj = nnx.Linear(D, M, rngs=rngs)
        self.down_proj = nnx.Linear(M, D, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(HEADS, D, decode=False, rngs=rngs)

    def __call__(self, x):
        x = x + self.attn(x)
        return x + self.down_proj(jnp.tanh(self.up_proj(x)))


def test_nnx_states_and_models():
    model = NnxModel(nnx.Rngs(0))
    graph, state = nnx.split(model, nnx.Param)
    adapter = moved(init(KEY, state, LoraConfig(2, 2.0, targets="up_proj|down_proj|attn.value")))
    assert set(adapter) == {"up_proj", "down_proj", "attn.value"}
    adapted = nnx.merge(graph, apply(state, adapter, 0.5))

    def by_hand(x):
        value = model.attn.value(x) + low_rank(adapter, "attn.value", x, 0.5).reshape(-1, HEADS, D // HEADS)
        parts = {"query": model.attn.query(x), "key": model.attn.key(x), "value": value}
        x = x + model.attn.out(attended(parts).reshape(-1, HEADS, D // HEADS))
        hidden = jnp.tanh(model.up_proj(x) + low_rank(adapter, "up_proj", x, 0.5))
        return x + model.down_proj(hidden) + low_rank(adapter, "down_proj", hidden, 0.5)

    np.testing.assert_allclose(adapted(X), by_hand(X), atol=2e-5)
    nnx.update(model, merge(state, adapter, 0.5))
    np.testing.assert_allclose(model(X), adapted(X), atol=2e-5)


def test_factors_of_nnx_lora_are_ours_transposed():
    layer = nnx.LoRA(D, 3, M, rngs=nnx.Rngs(0))
    a, b = layer.lora_a[...], layer.lora_b[...] + 1
    layer.lora_b[...] = b
    kernel = apply({"kernel": jnp.zeros((D, M))}, {"kernel": {"a": a.T, "b": b.T}})["kernel"]
    np.testing.assert_allclose(X @ kernel, layer(X), atol=1e-5)


def test_gradients_reach_the_adapter_through_an_nnx_model():
    graph, state = nnx.split(NnxModel(nnx.Rngs(1)), nnx.Param)
    adapter = init(KEY, state, LoraConfig(2, 2.0, targets="down_proj"))

    @jax.jit
    def loss(adapter):
        return jnp.sum(nnx.merge(graph, apply(state, adapter, 0.5))(X) ** 2)

    grads = jax.grad(loss)(adapter)["down_proj"]
    assert float(jnp.abs(grads["b"]).max()) > 0
    assert float(jnp.abs(grads["a"]).max()) == 0  # b is zero
    moved_down = {"down_proj": {**adapter["down_proj"], "b": -1e-3 * grads["b"]}}
    assert float(loss(moved_down)) < float(loss(adapter))
