"""GAME: conic oracles, properties of the penalty, the certificate, both forms of the blocks, odd groups."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import game, game_path, game_weights, make_groups
from jaxspec.completion.group_blocks import group_blocks
from jaxspec.completion.group_layout import layout
from jaxspec.completion.groups import lambda_max


def oracle(name):
    """Y, W, groups, lambda, ridge, optimum, norm of M: values on which Clarabel and SCS agree."""
    i, j = np.indices({"A": (12, 8), "B": (10, 6), "C": (9, 9), "D": (15, 10), "E": (24, 5)}[name])
    if name == "A":
        Y, W = np.cos((i + 1) * (j + 1) / 3) + np.sin(i + 1) / 2, (5 * j + i * j) % 7 < 4
        groups = [range(6), range(4, 12), range(0, 12, 2), range(1, 12, 2)]
        return Y, W, groups, [0.5, 0.7, 0.4, 0.3], 0.0, 14.822602, 3.32051
    if name == "B":
        Y, W = (i - 4.5) * (j - 2.5) / 5 + np.cos(i * j), (i + 2 * j) % 3 != 0
        groups = [range(5), [], [3], range(2, 9), range(2, 9)]
        return Y, W, groups, [0.6, 1, 0.5, 0.25, 0.25], 0.0, 9.923732, 6.32631
    if name == "C":
        W = np.where((i**2 + j) % 4 == 0, 0, 1 + 0.5 * ((i + j) % 2))
        return 5 / (1 + i + j), W, [range(9), range(4), range(4, 9)], [0.2, 0.3, 0.3], 0.1, 6.579763, 5.61668
    if name == "D":
        Y, W = np.sin(0.7 * i + 0.3 * j) + 0.2 * np.cos(i * j), (3 * i + 7 * j) % 5 < 3
        return Y, W, [range(15)], [1.0], 0.0, 11.666129, 6.70975
    Y = np.where(i % 2 == 0, np.sin(i + 1) * np.cos(j), np.cos(i) * (j - 2) / 2) + 0.1 * np.sin(13 * i + 7 * j)
    groups = [range(0, 24, 2), range(1, 24, 2), range(8), range(8, 16), range(16, 24)]
    return Y, (5 * i + 3 * j) % 8 < 5, groups, [0.5, 0.5, 0.3, 0.3, 0.3], 0.0, 5.826782, 3.37601


def embedded(Y, W, groups, lam):
    """The same problem in a 20 x 10 table with 6 groups, the new ones of weight 0: one compilation for several."""
    size = ((0, 20 - Y.shape[0]), (0, 10 - Y.shape[1]))
    idle = [range(15)] * (6 - sum(len(rows) > 0 for rows in groups))
    empty = [[]] * (7 - len(groups) - len(idle))
    groups = make_groups([*groups, *idle, *empty], 20, pad_ratio=100.0)
    return np.pad(Y, size), np.pad(1.0 * W, size), groups, np.pad(lam, (0, 7 - len(lam)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", "ABCDE")
def test_optimum_is_that_of_two_conic_solvers(name):
    Y, W, groups, lam, ridge, optimum, norm = oracle(name)
    problem = embedded(Y, W, groups, lam) if name in "BCD" else (Y, W, make_groups(groups, len(Y)), lam)
    tol = 1e-6 if name == "E" else 1e-8
    result = game(*problem, ridge=ridge, tol=tol, validate=name in "AE")
    assert bool(result.converged)
    assert float(result.objective) == pytest.approx(optimum, rel=1e-6)
    assert float(jnp.linalg.norm(result.M)) == pytest.approx(norm, abs=1e-4 if name == "E" else 1e-5)
    assert -1e-12 <= float(result.gap) <= tol * float(result.objective)
    M = np.asarray(result.M)
    if name in "BCD":
        np.testing.assert_array_equal(M[Y.shape[0] :], 0)
        np.testing.assert_allclose(M[:, Y.shape[1] :], 0, atol=1e-12)
    if name == "B":
        np.testing.assert_array_equal(M[9, :6], np.where(W[9], Y[9], 0))


Y, W, ROWS, LAM, *_ = oracle("A")
GROUPS = make_groups(ROWS, 12)
ONES = np.ones_like(Y)
EXACT = {"tol": 1e-11}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4, 1e-6])
def test_gap_is_a_bound_wherever_the_run_stops(tol):
    best = float(game(Y, W, GROUPS, LAM, **EXACT).objective)
    result = game(Y, W, GROUPS, LAM, tol=tol)
    assert -1e-10 <= float(result.objective) - best <= float(result.gap) + 1e-10
    assert float(result.relative_gap) <= tol


@pytest.mark.usefixtures("x64")
def test_rows_and_groups_may_be_permuted():
    rng = np.random.default_rng(0)
    M = game(Y, W, GROUPS, LAM, **EXACT).M
    order = rng.permutation(12)
    place = np.argsort(order)
    moved = make_groups([place[list(rows)] for rows in ROWS], 12)
    np.testing.assert_allclose(game(Y[order], W[order], moved, LAM, **EXACT).M, M[order], atol=1e-5)
    shuffle = [2, 0, 3, 1]
    swapped = make_groups([ROWS[k] for k in shuffle], 12)
    np.testing.assert_allclose(game(Y, W, swapped, [LAM[k] for k in shuffle], **EXACT).M, M, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [2.0**-60, -(2.0**60)])
def test_units_of_data_and_weights_change_nothing(scale):
    lam, size = np.array(LAM), abs(scale)
    result = game(Y, W, GROUPS, lam, tol=1e-6)
    np.testing.assert_array_equal(game(scale * Y, W, GROUPS, size * lam, tol=1e-6).M, scale * result.M)
    np.testing.assert_array_equal(game(Y, size * W, GROUPS, size * lam, tol=1e-6).M, result.M)


@pytest.mark.usefixtures("x64")
def test_columns_of_a_full_table_may_be_rotated():
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    rotated = game(Y @ rotation, ONES, GROUPS, LAM, **EXACT).M
    np.testing.assert_allclose(rotated, game(Y, ONES, GROUPS, LAM, **EXACT).M @ rotation, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_duplicate_groups_are_one_group_with_the_sum_of_the_weights():
    twice = make_groups([ROWS[1], ROWS[1], *ROWS[2:]], 12)
    split = game(Y, W, twice, [0.2, 0.5, 0.4, 0.3], **EXACT)
    one = game(Y, W, twice, [0.7, 0.0, 0.4, 0.3], **EXACT)
    np.testing.assert_allclose(split.M, one.M, atol=1e-5)
    assert float(split.objective) == pytest.approx(float(one.objective), rel=1e-10)


@pytest.mark.usefixtures("x64")
def test_group_of_weight_zero_is_not_there():
    other = make_groups([range(3, 9), *ROWS[1:]], 12)
    lam = [0.0, 0.7, 0.4, 0.3]
    result = game(Y, W, GROUPS, lam, ridge=0.1, **EXACT)
    assert bool(result.converged)
    np.testing.assert_allclose(game(Y, W, other, lam, ridge=0.1, **EXACT).M, result.M, atol=1e-12)
    none = game(Y, W, GROUPS, np.zeros(4), ridge=0.1, **EXACT)
    np.testing.assert_allclose(none.M, W * Y / (W + 0.1), atol=1e-12)
    assert float(none.relative_gap) == pytest.approx(0, abs=1e-12)


@pytest.mark.usefixtures("x64")
def test_groups_without_common_rows_are_thresholded_one_by_one():
    groups = make_groups([range(5), [5], range(6, 12)], 12)
    lam = [0.5, 0.9, 0.7]
    M = np.asarray(game(Y, ONES, groups, lam, **EXACT).M)
    for rows, threshold in zip(groups.rows, lam, strict=True):
        u, s, vt = np.linalg.svd(Y[rows], full_matrices=False)
        np.testing.assert_allclose(M[rows], (u * np.maximum(s - threshold, 0)) @ vt, atol=1e-5)
    row = Y[5] * max(0, 1 - 0.9 / np.linalg.norm(Y[5]))  # a single row: soft thresholding of its norm
    np.testing.assert_allclose(M[5], row, atol=1e-6)


@eqx.filter_jit
def look(blocks, x):
    """``sum_i A_i^T prox(A_i x)``, its value, the value at x, and the gauge."""
    points = [block.prox(block.data, block.gather(block.data, x), jnp.asarray(0.5)) for block in blocks]
    total = sum(block.scatter(block.data, y) for block, (y, _) in zip(blocks, points, strict=True))
    value = sum(block.value(block.data, block.gather(block.data, x)) for block in blocks)
    gauge = jnp.stack([block.gauge(block.data, block.gather(block.data, x)) for block in blocks])
    return total, sum(block.count for block in blocks), (sum(v for _, v in points), value, gauge.max())


@pytest.mark.usefixtures("x64")
def test_padding_bucketing_and_the_form_of_the_blocks_change_nothing():
    rows, lam = [range(5), range(5, 7), range(7, 12), range(1, 8), [0, 9], []], [0.5, 0.7, 0.4, 0.3, 0.0, 1.0]
    forms = [
        group_blocks(layout(make_groups(rows, 12, pad_ratio=ratio), form), jnp.array(lam), "gram")
        for ratio, form in ((1.0, "buckets"), (10.0, "copies"))
    ]
    assert [len(blocks) for blocks in forms] == [3, 1]
    (x, count, numbers), (other, counted, others) = (look(blocks, jnp.asarray(Y)) for blocks in forms)
    np.testing.assert_allclose(x, other, atol=1e-12)
    np.testing.assert_array_equal(count, counted)
    np.testing.assert_allclose(numbers, others, rtol=1e-10)
    parts = [Y[list(group)] for group in rows[:4]]
    assert float(numbers[1]) == pytest.approx(np.dot(lam[:4], [np.linalg.norm(p, "nuc") for p in parts]), rel=1e-10)
    assert float(numbers[2]) == pytest.approx(max(np.linalg.norm(p, 2) / t for p, t in zip(parts, lam, strict=False)))


def test_automatic_form_holds_fewer_rows():
    levels = make_groups([range(40), range(40, 61), range(61, 100)], 100)
    assert layout(levels).owner.shape == (1, 100)
    assert layout(make_groups([[0, 1], [1, 2]], 100)).owner.shape == (0, 100)


@pytest.mark.usefixtures("x64")
def test_lambda_max_and_weights_give_the_scale_of_the_path():
    top = float(lambda_max(Y, W, GROUPS))
    assert float(jnp.abs(game(Y, W, GROUPS, 1.001 * top).M).max()) < 1e-4
    with_units = float(lambda_max(8 * Y, 4 * W, GROUPS))
    assert with_units == pytest.approx(32 * top)
    path = game_path(Y, W, GROUPS, [top, top / 3, top / 10], tol=1e-7)
    assert bool(path.converged.all())
    assert path.M.shape == (3, 12, 8)
    for k in range(3):
        single = game(Y, W, GROUPS, path.lam[k], tol=1e-7)
        assert float(path.objective[k]) == pytest.approx(float(single.objective), rel=1e-6)


def test_weights_are_the_formula():
    count = np.bincount(np.concatenate([list(rows) for rows in ROWS]), minlength=12)
    for rows, weight in zip(ROWS, game_weights(W, GROUPS), strict=True):
        inside = W[list(rows)]
        spread = np.sqrt(inside.sum(1).max()) + np.sqrt(inside.sum(0).max())
        assert float(weight) == pytest.approx(spread / count[list(rows)].mean(), rel=1e-6)
    nothing = np.where(np.arange(12)[:, None] < 6, 0, W)
    assert float(game_weights(nothing, GROUPS)[0]) == 0


@pytest.mark.usefixtures("x64")
def test_warm_start_carries_duals_and_penalties():
    cold = game(Y, W, GROUPS, LAM, **EXACT)
    again = game(Y, W, GROUPS, LAM, init=cold, **EXACT)
    assert int(again.iterations) <= 10 < int(cold.iterations)
    plain = game(Y, W, GROUPS, LAM, init=np.asarray(cold.M), tol=1e-8)
    np.testing.assert_allclose(plain.M, cold.M, atol=1e-3)


def test_single_precision_halves_and_extreme_units():
    data = np.asarray(Y, np.float32)
    result = game(data, W, GROUPS, LAM)
    assert bool(result.converged)
    assert float(result.objective) == pytest.approx(14.822602, rel=2e-5)
    for scale in (1e-20, 1e20):
        scaled = game(data * np.float32(scale), W, GROUPS, np.array(LAM) * scale)
        assert bool(scaled.converged)
        np.testing.assert_allclose(scaled.M / scale, result.M, atol=2e-3)
    half = game(np.asarray(Y, np.float16), W, GROUPS, LAM)
    assert half.M.dtype == jnp.float16
    assert bool(half.converged)


def test_missing_values_are_never_read_and_leave_finite_gradients():
    data = jnp.asarray(np.where(W, Y, np.nan), jnp.float32)
    np.testing.assert_array_equal(game(data, None, GROUPS, LAM).M, game(np.asarray(Y, np.float32), W, GROUPS, LAM).M)

    def total(data):
        return game(data, W, GROUPS, jnp.array(LAM), loop="scan", max_iter=20, check_every=20, validate=False).M.sum()

    slope = jax.jit(jax.grad(total))(data)
    assert bool(jnp.isfinite(slope).all())
    assert bool((slope[~W] == 0).all())
    assert float(jnp.abs(slope).max()) > 0.1


def test_batches_are_solved_under_vmap_and_jit_and_bad_values_are_refused_when_they_run():
    run = jax.jit(jax.vmap(lambda y, lam: game(y, W, GROUPS, lam).M))
    data, lams = jnp.asarray(np.stack([Y, 2 * Y]), jnp.float32), jnp.array([0.1, 0.2])
    batched = run(data, lams)
    for k in range(2):
        np.testing.assert_allclose(batched[k], game(data[k], W, GROUPS, lams[k]).M, atol=5e-3)
    for bad in ((data.at[0, 0, 0].set(jnp.nan), lams), (data, -lams)):
        with pytest.raises(Exception, match=r"; expected finite numbers|; expected a finite number"):
            jax.block_until_ready(run(*bad))


def test_tables_that_hold_little():
    with pytest.warns(UserWarning, match="no entry is observed"):
        empty = game(Y, 0 * W, GROUPS, 0.1, init=ONES)
    assert int(empty.status) == 4
    np.testing.assert_array_equal(empty.M, 0 * Y)
    i, j = np.indices(Y.shape)
    with pytest.warns(UserWarning, match="without an observed entry"):
        result = game(Y, np.where((i == 2) | (j == 3), 0, W), GROUPS, 0.1)
    np.testing.assert_allclose(result.M[2], np.zeros(8), atol=1e-5)
    np.testing.assert_allclose(result.M[:, 3], np.zeros(12), atol=1e-5)
    constant = game(3 * ONES, W, GROUPS, 0.1)  # close to the least gap of float32, which may be a stall
    assert int(constant.status) in (1, 2)
    np.testing.assert_allclose(constant.M, constant.M[0, 0] * ONES, rtol=0.1)
    with pytest.warns(UserWarning, match=r"rows in no group: 0, 1, 2, 3, 4, \.\.\.;"):
        free = game(Y, W, make_groups([[], []], 12), 1.0, init=ONES)
    np.testing.assert_allclose(free.M, np.where(W, Y, 0), rtol=1e-6)
    assert bool(free.converged)


def test_run_that_is_too_short_says_so():
    result = game(Y, W, GROUPS, LAM, max_iter=0)
    assert int(result.status) == 0
    assert not bool(result.converged)


BAD = {
    "groups": (lambda: game(Y, W, make_groups([[0]], 3), 1.0), "groups is of 3 rows; expected 12, as Y"),
    "lam": (lambda: game(Y, W, GROUPS, [1.0, -1.0, 1.0, 1.0]), "lam holds -1.0 at .*; expected finite numbers >= 0"),
    "lam nan": (lambda: game(Y, W, GROUPS, np.nan), "lam is nan; expected a finite number >= 0"),
    "lam length": (lambda: game(Y, W, GROUPS, [1.0]), r"lam has shape \(1,\); expected a number or \(4,\)"),
    "nan": (lambda: game(Y * np.nan, W, GROUPS, 1.0), "Y holds .*; expected finite numbers where observed"),
    "weight": (lambda: game(Y, -1.0 * W, GROUPS, 1.0), "W holds .*; expected finite numbers >= 0"),
    "shape": (lambda: game(Y, W[:2], GROUPS, 1.0), r"W has shape .*; expected that of Y, \(12, 8\)"),
    "ridge": (lambda: game(Y, W, GROUPS, 1.0, ridge=-1.0), "ridge is -1.0; expected a finite number >= 0"),
    "rho": (lambda: game(Y, W, GROUPS, 1.0, rho=0.0), "rho is 0.0; expected a finite number > 0"),
    "relaxation": (
        lambda: game(Y, W, GROUPS, 1.0, over_relaxation=2.0),
        r"over_relaxation is 2.0; expected a number in \(0, 2\)",
    ),
    "path": (lambda: game_path(Y, W, GROUPS, []), "lams has shape .*; expected one axis, at least one"),
    "init": (lambda: game(Y, W, GROUPS, 1.0, init=ONES[:2]), r"init has shape .*; expected that of Y, \(12, 8\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_start_from_another_problem_is_refused():
    other = game(np.asarray(Y, np.float32), W, GROUPS, LAM)
    other = eqx.tree_at(lambda r: r.state.duals, other, (jnp.zeros((4, 8, 4)),))
    with pytest.raises(ValueError, match=r"init is a result of shapes .*; expected one for the same table and groups"):
        game(Y, W, GROUPS, LAM, init=other)


def test_second_run_with_new_numbers_and_groups_of_the_same_sizes_compiles_nothing(compilations):
    data = np.asarray(Y, np.float32)
    game(data, 1 * W, GROUPS, LAM, init=game(data, W, GROUPS, LAM, ridge=0.1))
    other = make_groups([range(1, 7), range(8), range(0, 12, 2), range(1, 12, 2)], 12)

    def again():
        first = game(2 * data, 2 * W, other, [1.0, 0.0, 0.3, 0.2], tol=1e-3, over_relaxation=1.5)
        return game(data, W, other, LAM, init=first, ridge=0.2).M

    assert compilations(again) == []
