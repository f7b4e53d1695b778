"""The law of one row of optimal scores, against closed forms, the specification's table and Monte Carlo."""

import numpy as np
import pytest
from scipy.stats import norm

from jaxspec.memory.quadrature import _cost, gardner_cost, score_cdf, score_moments

COMPETITORS = np.array([1, 2, 10, 100, 1000, 1e6])
COSTS = np.array(
    [
        [0.500000, 0.850435, 1.360071, 2.971605],
        [0.833333, 1.375386, 2.136833, 4.439017],
        [2.093929, 3.200512, 4.640169, 8.609393],
        [4.806753, 6.744422, 9.094418, 15.077676],
        [8.121762, 10.787611, 13.898552, 21.481619],
        [19.597589, 23.961582, 28.801835, 39.919493],
    ]
)
MEANS = [0.282095, 0.444962, 0.950380, 1.736827, 2.446170, 4.126715]
DEVIATIONS = [0.818793, 0.729922, 0.513074, 0.303618, 0.197489, 0.086782]


def projected(z, kappa):
    """Correct score by running means: ``max_m (z_1 + sum_{j<=m} (z_(j) + kappa)) / (m + 1)``, z_(j) descending."""
    sums = np.cumsum(np.concatenate([z[:, :1], -np.sort(-z[:, 1:], 1) + kappa], 1), 1)
    return np.max(sums / np.arange(1, z.shape[1] + 1), 1)


@pytest.mark.parametrize("column", range(4))
def test_costs_of_the_table(column):
    cost = gardner_cost(COMPETITORS, (0.0, 0.5, 1.0, 2.0)[column])
    np.testing.assert_allclose(cost, COSTS[:, column], rtol=0, atol=6e-7)


def test_moments_of_the_table():
    mean, deviation = score_moments(COMPETITORS)
    np.testing.assert_allclose(mean, MEANS, rtol=0, atol=6e-7)
    np.testing.assert_allclose(deviation, DEVIATIONS, rtol=0, atol=6e-7)


def test_one_competitor_has_a_closed_form():
    kappa = np.array([-8.0, -2.0, -0.5, 0.0, 0.7, 3.0, 12.0])
    r = kappa / np.sqrt(2)
    expected = ((kappa**2 + 2) * norm.cdf(r) + kappa * np.sqrt(2) * norm.pdf(r)) / 2
    np.testing.assert_allclose(gardner_cost(1, kappa), expected, rtol=1e-9, atol=1e-10)


def test_one_and_two_competitors_at_margin_zero():
    np.testing.assert_allclose(gardner_cost([1, 2]), [1 / 2, 5 / 6], rtol=1e-11)
    mean, deviation = score_moments(1)  # t* is z_1 or the mean of both, each with probability 1/2: E t*^2 = 3/4
    np.testing.assert_allclose([mean, mean**2 + deviation**2], [1 / np.sqrt(4 * np.pi), 0.75], rtol=1e-10)


def test_a_margin_that_every_competitor_violates_has_a_closed_form():
    """All K are active: the row is projected on the line of equal entries, shifted by kappa."""
    for competitors, kappa in ((2, 60.0), (5, 150.0), (5, 900.0)):
        exact = competitors + kappa**2 * competitors / (competitors + 1)
        np.testing.assert_allclose(gardner_cost(competitors, kappa), exact, rtol=1e-10)
        mean, deviation = score_moments(competitors, kappa)
        np.testing.assert_allclose(mean, kappa * competitors / (competitors + 1), rtol=1e-10)
        np.testing.assert_allclose(deviation, 1 / np.sqrt(competitors + 1), rtol=1e-6)


def test_the_range_of_integration_follows_a_large_margin():
    np.testing.assert_allclose(gardner_cost(1000, 6.0), 70.4780, atol=5e-4)


@pytest.mark.parametrize(("competitors", "kappa"), [(3, 0.0), (20, 1.0), (20, -1.0), (60, -0.3)])
def test_monte_carlo_over_running_means(competitors, kappa):
    z = np.random.default_rng(competitors).standard_normal((100_000, competitors + 1))
    t = projected(z, kappa)
    squares = np.maximum(t - z[:, 0], 0) ** 2 + np.sum(np.maximum(z[:, 1:] + kappa - t[:, None], 0) ** 2, 1)
    error = np.std(squares) / np.sqrt(len(z))
    assert abs(squares.mean() - gardner_cost(competitors, kappa)) < 4 * error
    mean, deviation = score_moments(competitors, kappa)
    assert abs(t.mean() - mean) < 4 * deviation / np.sqrt(len(z))
    np.testing.assert_allclose(t.std(), deviation, rtol=0.02)
    points = np.quantile(t, [0.01, 0.2, 0.5, 0.9, 0.999])
    cdf = score_cdf(points, competitors, kappa)
    assert np.all(np.abs(cdf - [0.01, 0.2, 0.5, 0.9, 0.999]) < 4 * np.sqrt(cdf * (1 - cdf) / len(z)))


@pytest.mark.parametrize(("competitors", "kappa"), [(1, 0.0), (10, 2.0), (100, -1.0), (1e4, 0.0), (1e4, 2.0)])
def test_twice_the_nodes_change_nothing(competitors, kappa):
    assert abs(_cost(competitors, kappa) - _cost(competitors, kappa, 400, 1600)) < 1e-8


def test_costs_rise_with_competitors_and_margin():
    cost = gardner_cost(np.array([0, 0.5, 1, 1.5, 2, 3.7, 30, 400])[:, None], np.array([-4.0, -1.0, 0.0, 0.3, 2.0]))
    assert np.all(np.diff(cost, axis=0) > 0)
    assert np.all(np.diff(cost[1:], axis=1) > 0)
    np.testing.assert_allclose(cost[1], cost[2] / 2, rtol=1e-14)


def test_mean_number_of_active_competitors_is_the_cost_at_margin_zero():
    z = np.random.default_rng(1).standard_normal((50_000, 31))
    active = np.sum(z[:, 1:] > projected(z, 0.0)[:, None], 1)
    assert abs(active.mean() - gardner_cost(30)) < 4 * active.std() / np.sqrt(len(z))


def test_distribution_function_at_its_ends_and_without_competitors():
    t = np.array([-np.inf, -12.0, -3.0, 0.0, 2.5, 12.0, np.inf])
    np.testing.assert_allclose(score_cdf(t, 0), norm.cdf(t), atol=1e-12)
    for competitors in (1, 1000):
        cdf = score_cdf(np.linspace(-15, 15, 301), competitors, 0.5)
        assert cdf[0] == 0
        assert cdf[-1] == 1
        assert np.all(np.diff(cdf) >= -1e-12)


def test_distribution_function_broadcasts():
    table = score_cdf(np.array([0.0, 1.0])[:, None], np.array([1, 2, 3]), 0.5)
    assert table.shape == (2, 3)
    assert table[1, 2] == score_cdf(1.0, 3, 0.5)
    assert np.ndim(score_cdf(1.0, 3)) == 0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: gardner_cost(-1), "num_competitors"),
        (lambda: gardner_cost([1, np.nan]), "num_competitors"),
        (lambda: gardner_cost(2, np.inf), "kappa"),
        (lambda: gardner_cost(1e9, 1e5), "kappa"),
        (lambda: score_moments(-2), "num_competitors"),
        (lambda: score_cdf(np.nan, 2), "t contains NaN"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
