"""Block builders: adjoint maps, diagonal A^T A, value, prox and gauge against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import blocks

GROUPS = (range(4), (2, 5, 6), (6,), (), (7, 0))
BUILDERS = {
    "matrix": ((3, 5), blocks.unfoldings((3, 5), method="gram")),
    "snn": ((3, 4, 5), blocks.unfoldings((3, 4, 5), [0.2, 0.5, 0.3], method="gram")),
    "cube": ((3, 3, 3), blocks.unfoldings((3, 3, 3), method="gram")),
    "five_modes": (
        (2, 3, 2, 1, 2),
        blocks.unfoldings((2, 3, 2, 1, 2), modes=[(0,), (1, 4), (0, 2, 3), (3,)], method="gram"),
    ),
    "tensor_train": ((2, 3, 2, 3), blocks.tensor_train((2, 3, 2, 3), method="gram")),
    "square": ((2, 3, 4, 2), blocks.square((2, 3, 4, 2), method="gram")),
    "tubal": ((3, 4, 5), blocks.tubal((3, 4, 5))),
    "row_groups": ((9, 4), blocks.row_groups((9, 4), GROUPS, [1.0, 2.0, 0.5, 1.0, 1.0], method="gram")),
    "row_groups_one_size": ((9, 4), blocks.row_groups((9, 4), GROUPS, pad_ratio=10.0, method="gram")),
}


def gaussian(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


STEP = 0.01


@jax.jit
def look(parts, x, seed):
    """What the tests need of every block, in one compilation per builder."""
    seen = []
    for block in parts:
        ax = block.gather(block.data, x)
        padding = block.gather(block.data, jnp.ones_like(x)) == 0
        y = jnp.where(padding, 0, jax.random.normal(jax.random.key(seed), ax.shape))
        near, near_value = block.prox(block.data, ax, jnp.asarray(STEP))
        w = (ax - near) / STEP
        seen.append(
            {
                "inner": (jnp.vdot(ax, y), jnp.vdot(x, block.scatter(block.data, y))),
                "normal": (block.scatter(block.data, ax), block.count * x),
                "value": block.value(block.data, ax),
                "at_prox": (near_value, block.value(block.data, near)),
                "pairing": jnp.vdot(w, near),
                "gauge": block.gauge(block.data, w),
            }
        )
    return seen


@pytest.fixture(scope="module", params=BUILDERS)
def seen(request):
    """Looks at the blocks of every builder."""
    shape, parts = BUILDERS[request.param]
    return look(parts, gaussian(0, shape), 1)


def test_scatter_is_the_adjoint_of_gather_up_to_entries_that_padding_adds(seen):
    for block in seen:
        left, right = map(float, block["inner"])
        assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


def test_count_is_the_diagonal_of_scatter_after_gather(seen):
    for block in seen:
        np.testing.assert_allclose(*block["normal"], rtol=1e-6)


def test_value_and_prox_value_agree_at_the_proximal_point(seen):
    for block in seen:
        assert float(block["at_prox"][0]) == pytest.approx(float(block["at_prox"][1]), rel=1e-4)


def test_subgradient_left_by_the_prox_has_gauge_one_and_pairs_to_the_value(seen):
    for block in seen:
        assert float(block["gauge"]) == pytest.approx(1, abs=2e-3)
        assert float(block["pairing"]) == pytest.approx(float(block["at_prox"][1]), rel=2e-3)


def value(name, x):
    return sum(float(block["value"]) for block in look(BUILDERS[name][1], x, 1))


def test_value_is_the_weighted_sum_of_nuclear_norms():
    x = gaussian(5, (3, 4, 5))
    nuclear = [np.linalg.norm(np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1), "nuc") for mode in range(3)]
    assert value("snn", x) == pytest.approx(np.dot([0.2, 0.5, 0.3], nuclear), rel=1e-5)


@pytest.mark.parametrize("name", ["row_groups", "row_groups_one_size"])
def test_row_groups_sum_the_norms_of_the_groups(name):
    x = gaussian(6, (9, 4))
    weights = [1.0, 2.0, 0.5, 1.0, 1.0] if name == "row_groups" else [1.0] * 5
    expected = sum(w * np.linalg.norm(x[list(g)], "nuc") for w, g in zip(weights, GROUPS, strict=True) if g)
    assert value(name, x) == pytest.approx(expected, rel=1e-5)


def test_tubal_value_is_the_mean_of_the_nuclear_norms_of_the_fourier_slices():
    x = gaussian(7, (3, 4, 5))
    slices = np.fft.fft(x, axis=-1)
    nuclear = np.mean([np.linalg.norm(slices[..., k], "nuc") for k in range(5)])
    assert value("tubal", x) == pytest.approx(nuclear, rel=1e-5)


def test_equal_shapes_share_a_block_and_others_do_not():
    assert len(blocks.unfoldings((3, 3, 3))) == 1
    assert len(blocks.unfoldings((3, 4, 5))) == 3
    assert len(blocks.row_groups((20, 4), [range(10), range(9), range(3)], pad_ratio=1.5)) == 2


def test_tensor_train_weights_follow_the_shorter_side():
    thresholds = np.concatenate([np.asarray(block.data) for block in blocks.tensor_train((2, 3, 2, 3))])
    np.testing.assert_allclose(sorted(thresholds), sorted(np.array([2, 6, 3]) / 11), rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "sides"), [((2, 3, 4, 2), (6, 8)), ((10, 10, 10, 10), (100, 100)), ((4, 5), (4, 5)), ((7, 1, 1), (1, 7))]
)
def test_square_unfolding_is_as_square_as_can_be(shape, sides):
    (block,) = blocks.square(shape)
    assert jax.eval_shape(lambda x: block.gather(block.data, x), jnp.zeros(shape)).shape == (1, *sides)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: blocks.unfoldings((3,)), r"shape is \(3,\); expected at least two modes"),
        (lambda: blocks.unfoldings((3, 4), [1.0]), r"weights has length 1; expected 2"),
        (lambda: blocks.unfoldings((3, 4), [1.0, -1.0]), r"weights is \[1.0, -1.0\]; expected finite numbers >= 0"),
        (lambda: blocks.unfoldings((3, 4), jnp.array([1.0, -1.0])), "weights is .*; expected finite numbers >= 0"),
        (lambda: blocks.unfoldings((3, 4), [0.0, 0.0]), "weights are all 0; expected"),
        (lambda: blocks.unfoldings((3, 4), modes=[]), "modes is empty; expected at least one unfolding"),
        (lambda: blocks.unfoldings((3, 4), modes=[(0, 1)]), "modes is .*; expected some, not all"),
        (lambda: blocks.tubal((3, 4)), r"shape is \(3, 4\); expected three modes"),
        (lambda: blocks.row_groups((3, 4, 5), [[0]]), r"shape is \(3, 4, 5\); expected two modes"),
        (lambda: blocks.row_groups((3, 4), [[0, 3]]), r"groups\[0\] has the row 3; expected 0 to 2"),
        (lambda: blocks.row_groups((3, 4), [[0], [-1]]), r"groups\[1\] has the row -1; expected 0 to 2"),
        (lambda: blocks.row_groups((3, 4), [[0, 0]]), r"groups\[0\] repeats a row"),
        (lambda: blocks.row_groups((3, 4), [[]]), "groups has no group with rows and a positive weight"),
        (lambda: blocks.row_groups((3, 4), [[0]], [1.0, 2.0]), "weights has length 2; expected 1"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
