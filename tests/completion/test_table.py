"""The front door for labelled tables, and the loaders, each on a small file written here."""

import sys

import jax
import numpy as np
import pandas as pd
import pytest

from jaxspec.completion import choose_groups, fit_table, load_neurons, load_ratings, load_sites, make_groups

RNG = np.random.default_rng(0)
N, D = 40, 8
KIND = np.arange(N) % 2
LOADINGS = RNG.standard_normal((2, 1, D))
TRUTH = 5 + 2 * np.einsum("ik,ikd->id", RNG.standard_normal((N, 1)), LOADINGS[KIND])
NAMES = [f"item{k}" for k in range(D)]


def frame(missing=0.3):
    rng = np.random.default_rng(1)
    values = np.where(rng.random((N, D)) < missing, np.nan, TRUTH + 0.2 * rng.standard_normal((N, D)))
    labels = {"kind": np.where(KIND, "a", "b"), "noise": rng.integers(0, 2, N)}
    return pd.DataFrame(values, columns=NAMES, index=[f"row{i}" for i in range(N)]).assign(**labels)


def test_gaps_are_filled_observed_entries_stay_and_each_group_is_reported():
    data = frame()
    fit = fit_table(data, NAMES, ["kind", "noise"], splits=1)
    seen = data[NAMES].notna().to_numpy()
    np.testing.assert_array_equal(fit.table.to_numpy()[seen], data[NAMES].to_numpy()[seen])
    assert fit.table.index.equals(data.index)
    assert list(fit.table.columns) == NAMES
    error, means = (fit.table.to_numpy() - TRUTH)[~seen], (TRUTH - data[NAMES].mean().to_numpy())[~seen]
    assert np.linalg.norm(error) < 0.6 * np.linalg.norm(means)
    assert 0 < fit.hold_out_error < 1
    report = fit.report.set_index("group")
    assert report.loc["kind=a", "rows"] == 20
    assert report.loc["kind=a", "observed"] == pytest.approx(seen[KIND == 1].mean(), rel=1e-6)
    assert set(report["attribute"]) == {"kind", "noise", "all rows"}
    assert (report["lambda"][["noise=0", "noise=1"]] == 0).all() or (report["lambda"] > 0).any()
    assert bool(fit.result.converged)


def test_useless_attribute_is_left_out():
    data = frame()
    Y, groups = (data[NAMES] - data[NAMES].mean()) / data[NAMES].std(ddof=0), make_groups(data[["kind", "noise"]], N)
    result = choose_groups(Y.to_numpy(), None, groups, None, jax.random.key(0), splits=1)
    assert result.attributes[:5] == ((), (), ("kind",), ("kind",), ("kind",))
    assert result.everyone[:5] == (0.5, 1.0, 0.0, 0.5, 1.0)
    assert result.errors.shape == (11, 9)
    assert float(result.hold_out_error) == pytest.approx(float(result.errors.min()))
    best = dict(zip(zip(result.attributes, result.everyone, strict=True), result.errors.min(axis=1), strict=True))
    assert float(best[("kind",), 0.0]) < 0.9 * float(best[("noise",), 0.0])
    chosen = result.attributes[int(np.argmin(result.errors.min(axis=1)))]
    assert "kind" in chosen
    for name, factor in zip(result.groups.attributes[:-1], result.groups.factors, strict=False):
        assert (factor > 0) == (name in chosen)


def test_given_lambda_is_used_and_rows_without_labels_share_a_group_of_all_rows():
    data = frame().astype({"noise": float})
    alone = data.index[data["noise"] == 0][0]
    data.loc[alone, ["kind", "noise"]] = None
    fit = fit_table(data, NAMES, ["kind", "noise"], lam=0.1, standardise=False)
    assert fit.groups.names == ("kind=a", "kind=b", "noise=0", "noise=1", "all rows")
    assert fit.groups.factors == (1.0,) * 5
    assert np.isnan(fit.hold_out_error)
    assert fit.lam == 0.1
    np.testing.assert_array_equal(fit.spread, np.ones(D))
    assert np.isfinite(fit.table.to_numpy()).all()
    assert (fit.table.loc[alone] != 0).all()


def test_a_group_left_out_has_no_rank_and_an_empty_row_gets_the_means():
    data = frame()
    data.loc["row3", NAMES] = np.nan
    with pytest.warns(UserWarning, match="rows without") as caught:
        fit = fit_table(data, NAMES, ["kind", "noise"], splits=1)
    text = "frame has rows without an observed entry, at [3]: they are completed by the means of the columns"
    assert [str(warning.message) for warning in caught] == [text]
    np.testing.assert_allclose(fit.table.loc["row3"], data[NAMES].mean(), rtol=1e-6)
    out = fit.report["lambda"] == 0
    assert out.any()
    assert fit.report["rank"].isna().tolist() == out.tolist()
    assert (fit.report.loc[~out, "rank"] > 0).all()
    with pytest.warns(UserWarning, match="they are completed by zeros"):
        plain = fit_table(data, NAMES, ["kind"], lam=0.1, standardise=False)
    assert (plain.table.loc["row3"] == 0).all()


BAD = {
    "columns": (lambda: fit_table(frame(), [], ["kind"]), "columns is empty; expected at least one column"),
    "column": (lambda: fit_table(frame(), ["x"], ["kind"]), "columns has 'x'; expected columns of frame"),
    "groups": (lambda: fit_table(frame(), NAMES, ["sex"]), "groups has 'sex'; expected columns of frame"),
    "infinite": (
        lambda: fit_table(frame().replace({"item0": {frame()["item0"].dropna().iloc[0]: np.inf}}), NAMES, ["kind"]),
        "column 'item0' has an infinite value; expected finite or missing",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_text_columns_are_refused_and_missing_pandas_is_explained(monkeypatch):
    with pytest.raises(TypeError, match=r"column 'kind' has dtype .*; expected numbers"):
        fit_table(frame(), ["kind"], ["noise"])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"fit_table needs pandas: pip install 'jaxspec-lab\[tables\]'"):
        fit_table(None, NAMES, ["kind"])


def test_ratings_become_users_by_items(tmp_path):
    (tmp_path / "r.csv").write_text("user,item,rating\n7,b,4\n7,a,2\n3,b,5\n7,b,2\n9,a,1\n")
    (tmp_path / "u.csv").write_text("user,age,sex\n7,old,f\n3,young,m\n")
    values, labels = load_ratings(tmp_path / "r.csv", tmp_path / "u.csv", attributes=["age"])
    assert values.index.tolist() == [3, 7, 9]
    np.testing.assert_array_equal(values.to_numpy(), [[np.nan, 5], [2, 3], [1, np.nan]])
    assert labels["age"].tolist()[:2] == ["young", "old"]
    assert labels["age"].isna().tolist() == [False, False, True]
    (tmp_path / "u.csv").write_text("user,age\n7,old\n7,young\n")
    with pytest.raises(ValueError, match=r"has the user .*7.* twice; expected every one once"):
        load_ratings(tmp_path / "r.csv", tmp_path / "u.csv")
    with pytest.raises(ValueError, match="expected 'stars' among them"):
        load_ratings(tmp_path / "r.csv", tmp_path / "u.csv", rating="stars")


def test_sites_become_sites_by_species(tmp_path):
    (tmp_path / "s.csv").write_text("plot,habitat,oak,ash\np1,wood,3,\np2,bog,0,1\n")
    values, labels = load_sites(tmp_path / "s.csv", labels=["habitat"], site="plot")
    assert values.columns.tolist() == ["oak", "ash"]
    np.testing.assert_array_equal(values.to_numpy(), [[3, np.nan], [0, 1]])
    assert labels.loc["p2", "habitat"] == "bog"
    with pytest.raises(ValueError, match="has no numbers in column 'plot'; expected numbers"):
        load_sites(tmp_path / "s.csv", labels=["habitat"])


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_activity_becomes_neurons_by_trials(tmp_path, kind):
    activity = np.array([[1.0, np.nan, 2.0], [0.5, 3.0, 1.0]])
    path = tmp_path / f"a.{kind}"
    np.save(path, activity) if kind == "npy" else path.write_text("1,,2\n0.5,3,1\n")
    (tmp_path / "n.csv").write_text("region,session\nV1,1\nCA1,2\n")
    values, labels = load_neurons(path, tmp_path / "n.csv", labels=["region"])
    np.testing.assert_array_equal(values.to_numpy(), activity)
    assert labels["region"].tolist() == ["V1", "CA1"]
    (tmp_path / "n.csv").write_text("region\nV1\n")
    with pytest.raises(ValueError, match=r"has 1 rows; expected 2, one per neuron"):
        load_neurons(path, tmp_path / "n.csv")
