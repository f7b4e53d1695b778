"""Effects and their standard errors against least squares and difference-in-differences done by hand."""

import warnings
from functools import partial

import jax
import numpy as np
import pytest
from scipy import stats

from jaxspec.completion import panel_effects
from jaxspec.completion.panel import averages, ranks
from jaxspec.completion.panel.design import influence
from jaxspec.completion.panel.effects import _effects

SHAPE = (30, 24)


@pytest.fixture(scope="module")
def panel(make_panel):
    Y, D, A0, A1 = make_panel(0, *SHAPE)
    observed = np.random.default_rng(1).random(SHAPE) < 0.95
    return Y, D, observed, A1 - A0


GROUPS = np.arange(30) % 3 - 1
WEIGHTS = 1 + np.arange(30) % 4


@pytest.fixture(scope="module")
def effects(panel):
    Y, D, observed, _ = panel
    options = {"rank": 2, "start": "one_step", "observed": observed, "refine": 3, "groups": GROUPS, "weights": WEIGHTS}
    with jax.enable_x64(True):
        return {
            kind: jax.tree.map(np.asarray, panel_effects(Y, D, se=kind, **options))
            for kind in ("heteroskedastic", "homoskedastic")
        }


def factors(fit, arm):
    U = fit.left[arm][:, :2]
    return U / np.sqrt((U**2).mean(axis=0)), fit.right[arm][:, :2]


def arms(panel):
    _, D, observed, _ = panel
    return observed & ~D, observed & D


def row_variances(Y, W, A):
    """Of the specification: own residuals, corrected so that their mean is the pooled variance."""
    n, m = Y.shape
    rss, own = (W * (Y - A) ** 2).sum(axis=1), W.sum(axis=1) - 2
    pooled = rss.sum() / (W.sum() - 2 * (n + m - 2))
    return rss / own * pooled / (rss.sum() / own.sum()), pooled


def test_standard_errors_of_units_are_those_of_the_formula(panel, effects):
    Y, _, _, _ = panel
    for kind, found in effects.items():
        variance = 0
        for arm, (W, A) in enumerate(zip(arms(panel), (found.fit.A0, found.fit.A1), strict=True)):
            U, V = factors(found.fit, arm)
            s2, pooled = row_variances(Y, W, A)
            s2 = s2 if kind == "heteroskedastic" else np.full(30, pooled)
            g = V.mean(axis=0)
            C = 0
            for w in W.T:
                H = (U * w[:, None]).T @ U
                half = np.linalg.solve(H, (U * (w * np.sqrt(s2))[:, None]).T)
                C = C + half @ half.T / 24**2
            G = [(V * w[:, None]).T @ V for w in W]
            variance = variance + s2 * [g @ np.linalg.solve(x, g) for x in G] + ((U @ C) * U).sum(axis=1)
        np.testing.assert_allclose(found.se, np.sqrt(variance), rtol=1e-8)
    df = sum(W.sum(axis=1) for W in arms(panel)) - 4
    half = stats.t.ppf(0.975, df) * found.se
    np.testing.assert_allclose(found.df, df)
    np.testing.assert_allclose([found.ci_low, found.ci_high], [found.tau - half, found.tau + half], rtol=1e-8)


def dense_influence(W, U, V, L):
    """Least squares over the whole tangent space: ``<L, A>`` as weights of the cells."""
    n, m = W.shape
    i, j = np.nonzero(W)
    X, everywhere = [], []
    for rows, columns in ((i, j), np.divmod(np.arange(n * m), m)):
        left, right = np.zeros((rows.size, n, 2)), np.zeros((rows.size, m, 2))
        left[np.arange(rows.size), rows] = V[columns]
        right[np.arange(rows.size), columns] = U[rows]
        (X if rows is i else everywhere).append(np.concatenate([left, right], axis=1).reshape(rows.size, -1))
    psi = np.zeros((n, m))
    # The tangent vectors that move a factor against the other have no image: rounding must not count as one.
    psi[i, j] = np.linalg.pinv(X[0], rcond=1e-10).T @ (everywhere[0].T @ L.reshape(-1))
    return psi


def test_standard_errors_of_averages_are_those_of_least_squares(panel, effects):
    Y, _, _, _ = panel
    found = effects["heteroskedastic"]
    W = arms(panel)
    s2 = [row_variances(Y, w, A)[0] for w, A in zip(W, (found.fit.A0, found.fit.A1), strict=True)]
    weigh = lambda arm, L: dense_influence(W[arm], *factors(found.fit, arm), L)  # noqa: E731
    share = WEIGHTS / WEIGHTS.sum()
    L = np.repeat(share[:, None] / 24, 24, axis=1)
    variance = sum((s2[arm][:, None] * weigh(arm, L) ** 2).sum() for arm in range(2))
    np.testing.assert_allclose(found.ate_se, np.sqrt(variance), rtol=1e-3)
    np.testing.assert_allclose(found.ate, share @ found.tau, rtol=1e-10)
    treated = W[1] * WEIGHTS[:, None] / (W[1] * WEIGHTS[:, None]).sum()
    own = (s2[1][:, None] * treated**2).sum()
    np.testing.assert_allclose(found.att, (treated * (Y - found.fit.A0)).sum(), rtol=1e-9)
    expected = np.sqrt((s2[0][:, None] * weigh(0, treated) ** 2).sum() + own)
    np.testing.assert_allclose(found.att_se, expected, rtol=1e-3)


def test_groups_are_weighted_means(effects):
    found = effects["heteroskedastic"]
    for group in range(2):
        here = group == GROUPS
        mean = np.average(found.tau[here], weights=WEIGHTS[here])
        np.testing.assert_allclose(found.group_effect[group], mean, rtol=1e-10)
    assert found.group_se.shape == (2,)
    assert np.all(found.group_se > found.ate_se)


def test_event_study_by_hand(panel, effects):
    Y, D, observed, _ = panel
    found = effects["heteroskedastic"]
    first = np.where(D.any(axis=1), D.argmax(axis=1), 99)
    lag = np.arange(24) - first[:, None]
    gap = Y - found.fit.A0
    for index in (20, 23, 24, 30, 46):
        here = observed & (lag == index - 23) & (D | (lag < 0))
        assert found.event_count[index] == here.sum()
        if here.any():
            weights = (here * WEIGHTS[:, None])[here]
            np.testing.assert_allclose(found.event_study[index], np.average(gap[here], weights=weights), rtol=1e-9)
            assert 0 < found.event_se[index] < 3
        else:
            assert np.isnan(found.event_study[index])
    np.testing.assert_array_equal(found.lags, np.arange(-23, 24))


def recorded(*args, **options):
    """The effects, and the texts of the warnings that came with them."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = panel_effects(*args, **options)
    return found, [str(warning.message) for warning in seen]


def block_design():
    rng = np.random.default_rng(3)
    Y = rng.standard_normal((12, 1)) + rng.standard_normal(10) + 0.1 * rng.standard_normal((12, 10))
    D = np.zeros((12, 10), bool)
    D[3, 6:] = True
    return Y, D


def test_two_way_centring_at_rank_zero_is_difference_in_differences(x64):
    Y, D = block_design()
    found, texts = recorded(Y, D, rank=0, center="two_way")
    others = np.delete(Y, 3, axis=0)
    did = (Y[3, 6:].mean() - Y[3, :6].mean()) - (others[:, 6:].mean() - others[:, :6].mean())
    np.testing.assert_allclose(found.att, did, atol=1e-10)
    assert any("11 of 12 units have no cell" in text for text in texts)
    assert any("overlap of the treated arm is 0.4" in text for text in texts)
    # Least squares with dummies for the standard error of the classical estimator, too.
    W = ~D
    i, j = np.nonzero(W)
    X = np.zeros((i.size, 22))
    X[np.arange(i.size), i] = X[np.arange(i.size), 12 + j] = 1
    L = np.zeros(22)
    L[3], L[18:] = 1, 0.25
    psi = np.linalg.pinv(X).T @ L
    residual = Y[W] - X @ np.linalg.pinv(X) @ Y[W]
    sigma2 = (residual**2).sum() / (W.sum() - 21)
    pooled, _ = recorded(Y, D, rank=0, center="two_way", se="homoskedastic")
    # The treated arm has no freedom left: its outcomes are as noisy as the untreated ones.
    np.testing.assert_allclose(pooled.att_se, np.sqrt(sigma2 * ((psi**2).sum() + 0.25)), rtol=1e-4)


def test_one_step_has_no_standard_errors(x64, panel):
    Y, D, _, _ = panel
    found = panel_effects(Y, D, rank=2, refine=0, start="one_step")
    assert np.isfinite(found.tau).all()
    for value in (found.se, found.df, found.ci_low, found.ate_se, found.att_se, found.event_se):
        assert np.isnan(value).all()
    assert np.isfinite(found.ate)


def test_serial_correlation_widens_intervals_where_treatment_persists(x64):
    rng = np.random.default_rng(0)
    E = rng.standard_normal((60, 60))
    for j in range(1, 60):
        E[:, j] = 0.7 * E[:, j - 1] + np.sqrt(0.51) * E[:, j]
    D = np.repeat(rng.random((60, 6)) < 0.5, 10, axis=1)
    D[:, :10] = np.arange(60)[:, None] % 2
    D[:, 10:20] = ~D[:, :10]
    truth = rng.standard_normal(60)
    Y = np.outer(rng.standard_normal(60), np.ones(60)) + truth[:, None] * D + E
    covered = {}
    for cov in ("independent", "block"):
        found = panel_effects(Y, D, rank=1, cov=cov, start="one_step")
        covered[cov] = np.mean((found.ci_low <= truth) & (truth <= found.ci_high))
    # Three binomial standard errors of 60 units below the .93 found over many panels.
    assert covered["block"] > 0.93 - 3 * np.sqrt(0.93 * 0.07 / 60)
    assert covered["independent"] < covered["block"] - 0.1


def test_periods_of_overlap_are_those_that_count(x64, make_panel):
    _, _, A0, A1 = make_panel(4, *SHAPE)
    D = np.arange(24) >= 8 + np.arange(30)[:, None] % 14
    Y = np.where(D, A1, A0) + 0.05 * np.random.default_rng(0).standard_normal(SHAPE)
    found, texts = recorded(Y, D, rank=1, periods="overlap")
    assert any("overlap of the treated arm" in text for text in texts)
    assert not any("periods=" in text for text in texts)
    _, texts = recorded(Y, D, rank=1)
    (text,) = [text for text in texts if "periods='overlap'" in text]
    assert f"{24 - (D.any(axis=0) & (~D).any(axis=0)).sum()} of 24 periods" in text
    enough = D.any(axis=0) & (~D).any(axis=0)
    expected = np.asarray(found.fit.effect)[:, enough].mean(axis=1)
    np.testing.assert_allclose(found.tau, expected, atol=1e-10)
    np.testing.assert_allclose(found.ate, expected.mean(), atol=1e-10)


def test_anticipation_takes_cells_from_the_untreated_arm(x64, make_panel):
    _, _, A0, _ = make_panel(5, *SHAPE)
    D = np.zeros(SHAPE, bool)
    D[:10, 12:18] = True
    Y = A0 + 3.0 * D
    Y[:10, 10:12] += 1.0
    plain, aware = (recorded(Y, D, rank=2, refine=30, anticipation=periods)[0] for periods in (0, 2))
    np.testing.assert_allclose(aware.att, 3, atol=1e-6)
    # In the anticipation periods the untreated outcome is predicted, so that the reaction shows.
    np.testing.assert_allclose(aware.event_study[21:29], [1, 1, 3, 3, 3, 3, 3, 3], atol=1e-6)
    assert abs(float(plain.att) - 3) > 0.05


def test_nothing_quiet_about_what_the_data_cannot_say(x64, panel):
    Y, D, _, _ = panel
    D = D.copy()
    D[0], D[1], D[:, 4] = False, True, False
    D[1, 4] = True
    observed = np.ones(SHAPE, bool)
    observed[2] = False
    found, texts = recorded(Y, D, rank=2, observed=observed, groups=np.where(np.arange(30) < 3, 0, 1))
    assert any("3 of 30 units" in text for text in texts)
    lost = np.arange(30) < 3
    for value in (found.tau, found.se, found.df, found.ci_low, found.ci_high, found.fit.row_rmse):
        np.testing.assert_array_equal(np.isnan(value), lost)
    np.testing.assert_array_equal(np.isnan(found.fit.effect).all(axis=1), lost)
    # An arm without a cell of the unit has no outcome, the other one has.
    for A, nowhere in ((found.fit.A0, [1, 2]), (found.fit.A1, [0, 2])):
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(A).any(axis=1)), nowhere)
        assert np.isnan(np.asarray(A)[nowhere]).all()
    assert float(found.fit.overlap[1]) < 1
    assert np.isnan(found.group_effect[0])
    assert np.isfinite([found.group_effect[1], found.ate, found.att, found.ate_se]).all()


def test_a_row_with_fewer_cells_than_directions_leaves_averages_their_errors(x64, make_panel):
    Y, D, _, _ = make_panel(8, 40, 30, rank=3)
    D = D.copy()
    whole, _ = recorded(Y, D, rank=3)
    D[4], D[9] = False, True
    D[4, 7] = D[9, 3] = D[9, 4] = True
    D[9, 3:5] = False
    found, texts = recorded(Y, D, rank=3)
    assert not any("did not converge" in text for text in texts)
    for name in ("ate_se", "att_se"):
        assert 0.9 < float(getattr(found, name) / getattr(whole, name)) < 1.3


def test_standard_errors_that_did_not_converge_are_nan_with_a_warning(x64, make_panel, monkeypatch):
    Y, D, _, _ = make_panel(3, 23, 17)
    options = {"rank": 1, "start": "one_step", "groups": np.arange(23) % 2}
    whole, texts = recorded(Y, D, **options)
    assert not any("did not converge" in text for text in texts)
    monkeypatch.setattr(averages, "influence", partial(influence, max_iter=1))
    _effects._cached.clear_cache()
    cut, texts = recorded(Y, D, **options)
    _effects._cached.clear_cache()
    (text,) = [text for text in texts if "did not converge" in text]
    for value, error in (
        ("ate", "ate_se"),
        ("group_effect", "group_se"),
        ("att", "att_se"),
        ("event_study", "event_se"),
    ):
        assert error in text
        np.testing.assert_array_equal(getattr(cut, value), getattr(whole, value))
        known = np.isfinite(getattr(whole, error))
        assert known.any()
        assert np.isnan(np.asarray(getattr(cut, error))[known]).all()
    np.testing.assert_array_equal(cut.se, whole.se)


def test_an_arm_taken_for_zero_is_told(x64, make_panel, monkeypatch):
    Y, D, _, _ = make_panel(3, *SHAPE)
    monkeypatch.setattr(ranks, "EXCESS", 1e3)
    _effects._cached.clear_cache()
    found, texts = recorded(Y + 20, D)
    _effects._cached.clear_cache()
    assert found.fit.rank.tolist() == [0, 0]
    assert [text.split(" arm")[0] for text in texts] == ["the rank of the untreated", "the rank of the treated"]
    assert all("give rank, or center" in text for text in texts)


def test_zeros_give_zeros(x64):
    D = (3 * np.arange(30)[:, None] + 7 * np.arange(24)) % 5 < 2
    found = panel_effects(np.zeros(SHAPE), D, rank_max=3)
    assert found.fit.rank.tolist() == [0, 0]
    for value in (found.tau, found.se, found.ci_low, found.ci_high, found.ate, found.ate_se, found.att_se):
        assert np.all(np.asarray(value) == 0)


def test_standard_errors_scale_with_the_outcomes_in_float32(make_panel):
    Y, D, _, _ = make_panel(7, *SHAPE)
    Y = Y.astype(np.float32)
    one, small, large = (panel_effects(Y * np.float32(size), D, rank=2, start="one_step") for size in (1, 1e-20, 1e20))
    for other, size in ((small, 1e-20), (large, 1e20)):
        for name in ("tau", "se", "ate_se", "att", "ci_high"):
            expected, found = np.asarray(getattr(one, name)), np.asarray(getattr(other, name)) / np.float32(size)
            np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-3, err_msg=name)
