"""The parts of the group-aware paper run end to end at a size of seconds, and the tables they are made of."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.group_completion import _tables as tables
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

TINY = {"rows": 24, "columns": 8, "seeds": 2, "tol": 1e-2}
SMALL = {
    "regimes": TINY | {"tol": 1e-2},
    "density": TINY | {"densities": (0.4, 0.6), "regimes": ("MCAR", "both")},
    "sweep": {"columns": 8, "seeds": 1, "settings": ("base", "second attribute irrelevant")},
    "choice": TINY | {"seeds": 1, "splits": 1, "settings": ("second attribute irrelevant",)},
    "baselines": TINY | {"trees": 2, "rounds": 1},
    "real_table": {"seeds": 1, "tables": ("il2",), "splits": 1},
}


LEAST_CLAIMS = 3
OTHER_IN_FULL = ()


@contextlib.contextmanager
def sparse_rows_allowed(name, module):
    with warnings.catch_warnings():
        # So small a table has rows of which nothing is observed.
        warnings.filterwarnings("ignore", message=".* has (rows|columns) without an observed entry")
        yield


part = part_fixture("group_completion", SMALL, sparse_rows_allowed)


def test_every_number_of_the_result_is_finite(part):
    for value in part[1]:
        assert np.asarray(value).dtype.kind != "f" or np.isfinite(value).all()


DESIGN = tables.Design(60, 30)


@pytest.mark.usefixtures("x64")
def test_regimes_share_the_truth_and_the_mean_density_but_not_the_mask():
    drawn = {name: tables.draws(3, 7, DESIGN, name, 0.3) for name in tables.MISSINGNESS}
    plain = drawn["MCAR"]
    np.testing.assert_allclose(np.std(plain.truth, axis=(1, 2)), 1, rtol=1e-12)
    assert np.std(plain.data - plain.truth) == pytest.approx(0.3, rel=0.05)
    sizes = [np.bincount(labels[:, 0]).tolist() for labels in np.asarray(plain.labels)]
    assert sizes == [[30, 20, 10]] * 3
    own = np.asarray(plain.labels)[:, :, :1] == np.arange(30) * 3 // 30
    share = {}
    for name, table in drawn.items():
        np.testing.assert_array_equal(table.truth, plain.truth)
        mask = np.asarray(table.mask)
        assert mask.mean() == pytest.approx(0.3, abs=0.04)
        by_level = [mask[np.asarray(table.labels)[..., 0] == level].mean() for level in range(3)]
        share[name] = by_level[0] / by_level[2], mask[~own].mean() / mask[own].mean()
    for name, missingness in tables.MISSINGNESS.items():
        assert (share[name][0] > 3) == missingness.by_level
        assert (share[name][1] > 4) == missingness.by_block
    with pytest.raises(ValueError, match="expected one of"):
        tables.draws(1, 0, DESIGN, "none", 0.3)


@pytest.mark.usefixtures("x64")
def test_stacked_layouts_are_those_of_the_single_tables():
    drawn = tables.draws(2, 3, DESIGN, "MCAR", 0.5)
    stacked = tables.layouts(drawn, 0.5)
    labels = np.asarray(drawn.labels)[1]
    groups = tables.row_groups(labels, 0.5)
    assert groups.attributes == ("A", "A", "A", "B", "B", "all rows")
    for g, (attribute, rows) in enumerate(zip(groups.attributes[:5], groups.rows[:5], strict=True)):
        np.testing.assert_array_equal(labels[rows, "AB".index(attribute)], g if attribute == "A" else g - 3)
    one = tables.layout(groups)
    for leaf, single in zip(jax.tree.leaves(stacked), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(leaf[1], single)
    np.testing.assert_array_equal(tables.factors_of(DESIGN, attributes="A", everyone=0.5), [1, 1, 1, 0, 0, 0.5])


def test_levels_may_have_a_lambda_of_their_own():
    path = tables.Paths(
        M=jnp.arange(3.0)[:, None, None] * jnp.ones((3, 4, 2)),
        gap=jnp.array([0.1, 0.2, 0.3]),
        squares=jnp.array([[0.0, 5.0, 1.0, 1.0], [9.0, 1.0, 1.0, 1.0], [9.0, 9.0, 0.5, 0.0]]),
    )
    np.testing.assert_array_equal(tables.one_lambda(path).M, np.zeros((4, 2)))
    own = tables.own_lambda(path, jnp.array([0, 0, 1, 1]), 2)
    np.testing.assert_array_equal(own.M[:, 0], [0, 0, 2, 2])
    assert float(own.gap) == pytest.approx(0.3)


def test_gains_and_errors_are_means_over_paired_seeds():
    mean, error = tables.gain(np.array([0.5, 0.8]), np.array([1.0, 1.0]))
    assert mean == pytest.approx(0.35)
    assert error == pytest.approx(0.15)
    assert np.isnan(tables.standard_error(np.ones((2, 1)))).all()


def test_real_tables_carry_their_labels():
    from experiments.group_completion.real_table import labelled_table

    il2, labels = labelled_table("il2")
    assert il2.shape == (50, 96)
    assert list(labels.nunique()) == [13, 4]
    covid, labels = labelled_table("covid")
    assert covid.shape == (438, 66)
    assert {"Negative", "Severe"} <= set(labels["outcome"])
    with pytest.raises(ValueError, match="expected il2"):
        labelled_table("iris")
