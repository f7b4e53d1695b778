import jax
import jax.numpy as jnp
import optax
import pytest

from jaxspec.optim import MatrixDims, matrix_partition, muon, qkv_dims

W, V = jnp.ones((4, 4)), jnp.ones(4)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("kernel", "matrix"),
        ("MultiHeadDotProductAttention_0", "matrix"),
        ("heads", "matrix"),
        ("Embed_0", "adam"),
        ("embedding", "adam"),
        ("TokenEmbedding", "adam"),
        ("embed_tokens", "adam"),
        ("pos_embed", "adam"),
        ("lm_head", "adam"),
        ("head", "adam"),
        ("wte", "adam"),
    ],
)
def test_embeddings_and_heads_go_to_adam(name, label):
    assert matrix_partition({"a": {name: {"b": W}}}) == {"a": {name: {"b": label}}}


def test_only_matrices_with_two_rows_and_columns_are_mapped():
    params = {"w": W, "v": V, "row": W[:1], "column": W[:, :1], "conv": jnp.ones((3, 3, 2, 2)), "none": None}
    expected = dict.fromkeys(params, "adam") | {"w": "matrix", "none": None}
    assert matrix_partition(params) == expected


def test_excluded_words_are_the_callers():
    assert matrix_partition({"lm_head": W, "gate": W}, exclude=("gate",)) == {"lm_head": "matrix", "gate": "adam"}


def test_dimension_numbers_decide_when_given():
    params = {"qkv": jnp.ones((4, 12)), "embed": W, "w": W, "conv": jnp.ones((3, 3, 2, 4)), "thin": jnp.ones((3, 1, 4))}
    dims = {
        "qkv": qkv_dims(2),
        "embed": MatrixDims(),
        "w": None,
        "conv": MatrixDims((0, 1, 2), 3),
        "thin": MatrixDims(1, 2),
    }
    labels = {"qkv": "matrix", "embed": "matrix", "w": "adam", "conv": "matrix", "thin": "adam"}
    for given in (dims, lambda tree: {k: dims[k] for k in tree}):
        assert matrix_partition(params, dimension_numbers=given) == labels
        tx = muon(0.1, dimension_numbers=given)
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_labels_may_come_from_a_function():
    tx = muon(0.1, partition=lambda params: jax.tree.map(lambda _: "adam", params))
    adam = optax.adamw(0.1, b2=0.95, weight_decay=0.0)
    ours, _ = tx.update({"w": W}, tx.init({"w": W}), {"w": W})
    theirs, _ = adam.update({"w": W}, adam.init({"w": W}), {"w": W})
    assert jnp.array_equal(ours["w"], theirs["w"])
