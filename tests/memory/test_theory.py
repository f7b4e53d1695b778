"""Capacity, margin, spectra and the Hebbian rule, against the specification's tables, limits and Monte Carlo."""

import jax
import numpy as np
import pytest
from scipy import special
from scipy.integrate import quad

from jaxspec.memory import theory

DIMENSIONS = [10, 16, 20, 32, 40, 64, 128, 256, 512, 1024]
CRITICAL = [30.5883, 61.6519, 86.8738, 182.2105, 261.0129, 564.3656, 1812.866, 5993.203, 20274.63, 69881.79]
CONSTANTS = [1.046307, 0.992573, 0.969611, 0.926206, 0.907765, 0.872962, 0.830159, 0.795458, 0.767006, 0.743390]


@pytest.fixture(scope="module")
def critical():
    return theory.critical_p(DIMENSIONS)


def test_critical_p_of_the_table(critical):
    np.testing.assert_allclose(critical, CRITICAL, rtol=2e-6)
    np.testing.assert_allclose(critical * np.log(critical) / np.square(DIMENSIONS), CONSTANTS, rtol=2e-6)


def test_critical_p_lies_on_the_critical_line(critical):
    np.testing.assert_allclose(critical * theory.gardner_cost(critical - 1), np.square(DIMENSIONS), rtol=1e-11)


@pytest.mark.parametrize(("p", "constant"), [(1e6, 0.70496), (1e8, 0.66192)])
def test_the_constant_falls_logarithmically(p, constant):
    np.testing.assert_allclose(np.log(p) / theory.gardner_cost(p - 1), constant, atol=6e-6)


def test_cost_approaches_its_asymptote():
    """``2 L - 3 log(2 L) - log(2 pi) + 3 + o(1)``, L = log p."""
    logs = np.log(np.array([1e2, 1e4, 1e6, 1e8]))
    asymptote = 2 * logs - 3 * np.log(2 * logs) - np.log(2 * np.pi) + 3
    rest = np.abs(theory.gardner_cost(np.exp(logs) - 1) - asymptote)
    assert np.all(np.diff(rest) < 0)


def test_smallest_dimension_and_large_margins():
    assert theory.critical_p(1) == pytest.approx(2, rel=1e-9)  # 2 D(1, 0) = 1
    falling = theory.critical_p(4, [-0.5, 0.0, 0.5, 2.0, 20.0])
    assert np.all(np.diff(falling) < 0)
    assert falling[-1] > 1


def test_margin_inverts_critical_p():
    np.testing.assert_allclose(theory.margin([130, 208], 40), [1.4711, 0.4379], atol=6e-5)
    np.testing.assert_allclose(theory.critical_p(40, theory.margin(130, 40)), 130, rtol=1e-9)


def test_margin_ends_at_capacity():
    np.testing.assert_array_equal(theory.margin([87, 100, 5000], 20), 0)
    assert 0 < theory.margin(86, 20) < 0.02
    assert theory.margin(2, 1000) == pytest.approx(np.sqrt(1e6 - 2), rel=1e-6)  # 2 (kappa^2 / 2 + 1) = d^2


def test_kyfan_mass_of_the_table():
    np.testing.assert_allclose(
        theory.kyfan_mass([0, 0.1, 0.25, 0.5, 0.75, 1]), [0, 0.313568, 0.622913, 0.893731, 0.987048, 1], atol=6e-7
    )


def test_kyfan_mass_integrates_the_quarter_circle():
    for cut in (0.3, 1.0, 1.9):
        share = quad(theory.quarter_circle, cut, 2)[0]
        mass = quad(lambda s: s * s * theory.quarter_circle(s), cut, 2)[0]
        assert theory.kyfan_mass(share) == pytest.approx(mass, abs=1e-8)
    np.testing.assert_array_equal(theory.quarter_circle([-1.0, 2.0, 3.0]), 0)
    assert quad(theory.quarter_circle, 0, 2)[0] == pytest.approx(1, abs=1e-8)


def test_a_rank_bound_lowers_capacity():
    bounded = theory.critical_p(12, width=[1, 3, 6, 11, 12, 40])
    assert np.all(np.diff(bounded[:5]) > 0)
    assert bounded[4] == bounded[5] == theory.critical_p(12)
    np.testing.assert_allclose(bounded[:5] * theory.gardner_cost(bounded[:5] - 1), 144 * masses(12, [1, 3, 6, 11, 12]))


def masses(d, widths):
    squares = np.linalg.svd(np.random.default_rng(0).standard_normal((256, d, d)), compute_uv=False) ** 2
    return np.array([squares[:, :width].sum() / 256 / d**2 if width < d else 1.0 for width in widths])


def test_finite_mass_meets_the_quarter_circle():
    d = 99
    below = theory.critical_p(d, width=25)
    p = theory.critical_p(d)
    line = d * d * theory.kyfan_mass(25 / d)
    assert below < p
    assert below * theory.gardner_cost(below - 1) == pytest.approx(line, rel=0.01)
    above = theory.critical_p(100, width=25)
    assert above * theory.gardner_cost(above - 1) == pytest.approx(1e4 * theory.kyfan_mass(0.25), rel=1e-9)


@pytest.mark.parametrize("model", ["original", "decoupled"])
@pytest.mark.parametrize("embedding", ["gaussian", "sphere"])
@pytest.mark.parametrize(("p", "d"), [(10, 24), (60, 24), (50, 48)])
def test_hebbian_accuracy_is_that_of_simulated_memories(p, d, model, embedding):
    rng, draws = np.random.default_rng(p), 60
    recalled = [_recalled(rng, p, d, model, embedding) for _ in range(draws)]
    error = np.std(recalled, ddof=1) / np.sqrt(draws)
    # The theory is off by at most .008 at d = 24, in 72 longer simulations.
    assert abs(np.mean(recalled) - theory.hebbian_accuracy(p, d, model, embedding)) < 4 * error + 0.008


def _recalled(rng, p, d, model, embedding):
    def vectors(*shape):
        v = rng.standard_normal((*shape, d))
        return v / (np.sqrt(d) if embedding == "gaussian" else np.linalg.norm(v, axis=-1, keepdims=True))

    x, y = vectors(p), vectors(p)
    images = x @ x.T @ y
    rivals = images @ y.T if model == "original" else np.stack([vectors(p) @ image for image in images])
    np.fill_diagonal(rivals, -np.inf)
    return np.mean(np.sum(images * y, axis=1) > rivals.max(1))


@pytest.mark.parametrize(("p", "embedding"), [(66, "gaussian"), (105, "sphere")])
def test_hebbian_memories_recall_everything_half_of_the_time_at_the_critical_p(p, embedding):
    """At d = 64, where normal scores of one variance, independent of each other, would put it at 34 and 85."""
    rng, draws = np.random.default_rng(1), 200
    assert round(float(theory.hebbian_critical_p(64, embedding=embedding))) == p
    every = np.mean([_recalled(rng, p, 64, "original", embedding) == 1 for _ in range(draws)])
    assert abs(every - 0.5) < 4 * 0.5 / np.sqrt(draws)


def test_hebbian_theory_tends_to_that_of_independent_normal_scores():
    p, d = 4e6, 1e4
    u, step = np.linspace(-10, 10, 4001, retstep=True)
    limit = step * np.sum(np.exp((p - 1) * special.log_ndtr(d / np.sqrt(p) + u) - u * u / 2)) / np.sqrt(2 * np.pi)
    for model in ("original", "decoupled"):
        for embedding in ("gaussian", "sphere"):
            assert theory.hebbian_accuracy(p, d, model, embedding) == pytest.approx(limit, abs=0.01)


@pytest.mark.parametrize("model", ["original", "decoupled"])
@pytest.mark.parametrize("embedding", ["gaussian", "sphere"])
def test_hebbian_roots_satisfy_their_criterion(model, embedding):
    p = theory.hebbian_critical_p(24, model, embedding, "all")
    assert theory.hebbian_accuracy(p, 24, model, embedding) ** p == pytest.approx(0.5, rel=1e-8)
    more = theory.hebbian_critical_p(24, model, embedding, criterion="fraction")
    assert theory.hebbian_accuracy(more, 24, model, embedding) == pytest.approx(0.5, rel=1e-8)
    assert more > 2 * p


def test_hebbian_accuracy_falls_with_the_number_of_pairs():
    for embedding in ("gaussian", "sphere"):
        assert np.all(np.diff(theory.hebbian_accuracy([1, 2, 3, 10, 60, 1000], 20, embedding=embedding)) <= 0)
        assert np.all(np.isfinite(theory.hebbian_accuracy(5, [1, 1.5, 2, 3, 4], embedding=embedding)))


def test_kinematic_cost_of_one_generator_and_of_the_plane():
    mean, error = theory.kinematic_cost(jax.random.key(1), 2, 7, num_samples=400)
    assert abs(mean - 0.5) < 4 * error  # a half-line: E (u_+)^2
    mean, error = theory.kinematic_cost(jax.random.key(2), 60, 2, "sphere", num_samples=400)
    # Generators in the plane from a point of the circle: they span nearly the half-plane behind it.
    assert abs(mean - 1.5) < 4 * error + 0.05


def test_kinematic_cost_approaches_the_quadrature():
    mean, error = theory.kinematic_cost(jax.random.key(3), 12, 40, num_samples=400)
    assert abs(mean - theory.gardner_cost(11)) < 4 * error + 0.05 * mean
    assert theory.kinematic_cost(jax.random.key(3), 12, 40, num_samples=400) == (mean, error)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: theory.critical_p(0), "d is 0"),
        (lambda: theory.critical_p(10, np.nan), "kappa"),
        (lambda: theory.critical_p(10, width=0), "width"),
        (lambda: theory.critical_p(10, width=2.5), "width"),
        (lambda: theory.margin(1, 10), "p is 1"),
        (lambda: theory.margin(10, 0.5), "d is 0.5"),
        (lambda: theory.kyfan_mass(1.1), "gamma"),
        (lambda: theory.quarter_circle(np.nan), "s is nan"),
        (lambda: theory.hebbian_accuracy(0, 3), "p is 0"),
        (lambda: theory.hebbian_accuracy(5, 3, model="paper"), "model"),
        (lambda: theory.hebbian_critical_p(5, embedding="cube"), "embedding"),
        (lambda: theory.hebbian_critical_p(5, criterion="most"), "criterion"),
        (lambda: theory.kinematic_cost(jax.random.key(0), 1, 3), "p is 1"),
        (lambda: theory.kinematic_cost(jax.random.key(0), 5, 0), "d is 0"),
        (lambda: theory.kinematic_cost(jax.random.key(0), 5, 3, "cube"), "embedding"),
        (lambda: theory.kinematic_cost(jax.random.key(0), 5, 3, num_samples=1), "num_samples"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
