"""The output embedding of a checkpoint by the names of the common families."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxspec.peeled import find_unembedding, read_tensor_rows


def test_an_output_embedding_goes_before_the_input_embedding(tmp_path):
    shards = {"one.safetensors": "lm_head.weight", "two.safetensors": "model.embed_tokens.weight"}
    for file, name in shards.items():
        save_file({name: np.ones((3, 2), np.float32)}, tmp_path / file)
    index = {"weight_map": {name: file for file, name in shards.items()}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_unembedding(tmp_path).tensor.name == "lm_head.weight"
    assert not find_unembedding(tmp_path).tied


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight"])
def test_tied_weights_are_said_to_be_tied(tmp_path, name):
    save_file({name: np.ones((3, 2), np.float32)}, tmp_path / "model.safetensors")
    found = find_unembedding(tmp_path)
    assert found.tied
    assert found.tensor.name == name
    assert found.tensor.shape == (3, 2)


def test_without_a_known_name_the_matrices_are_listed(tmp_path):
    save_file({"decoder.proj": np.ones((3, 2)), "scale": np.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(KeyError, match=r"decoder\.proj \(3, 2\)'?\"?$"):
        find_unembedding(tmp_path)
    with pytest.raises(KeyError, match=r"which has decoder\.proj, scale"):
        read_tensor_rows(tmp_path, "lm_head.weight")
