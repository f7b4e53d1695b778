"""Long tables in and out, and the three figures."""

import sys
import warnings

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from jaxspec.completion import (
    from_long,
    panel_effects,
    placebo_in_time,
    plot_event_study,
    plot_gap,
    plot_unit_effects,
    to_long,
    to_units,
)

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    units, years = [f"u{i:02}" for i in range(14)], list(range(1990, 2002))
    df = pd.DataFrame([(u, t) for u in units for t in years], columns=["who", "year"])
    i, j = df.index // 12, df.index % 12
    df["treated"] = ((i % 3 == 0) & (j >= 6) & (j < 10)).astype(int)
    df["sales"] = 1.0 + i % 4 + 0.5 * j + 2 * df["treated"] + 0.1 * rng.standard_normal(len(df))
    # Unbalanced: rows that are not there, and outcomes that are missing.
    df.loc[[5, 40], "sales"] = np.nan
    return df.drop(index=[17, 18, 100]).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def fitted(frame):
    data = from_long(frame, "who", "year", "sales", "treated")
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        effects = panel_effects(data.Y, data.D, observed=data.observed, rank=(2, 1))
        placebo = placebo_in_time(data.Y, data.D, 3, observed=data.observed, rank=2)
    return data, effects, placebo


def test_a_long_table_becomes_matrices(frame, fitted):
    data = fitted[0]
    assert data.Y.shape == (14, 12)
    assert list(data.units) == sorted(frame["who"].unique())
    assert list(data.times) == list(range(1990, 2002))
    assert int((~data.observed).sum()) == 5
    for _, row in frame.dropna().iterrows():
        place = list(data.units).index(row["who"]), row["year"] - 1990
        assert data.Y[place] == row["sales"]
        assert data.D[place] == bool(row["treated"])
        assert data.observed[place]


def test_tables_of_effects(fitted):
    data, effects, _ = fitted
    long, units = to_long(effects, data), to_units(effects, data)
    assert long.shape == (168, 8)
    row = long[(long["unit"] == "u03") & (long["time"] == 1997)].iloc[0]
    np.testing.assert_allclose(row["outcome"], data.Y[3, 7])
    np.testing.assert_allclose(row["effect"], effects.fit.effect[3, 7])
    assert (bool(row["treatment"]), bool(row["observed"])) == (True, True)
    np.testing.assert_allclose(units.loc["u03", "effect"], effects.tau[3])
    assert units["identified"].sum() == 5
    assert np.isnan(units.loc["u01", "ci_low"])
    bare = to_long(effects)
    assert bare.columns.tolist() == ["unit", "time", "untreated", "treated", "effect"]
    assert to_units(effects).index.tolist() == list(range(14))
    again = from_long(long.assign(treatment=long["treatment"].astype(int)), "unit", "time", "outcome", "treatment")
    np.testing.assert_array_equal(again.Y, data.Y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda df: pd.concat([df, df.iloc[:1]]), "unit and time have 1 duplicates"),
        (lambda df: df.assign(treated=df["treated"] * 2), "treatment 'treated' holds 2.0; expected booleans"),
        (lambda df: df.assign(treated="yes"), "treatment 'treated' has dtype .*; expected booleans"),
        (lambda df: df.assign(who=None), "unit 'who' has .* missing entries; expected none"),
        (lambda df: df.assign(sales=np.inf), "outcome 'sales' has an infinite value; expected finite"),
        (lambda df: df.iloc[:0], "df has no rows"),
        (lambda df: df.drop(columns="year"), "time is 'year'; expected a column"),
    ],
)
def test_bad_tables_are_refused(frame, change, message):
    with pytest.raises(ValueError, match=message):
        from_long(change(frame), "who", "year", "sales", "treated")


def test_outcomes_that_are_not_numbers_are_refused(frame):
    with pytest.raises(TypeError, match=r"outcome 'sales' has dtype .*; expected numbers"):
        from_long(frame.assign(sales="many"), "who", "year", "sales", "treated")


def test_missing_treatment_is_not_observed(frame):
    treated = frame["treated"].astype(float).where(frame["who"] != "u00")
    data = from_long(frame.assign(treated=treated), "who", "year", "sales", "treated")
    assert not data.observed[0].any()
    assert not data.D[0].any()


def test_figures_show_the_numbers(fitted):
    data, effects, placebo = fitted
    sorted_units = plot_unit_effects(effects, units=data.units)
    shown = sorted_units.lines[0].get_ydata()
    np.testing.assert_allclose(shown, np.sort(np.asarray(effects.tau))[:5])
    assert len(sorted_units.get_xticklabels()) == 5
    study = plot_event_study(effects, placebo=placebo)
    assert {text.get_text() for text in study.get_legend().get_texts()} == {
        "treated",
        "before (in sample)",
        "before (held out)",
    }
    _, ax = plt.subplots()
    assert plot_gap(effects, data, "u03", ax=ax) is ax
    np.testing.assert_allclose(ax.lines[1].get_ydata(), effects.fit.A0[3])
    for call, message in (
        (lambda: plot_gap(effects, data, "nobody"), "unit is 'nobody'; expected one of data.units"),
        (lambda: plot_unit_effects(effects, units=[1, 2]), "units has 2 labels; expected"),
        (lambda: to_long(effects, data._replace(Y=data.Y[:3])), "data has shape"),
        (lambda: plot_gap(effects, data._replace(Y=data.Y[:3]), "u03"), "data has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    plt.close("all")


def test_missing_packages_are_named(monkeypatch, frame, fitted):
    for name in ("pandas", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"from_long needs pandas: pip install 'jaxspec-lab\[tables\]'"):
        from_long(frame, "who", "year", "sales", "treated")
    with pytest.raises(ImportError, match=r"plot_unit_effects needs matplotlib"):
        plot_unit_effects(fitted[1])
