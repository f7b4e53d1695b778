import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.optim import MatrixDims, qkv_dims
from jaxspec.optim.layout import buckets, leaf_layout, tree_layouts

RECIPES = [
    ((4, 6), None, [(1, 4, 6)]),
    ((6, 4), None, [(1, 4, 6)]),
    ((6, 4), MatrixDims(1, 0), [(1, 4, 6)]),
    ((3, 3, 2, 5), MatrixDims((0, 1, 2), 3), [(1, 5, 18)]),
    ((3, 3, 2, 5), MatrixDims(2, 3), [(9, 2, 5)]),
    ((5, 2, 3, 3), MatrixDims((1, 2, 3), 0), [(1, 5, 18)]),
    ((8, 4, 2), MatrixDims(0, (1, 2)), [(1, 8, 8)]),
    ((8, 4, 2), MatrixDims(0, 2), [(4, 2, 8)]),
    ((4, 2, 8), MatrixDims((0, 1), 2), [(1, 8, 8)]),
    ((7, 3, 5), MatrixDims(-2, -1), [(7, 3, 5)]),
    ((2, 3, 8, 4), MatrixDims(-2, -1), [(6, 4, 8)]),
    ((8, 24), qkv_dims(4), [(3, 8, 8)]),
    ((8, 24), qkv_dims(4, per_head=True), [(12, 2, 8)]),
    ((8, 16), qkv_dims(4, 2), [(1, 8, 8), (1, 4, 8), (1, 4, 8)]),
    ((8, 16), qkv_dims(4, 2, per_head=True), [(8, 2, 8)]),
    ((24, 8), qkv_dims(4, reduction=1, axis=0), [(3, 8, 8)]),
    ((5, 8, 24), qkv_dims(4, reduction=1, axis=2), [(15, 8, 8)]),
    ((5, 8, 16), qkv_dims(4, 2, reduction=-2, axis=-1), [(5, 8, 8), (5, 4, 8), (5, 4, 8)]),
    ((6, 9), MatrixDims(0, 1, 0, (1, 2)), [(1, 2, 9), (1, 4, 9)]),
    ((3, 3, 2, 5), optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), [(1, 5, 18)]),
    ((0, 4), None, [(1, 0, 4)]),
]


@pytest.mark.parametrize(("shape", "dims", "expected"), RECIPES)
def test_split_has_the_short_side_first_and_join_inverts_it(shape, dims, expected):
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    layout = leaf_layout("w", shape, dims)
    matrices = layout.split(x)
    assert [m.shape for m in matrices] == expected
    np.testing.assert_array_equal(layout.join(matrices, shape), x)


@given(st.data())
def test_round_trip_of_random_axes(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    axes = data.draw(st.permutations(range(len(shape))))
    first = data.draw(st.integers(1, len(shape) - 1))
    second = data.draw(st.integers(first + 1, len(shape)))
    signs = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    named = tuple(axis - len(shape) * sign for axis, sign in zip(axes, signs, strict=True))
    layout = leaf_layout("w", shape, MatrixDims(named[:first], named[first:second]))
    x = np.random.default_rng(0).normal(size=shape)
    (matrices,) = layout.split(jnp.asarray(x))
    piece = layout.pieces[0]
    assert matrices.shape[1] <= matrices.shape[2]
    assert {piece.fan_in, piece.fan_out} == set(matrices.shape[1:])
    np.testing.assert_array_equal(layout.join([matrices], shape), jnp.asarray(x))


def test_rows_and_columns_are_those_named():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    (matrices,) = leaf_layout("w", x.shape, MatrixDims(0, 2)).split(x)
    np.testing.assert_array_equal(matrices, x.transpose(1, 0, 2))


def test_fused_pieces_are_the_separate_matrices():
    q, k, v = (jnp.full((8, n), value) for n, value in ((8, 1.0), (4, 2.0), (4, 3.0)))
    pieces = leaf_layout("qkv", (8, 16), qkv_dims(4, 2)).split(jnp.concatenate([q, k, v], axis=1))
    for piece, matrix in zip(pieces, (q, k.T, v.T), strict=True):
        np.testing.assert_array_equal(piece[0], matrix)


def test_buckets_gather_equal_shapes_whatever_the_orientation():
    tree = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 4)), "c": jnp.ones((3, 3)), "d": jnp.ones((0, 4))}
    pieces = [layout.split(x) for layout, x in zip(tree_layouts(tree), jax.tree.leaves(tree), strict=True)]
    assert buckets(pieces) == [[(0, 0), (1, 0)], [(2, 0)]]


def test_dimension_numbers_may_be_a_prefix_a_function_or_one_for_all():
    tree = {"conv": {"a": jnp.ones((2, 3, 4)), "b": jnp.ones((5, 3, 4))}, "w": jnp.ones((3, 4))}
    prefix = {"conv": MatrixDims(-2, -1), "w": None}
    for dims in (prefix, lambda _: prefix, MatrixDims(-2, -1)):
        layouts = tree_layouts(tree, dims)
        assert [layout.path for layout in layouts] == ["['conv']['a']", "['conv']['b']", "['w']"]
        assert [layout.pieces[0].batch for layout in layouts] == [2, 5, 1]


def test_masked_and_missing_leaves_hold_nothing():
    tree = {"a": optax.MaskedNode(), "b": None, "w": jnp.ones((3, 4))}
    for dims in (None, {"a": MatrixDims(), "b": MatrixDims(), "w": None}):
        assert [layout.path for layout in tree_layouts(tree, dims)] == ["['w']"]


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ((3,), None, r"leaf \['w'\] has shape \(3,\); expected a matrix"),
        ((), None, r"leaf \['w'\] has shape \(\)"),
        ((2, 3, 4), None, "MatrixDims"),
        ((2, 3), MatrixDims(0, 0), "overlap"),
        ((2, 3), MatrixDims((0, -2), 1), "overlap"),
        ((2, 3), MatrixDims(0, 2), r"leaf \['w'\].*does not have"),
        ((2, 3), MatrixDims(-3, 1), "does not have"),
        ((2, 3), MatrixDims((), 1), "no axis"),
        ((4, 7), qkv_dims(2), "divide"),
        ((2, 4, 9), MatrixDims(1, 2, 0, (1, 1)), "reduction or output"),
    ],
)
def test_axes_that_do_not_fit_are_named_with_their_leaf(shape, dims, message):
    with pytest.raises(ValueError, match=message):
        tree_layouts({"w": jnp.zeros(shape)}, {"w": dims})


def test_other_dimension_numbers_are_refused():
    with pytest.raises(TypeError, match=r"\['w'\]"):
        tree_layouts({"w": jnp.zeros((2, 2))}, {"w": "rows"})


@pytest.mark.parametrize("arguments", [(0, 1, 1, ()), (0, 1, None, (1, 1)), (0, 1, 1, (1, 0))])
def test_sections_and_fused_axis_go_together(arguments):
    with pytest.raises(ValueError, match="sections"):
        MatrixDims(*arguments)


def test_heads_are_positive():
    with pytest.raises(ValueError, match="heads"):
        qkv_dims(0)
