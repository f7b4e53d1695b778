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


def test_one_layout_of_a_tree_is_of_its_matrices():
    """As for models whose kernels are (out, in): biases, embeddings and heads go where they go without a layout."""
    block = {"w": jnp.ones((4, 6)), "b": jnp.ones(4), "stacked": jnp.ones((3, 4, 6))}
    params = {"block": block, "embed": W, "gain": 1.0}
    labels = {"block": {"w": "matrix", "b": "adam", "stacked": "matrix"}, "embed": "adam", "gain": "adam"}
    dims = MatrixDims(reduction=-1, output=-2)
    assert matrix_partition(params, dimension_numbers=dims) == labels
    assert matrix_partition(block["w"], dimension_numbers=dims) == "matrix"
    turned, default = muon(0.1, dimension_numbers=dims), muon(0.1)
    ours, _ = turned.update(block, turned.init(block), block)
    transposed = {"w": block["w"].T}
    theirs, _ = default.update(transposed, default.init(transposed), transposed)
    assert jnp.allclose(ours["w"], theirs["w"].T, atol=1e-6)


def test_labels_may_come_from_a_function():
    tx = muon(0.1, partition=lambda params: jax.tree.map(lambda _: "adam", params))
    adam = optax.adamw(0.1, b2=0.95, weight_decay=0.0)
    ours, _ = tx.update({"w": W}, tx.init({"w": W}), {"w": W})
    theirs, _ = adam.update({"w": W}, adam.init({"w": W}), {"w": W})
    assert jnp.array_equal(ours["w"], theirs["w"])
