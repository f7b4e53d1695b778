"""Groups: from labels and from indices, layouts, and errors per group."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxspec.completion import Groups, game_weights, group_sin_theta, make_groups
from jaxspec.completion.group_layout import layout, memberships
from jaxspec.completion.groups import lambda_max

FRAME = pd.DataFrame({"age": ["old", "young", None, "old", "young"], "sex": [1, 2, 1, np.nan, 1]})


def test_every_level_of_a_column_is_a_group_and_missing_labels_are_in_none():
    groups = make_groups(FRAME, 5)
    assert groups.names == ("age=old", "age=young", "sex=1", "sex=2")
    assert groups.attributes == ("age", "age", "sex", "sex")
    assert [rows.tolist() for rows in groups.rows] == [[0, 3], [1, 4], [0, 2, 4], [1]]
    assert make_groups(FRAME, 5, min_size=2).names == ("age=old", "age=young", "sex=1")
    categories = make_groups(pd.DataFrame({"age": pd.Categorical(["b", "a", "b"], categories=["a", "b", "c"])}), 3)
    assert [rows.tolist() for rows in categories.rows] == [[1], [0, 2]]


def test_a_series_of_labels_is_one_column():
    assert make_groups(FRAME["age"], 5) == make_groups(FRAME[["age"]], 5)
    assert make_groups(pd.Series(["x", "y", "x"]), 3).names == ("label=x", "label=y")
    with pytest.raises(
        TypeError, match=r"has dtype <U1; expected indices of rows; labels belong into a pandas DataFrame or Series"
    ):
        make_groups(np.array(["x", "y"]), 2)


def test_groups_are_equal_by_value():
    first, second = make_groups(FRAME, 5), make_groups(FRAME.copy(), 5)
    assert first == second
    assert hash(first) == hash(second)
    assert first != first.with_factors([1, 1, 1, 2])
    assert first != make_groups(FRAME[["age"]], 5)
    assert isinstance(first, Groups)
    with pytest.raises(ValueError, match="read-only"):
        first.rows[0][0] = 3


def test_global_group_comes_last():
    groups = make_groups([[0, 1], [], [1]], 3, everyone=0.5, min_size=2)
    assert [rows.tolist() for rows in groups.rows] == [[0, 1], [], [], [0, 1, 2]]
    assert groups.factors == (1.0, 1.0, 1.0, 0.5)
    where = layout(groups)
    assert memberships(where, jnp.array([1.0, 1, 1, 1])).tolist() == [2, 2, 1]
    weights = game_weights(jnp.ones((3, 2)), groups)
    assert float(weights[3]) == pytest.approx(0.5 * (2**0.5 + 3**0.5) * 3 / 5)
    assert weights[1:3].tolist() == [0, 0]


def test_copies_hold_groups_without_common_rows():
    labels = np.arange(60).reshape(-1, 1) % np.array([[3, 4]])
    where = layout(make_groups(pd.DataFrame(labels, columns=["a", "b"]), 60), "copies")
    assert where.owner.shape == (2, 60)
    np.testing.assert_array_equal(where.owner, [np.arange(60) % 3, 3 + np.arange(60) % 4])


def test_lambda_max_without_groups_is_the_spectral_norm():
    Y = np.arange(12.0).reshape(4, 3)
    assert float(lambda_max(Y)) == pytest.approx(np.linalg.norm(Y, 2), rel=1e-6)
    one = make_groups([range(4)], 4)
    assert float(lambda_max(Y, None, one) * game_weights(Y >= 0, one)[0]) == pytest.approx(
        np.linalg.norm(Y, 2), rel=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_sin_theta_is_that_of_principal_angles():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((8, 2)) @ rng.standard_normal((2, 6))
    estimate = truth + 0.1 * rng.standard_normal((8, 6))
    rows = [range(8), [1, 4, 6], [3], [], [0, 2]]
    errors = group_sin_theta(estimate, truth, make_groups(rows, 8), 2)
    for group, error in zip(rows, errors, strict=True):
        r = min(2, len(list(group)))
        if r:
            V, Vhat = (np.linalg.svd(x[list(group)])[2][:r] for x in (truth, estimate))
            assert float(error) == pytest.approx(np.sqrt(1 - np.sum((Vhat @ V.T) ** 2) / r), rel=1e-6)
        else:
            assert float(error) == 0
    everything = make_groups([range(8)], 8)
    assert float(group_sin_theta(3 * truth, truth, everything, 2)[0]) < 1e-12
    assert float(group_sin_theta(0 * truth, truth, everything, 2)[0]) == pytest.approx(1)
    rank_one = np.outer(truth[:, 0], np.linalg.svd(truth)[2][0])
    assert float(group_sin_theta(rank_one, truth, everything, 2)[0]) == pytest.approx(0.5**0.5)


BAD = {
    "range": (lambda: make_groups([[0, 4]], 4), r"groups\[0\] has the row 4; expected 0 to 3"),
    "negative": (lambda: make_groups([[0], [-1]], 4), r"groups\[1\] has the row -1; expected 0 to 3"),
    "repeat": (lambda: make_groups([[1, 1]], 4), r"groups\[0\] repeats a row"),
    "frame": (lambda: make_groups(FRAME, 4), r"groups has 5 rows; expected n = 4"),
    "n": (lambda: make_groups([], 0), "n is 0; expected an integer >= 1"),
    "pad": (lambda: make_groups([], 3, pad_ratio=0.5), "pad_ratio is 0.5; expected a finite number >= 1"),
    "size": (lambda: make_groups([], 3, min_size=0), "min_size is 0; expected an integer >= 1"),
    "everyone": (lambda: make_groups([], 3, everyone=-1.0), "everyone is -1.0; expected a finite number >= 0"),
    "factors": (
        lambda: make_groups([[0]], 3).with_factors([1.0, 2.0]),
        "factors is .*; expected 1 finite numbers >= 0",
    ),
    "weights": (lambda: game_weights(np.ones((2, 2)), make_groups([[0]], 3)), r"W has shape .*; expected 3 rows"),
    "rank": (
        lambda: group_sin_theta(np.ones((3, 2)), np.ones((3, 2)), make_groups([[0]], 3), 0),
        "rank is 0; expected an integer >= 1",
    ),
    "shapes": (
        lambda: group_sin_theta(np.ones((3, 2)), np.ones((3, 3)), make_groups([[0]], 3), 1),
        "Mhat has shape .*; expected that of M",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_indices_must_be_integers():
    with pytest.raises(TypeError, match=r"groups\[0\] has dtype float64; expected indices"):
        make_groups([[0.5]], 3)
