"""Files of PEFT: bit for bit there and back, also by the safetensors package, and nothing believed that cannot be."""

import json
import warnings

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxspec.lora import LoraConfig, apply, load_peft, merge, save_peft

RNG = np.random.default_rng(0)
PREFIX = "base_model.model."
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"]}


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def pair(module="q_proj", rank=2, out=4, inp=3, dtype=np.float32):
    return {
        f"{PREFIX}{module}.lora_A.weight": normal(rank, inp, dtype=dtype),
        f"{PREFIX}{module}.lora_B.weight": normal(out, rank, dtype=dtype),
    }


def folder(path, tensors=None, **fields):
    """A folder as PEFT would leave it, written by the safetensors package."""
    path.mkdir(exist_ok=True)
    save_file(pair() if tensors is None else tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, **fields}))
    return path


def adapter(dtype=jnp.float32):
    make = lambda *shape: jnp.asarray(normal(*shape).astype(dtype), dtype)  # noqa: E731
    return {
        "layers.0.q_proj": {"a": make(2, 6), "b": make(5, 2)},
        "layers.1.q_proj": {"a": make(3, 6), "b": make(5, 3)},
        "embed_tokens": {"a": make(2, 11), "b": make(6, 2)},
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_comes_back_bit_for_bit(tmp_path, dtype, rslora):
    factors = adapter(dtype)
    config = LoraConfig(2, 8.0, rslora=rslora, alpha_pattern={r"1\.q_proj": 3.0}, fan_in_fan_out=True)
    save_peft(
        tmp_path / "new", factors, config, settings={"base_model_name_or_path": "some/model", "task_type": "CAUSAL_LM"}
    )
    back = load_peft(tmp_path / "new")
    assert set(back.factors) == set(factors)
    for module, leaf in factors.items():
        for name in ("a", "b"):
            assert back.factors[module][name].dtype == dtype
            assert np.asarray(back.factors[module][name]).tobytes() == np.asarray(leaf[name]).tobytes()
    root = np.sqrt if rslora else float
    expected = {"layers.0.q_proj": 8 / root(2), "layers.1.q_proj": 3 / root(3), "embed_tokens": 8 / root(2)}
    assert back.scales == pytest.approx(expected)
    assert back.embeddings == {"embed_tokens"}
    assert back.config.fan_in_fan_out
    assert back.settings["base_model_name_or_path"] == "some/model"
    assert back.notes == ()
    save_peft(tmp_path / "again", back.factors, back.config, settings=back.settings, embeddings=back.embeddings)
    again = load_peft(tmp_path / "again")
    assert (again.scales, again.config) == (back.scales, back.config)
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("new", "again"))
    assert len(first) == len(second)


def test_the_safetensors_package_finds_the_keys_of_peft(tmp_path):
    factors = adapter(jnp.bfloat16)
    save_peft(tmp_path, factors, LoraConfig(2, 2.0))
    with safe_open(tmp_path / "adapter_model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == {
        "base_model.model.layers.0.q_proj.lora_A.weight": (2, 6),
        "base_model.model.layers.0.q_proj.lora_B.weight": (5, 2),
        "base_model.model.layers.1.q_proj.lora_A.weight": (3, 6),
        "base_model.model.layers.1.q_proj.lora_B.weight": (5, 3),
        "base_model.model.embed_tokens.lora_embedding_A": (2, 11),
        "base_model.model.embed_tokens.lora_embedding_B": (6, 2),
    }
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert fields["rank_pattern"] == {r"^layers\.1\.q_proj": 3}
    assert fields["target_modules"] == ["embed_tokens", "layers.0.q_proj", "layers.1.q_proj"]


def test_scales_of_ones_own_are_written_as_patterns(tmp_path):
    scale = {"layers.0.q_proj": 4.0, "layers.1.q_proj": 0.3, "embed_tokens": -1.0}
    save_peft(tmp_path, adapter(), LoraConfig(2, 8.0), scale=scale)
    assert load_peft(tmp_path).scales == pytest.approx(scale, rel=1e-15)
    save_peft(tmp_path, adapter(), LoraConfig(2, 8.0, rslora=True), scale=0.25)
    assert set(np.round(list(load_peft(tmp_path).scales.values()), 14)) == {0.25}


def test_patterns_match_whole_names_and_last_parts(tmp_path):
    tensors = pair("a.q_proj") | pair("b.q_proj", rank=3) | pair("xq_proj")
    fields = {"rank_pattern": {r"b\.q_proj": 3}, "alpha_pattern": {"q_proj": 2, r"^a\.q_proj": 7}}
    assert load_peft(folder(tmp_path, tensors, **fields)).scales == {"a.q_proj": 1.0, "b.q_proj": 2 / 3, "xq_proj": 4.0}


def test_an_adapter_read_is_merged_into_what_its_names_say(tmp_path):
    tensors = pair("h.0.attn.c_attn", out=6, inp=4) | {
        f"{PREFIX}wte.lora_embedding_A": normal(2, 9),
        f"{PREFIX}wte.lora_embedding_B": normal(4, 2),
    }
    read = load_peft(folder(tmp_path, tensors, fan_in_fan_out=True))
    params = {"h.0.attn.c_attn.weight": jnp.zeros((4, 6)), "wte.weight": jnp.zeros((9, 4))}
    merged = merge(params, read.factors, read.scales)
    for module, names in (("h.0.attn.c_attn", ("A.weight", "B.weight")), ("wte", ("embedding_A", "embedding_B"))):
        a, b = (tensors[f"{PREFIX}{module}.lora_{name}"].astype(float) for name in names)
        np.testing.assert_allclose(merged[module + ".weight"], 4 * (b @ a).T, atol=1e-5)


def test_old_keys_and_other_tensors(tmp_path):
    a, b = pair().values()
    tensors = {
        "q_proj.lora_A.default.weight": a,
        "q_proj.lora_B.default.weight": b,
        f"{PREFIX}score.weight": normal(2, 2),
    }
    read = load_peft(
        folder(tmp_path, tensors, modules_to_save=["score"], bias="all", init_lora_weights="pissa_niter_4")
    )
    assert list(read.factors) == ["q_proj"]
    for word in ("score.weight", "modules_to_save", "bias", "pissa_niter_4"):
        assert sum(word in note for note in read.notes) == 1


def test_dora_is_read_and_said_and_not_merged(tmp_path):
    tensors = pair() | {f"{PREFIX}q_proj.lora_magnitude_vector": normal(4)}
    read = load_peft(folder(tmp_path, tensors, use_dora=True))
    assert "DoRA" in read.notes[0]
    with pytest.raises(ValueError, match="q_proj is of a DoRA adapter"):
        merge({"q_proj.weight": jnp.zeros((4, 3))}, read.factors)
    save_peft(tmp_path / "again", read.factors, read.config)
    again = load_peft(tmp_path / "again")
    np.testing.assert_array_equal(
        again.factors["q_proj"]["magnitude"], tensors[f"{PREFIX}q_proj.lora_magnitude_vector"]
    )
    assert again.settings["use_dora"]


def test_double_precision_is_read_in_the_precision_of_jax(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = load_peft(folder(tmp_path, pair(dtype=np.float64)))
    assert read.factors["q_proj"]["a"].dtype == jnp.float32


@pytest.mark.usefixtures("x64")
def test_double_precision_is_kept_where_jax_has_it(tmp_path):
    tensors = pair(dtype=np.float64)
    np.testing.assert_array_equal(
        load_peft(folder(tmp_path, tensors)).factors["q_proj"]["a"], tensors[f"{PREFIX}q_proj.lora_A.weight"]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": None}, "peft_type 'None'"),
        ({"use_qalora": True}, "use_qalora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"r": "8"}, "'8' as r; expected a number"),
        ({"r": True}, "as r; expected a number"),
        ({"r": 0}, "rank is 0"),
        ({"r": 3}, "q_proj has rank 2; the configuration says 3"),
        ({"lora_alpha": None}, "as lora_alpha; expected a number"),
        ({"lora_alpha": float("inf")}, "alpha is inf"),
        ({"rank_pattern": [1]}, "as rank_pattern; expected a table"),
        ({"rank_pattern": {"q_proj": 2.5}}, "as q_proj; expected a number"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern"),
        ({"rank_pattern": {"(q": 2}}, "no regular expression"),
        ({"alpha_pattern": {"(a+)+x": 2}}, "too involved"),
        ({"alpha_pattern": {"(a|a)*x": 2}}, "too involved"),
        ({"alpha_pattern": {".*.*.*.*x": 2}}, "too involved"),
        ({"alpha_pattern": {"x" * 501: 2}}, "too involved"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        load_peft(folder(tmp_path, **fields))


A, B = f"{PREFIX}q_proj.lora_A.weight", f"{PREFIX}q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({A: normal(2, 3)}, "q_proj has lora_A and no lora_B"),
        ({B: normal(3, 2)}, "q_proj has lora_B and no lora_A"),
        ({f"{PREFIX}w.lora_embedding_B": normal(3, 2)}, "lora_embedding_B and no lora_embedding_A"),
        ({f"{PREFIX}w.lora_magnitude_vector": normal(3)}, "one pair"),
        ({A: normal(2, 3), B: normal(4, 3)}, r"\(2, 3\) and b of shape \(4, 3\); their ranks differ"),
        ({A: normal(0, 3), B: normal(4, 0)}, "ranks differ or are 0"),
        ({A: normal(2, 3, 1, 1), B: normal(4, 2, 1, 1)}, "only matrices"),
        ({A: normal(2, 3), B: np.ones((4, 2), np.int32)}, "dtype I32; expected floating"),
        ({A: normal(2, 3), B: np.full((4, 2), np.nan, np.float32)}, "entries in .*lora_B.weight that are not finite"),
        ({A: normal(2, 3), B: np.full((4, 2), np.inf, np.float16)}, "not finite"),
        ({"weight": normal(2, 2)}, "no factors of LoRA; it has weight"),
        ({A: normal(2, 3), B: normal(4, 2), "q_proj.lora_A.weight": normal(2, 3)}, "lora_A twice"),
    ],
)
def test_tensors_that_are_no_adapter_are_refused(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        load_peft(folder(tmp_path, tensors))


def test_more_patterns_than_can_be_matched_are_refused(tmp_path):
    tensors = {}
    for i in range(110):
        tensors |= pair(f"m{i}.q_proj", out=1, inp=1)
    with pytest.raises(ValueError, match="100000 patterns for 110 modules"):
        load_peft(folder(tmp_path, tensors, alpha_pattern={f"x{i}": 1 for i in range(100_000)}))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json, found nothing"):
        load_peft(tmp_path / "absent")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="pickle, which can run code"):
        load_peft(tmp_path)


def test_lying_headers_and_truncated_files_are_refused(tmp_path):
    path = folder(tmp_path) / "adapter_model.safetensors"
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for size in (0, 7, 8, length - 1, length, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"truncated|JSON"):
            load_peft(tmp_path)
    path.write_bytes((2**40).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ValueError, match="claims"):
        load_peft(tmp_path)
    path.write_bytes(whole[:8] + whole[8:length].replace(b"F32", b"F99") + whole[length:])
    with pytest.raises(ValueError, match="dtype F99"):
        load_peft(tmp_path)
    huge = {A: {"dtype": "F32", "shape": [2**30, 2**20], "data_offsets": [0, 2**52]}}
    text = json.dumps(huge).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="truncated or corrupt"):
        load_peft(tmp_path)
    with (tmp_path / "adapter_config.json").open("wb") as file:
        file.truncate(5_000_000)
    with pytest.raises(ValueError, match="at most 4000000"):
        load_peft(tmp_path)


@settings(max_examples=100, deadline=None)
@given(
    noise=st.binary(max_size=60),
    position=st.integers(0, 400),
    which=st.sampled_from(["config.json", "model.safetensors"]),
)
def test_a_damaged_folder_never_ends_in_another_error(tmp_path_factory, noise, position, which):
    path = folder(tmp_path_factory.getbasetemp() / "damaged")
    file = path / f"adapter_{which}"
    whole = file.read_bytes()
    file.write_bytes(whole[:position] + noise + whole[position + len(noise) :])
    try:
        read = load_peft(path)
    except ValueError:
        return
    assert all(np.isfinite(np.asarray(leaf["a"], float)).all() for leaf in read.factors.values())


@pytest.mark.parametrize(
    ("factors", "error", "message"),
    [
        ({}, ValueError, "adapter is empty"),
        ({"x": {"a": jnp.ones((2, 3, 4)), "b": jnp.ones((2, 5, 3))}}, ValueError, "one module per layer: split_layers"),
        ({"x": {"a": jnp.ones((3, 4)), "b": jnp.full((5, 3), jnp.nan)}}, ValueError, "not finite"),
    ],
)
def test_what_peft_cannot_store_is_not_written(tmp_path, factors, error, message):
    with pytest.raises(error, match=message):
        save_peft(tmp_path / "new", factors, LoraConfig(3, 3.0))
    assert not (tmp_path / "new").exists()


def test_bfloat16_is_read_without_rounding_and_applied_in_float32(tmp_path):
    tensors = pair(dtype=ml_dtypes.bfloat16)
    save_peft(tmp_path, {"q_proj": {"a": jnp.asarray(tensors[A]), "b": jnp.asarray(tensors[B])}}, LoraConfig(2, 8.0))
    read = load_peft(tmp_path)
    applied = apply({"q_proj": {"weight": jnp.zeros((4, 3))}}, read.factors, read.scales)["q_proj"]["weight"]
    expected = 4 * tensors[B].astype(float) @ tensors[A].astype(float)
    np.testing.assert_allclose(applied, expected, rtol=1e-6, atol=1e-6)
