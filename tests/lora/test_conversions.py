"""Stacked layers to single modules and back, and the factors of flax.nnx, by the values they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxspec.lora import LoraConfig, apply, from_nnx_lora, join_layers, load_peft, save_peft, split_layers

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape).astype(np.float32), jnp.float32)


STACKED = {
    "model.layers.mlp.down": {"a": normal(12, 2, 6), "b": normal(12, 4, 2)},
    "model.layers.experts.w1": {"a": normal(12, 3, 2, 6), "b": normal(12, 3, 5, 2)},
    "lm_head": {"a": normal(2, 4), "b": normal(9, 2)},
}


def equal(x, y):
    return jax.tree.structure(x) == jax.tree.structure(y) and all(
        jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), x, y))
    )


def test_layers_are_split_and_joined():
    single = split_layers(STACKED)
    assert len(single) == 25
    np.testing.assert_array_equal(single["model.layers.11.mlp.down"]["a"], STACKED["model.layers.mlp.down"]["a"][11])
    assert equal(single["lm_head"], STACKED["lm_head"])
    assert equal(join_layers(single), STACKED)
    experts = split_layers(single, "experts.")
    np.testing.assert_array_equal(
        experts["model.layers.2.experts.1.w1"]["b"], STACKED["model.layers.experts.w1"]["b"][2, 1]
    )
    assert equal(join_layers(join_layers(experts, "experts.")), STACKED)


def test_stacked_layers_travel_through_peft_files(tmp_path):
    config = LoraConfig(2, 4.0)
    save_peft(tmp_path, split_layers(split_layers(STACKED), "experts."), config)
    back = join_layers(join_layers(load_peft(tmp_path).factors, "experts."))
    assert equal(back, STACKED)


def test_nnx_layers_compute_what_their_factors_say():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.plain = nnx.LoRA(6, 2, 4, rngs=rngs)
            self.linear = nnx.LoRALinear(6, 4, lora_rank=3, rngs=rngs)

    model, x = Model(nnx.Rngs(0)), normal(5, 6)
    for layer in (model.plain, model.linear.lora):
        layer.lora_b[...] = normal(*layer.lora_b.shape)
    adapter = from_nnx_lora(nnx.state(model))
    assert set(adapter) == {"plain", "linear"}
    params = {"plain": {"kernel": jnp.zeros((6, 4))}, "linear": {"kernel": model.linear.kernel[...]}}
    adapted = apply(params, adapter)
    np.testing.assert_allclose(x @ adapted["plain"]["kernel"], model.plain(x), atol=1e-5)
    np.testing.assert_allclose(x @ adapted["linear"]["kernel"], model.linear(x), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_layers(STACKED, "blocks."), "prefix is 'blocks.'; the adapter has model.layers.mlp.down"),
        (lambda: split_layers({"layers.x": STACKED["lm_head"]}), r"layers.x has a of shape \(2, 4\)"),
        (lambda: join_layers(STACKED), "prefix is"),
        (lambda: join_layers({"layers.0.x": STACKED["lm_head"], "layers.2.x": STACKED["lm_head"]}), r"layers \[0, 2\]"),
        (
            lambda: join_layers(
                {"layers.0.x": STACKED["lm_head"], "layers.1.x": {"a": normal(1, 4), "b": normal(9, 1)}}
            ),
            "different shapes",
        ),
        (lambda: from_nnx_lora({"x": jnp.ones(2)}), "no lora_a"),
        (lambda: from_nnx_lora({"x": {"lora_a": jnp.ones((2, 1))}}), "'a' and 'b'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
