import math

import numpy as np
import pytest

from jaxspec.linalg.coefficients import (
    ns_error,
    ns_schedule,
    optimal_quintic,
    qdwh_schedule,
    qdwh_weights,
    root_schedule,
)

QDWH = {
    1e1: (1.3e-1, 4.7e-5),
    1e2: (4.9e-1, 4.8e-3, 1.8e-9),
    1e3: (7.5e-1, 3.7e-2, 8.4e-7),
    1e4: (0.88, 1.1e-1, 2.8e-5),
    1e5: (0.95, 0.23, 2.6e-4, 2.8e-13),
    1e7: (0.99, 0.47, 3.9e-3, 9.7e-10),
}
ROOTS = {
    (2, 1e1): (1.1e-2, 8e-8),
    (2, 1e3): (0.19, 4.1e-4, 5e-12),
    (2, 1e5): (0.47, 8.0e-3, 3.2e-8),
    (3, 1e1): (8.7e-3, 1.1e-7),
    (3, 1e3): (0.15, 5.4e-4),
    (3, 1e5): (0.38, 1.0e-2, 1.8e-7),
    (3, 1e7): (0.60, 4.5e-2, 1.5e-5),
    (4, 1e3): (0.12, 5.0e-4),
    (4, 1e5): (0.31, 9.4e-3, 2.6e-7),
}
NEWTON_SCHULZ = {
    1e-1: (0.45, 0.063, 1.5e-4),
    1e-2: (0.92, 0.71, 0.27, 1.3e-2, 1.2e-6),
    1e-3: (0.99, 0.96, 0.86, 0.55, 0.11, 9.2e-4, 5e-10),
}


def agrees(value, printed):
    """To 5 %, or to half a unit of the last of the two digits printed, or to rounding."""
    digit = 10.0 ** (math.floor(math.log10(printed)) - (0 if printed in (8e-8, 5e-10) else 1))
    return abs(value - printed) <= max(0.05 * printed, 0.5 * digit, 1e-12)


def differing(measured, table):
    """Pairs (measured, printed) that do not agree."""
    return [pair for pair in zip(measured, table, strict=True) if not agrees(*pair)]


@pytest.mark.parametrize("kappa", QDWH)
def test_qdwh_bounds_of_the_table(kappa):
    table = QDWH[kappa]
    steps = qdwh_schedule(1 / kappa, table[-1] * 1.5)
    assert differing([1 - step.l for step in steps], table) == []


def test_qdwh_needs_six_steps_at_the_end_of_float64():
    assert len(qdwh_schedule(1e-16, 1e-13)) in (5, 6)


@pytest.mark.parametrize("kappa", [1e1, 1e4])
def test_qdwh_step_maps_the_interval_onto_its_bound(kappa):
    step = qdwh_weights(1 / kappa)
    s = np.geomspace(1 / kappa, 1, 20001)
    image = s * (step.a + step.b * s**2) / (1 + step.c * s**2)
    np.testing.assert_allclose([image.min(), image.max()], [step.l, 1], rtol=1e-7)


@pytest.mark.parametrize(("b", "kappa"), ROOTS)
def test_root_errors_of_the_table(b, kappa):
    table = ROOTS[b, kappa]
    schedule = root_schedule(b, 1 / kappa, table[-1] * 1.5)
    assert differing(schedule.errors, table) == []


@pytest.mark.parametrize(
    ("b", "triple"),
    [(2, (0.858526, 0.171576, 0.005828)), (3, (0.924545, 0.093216, 0.010728)), (4, (0.94754, 0.070364, 0.014212))],
)
def test_first_root_step(b, triple):
    schedule = root_schedule(b, 1e-3, 1e-3)
    np.testing.assert_allclose(schedule.steps[0], triple, rtol=1e-4)


@pytest.mark.parametrize("b", [2, 3, 5])
@pytest.mark.parametrize("kappa", [3.0, 1e2, 1e5])
def test_root_composition_attains_its_stated_error(b, kappa):
    schedule = root_schedule(b, 1 / kappa, 1e-5)
    y = h = np.geomspace(1 / kappa, 1, 20001)
    product = np.ones_like(h)
    for gain, zero, pole in schedule.steps:
        factor = gain * (y + zero) / (y + pole)
        product, y = product * factor, y * factor**b
    np.testing.assert_allclose(np.abs(product * h ** (1 / b) - 1).max(), schedule.errors[-1], rtol=1e-2, atol=1e-14)


@pytest.mark.parametrize("l", NEWTON_SCHULZ)
def test_newton_schulz_errors_of_the_table(l):  # noqa: E741
    assert differing([ns_error(l, k + 1) for k in range(len(NEWTON_SCHULZ[l]))], NEWTON_SCHULZ[l]) == []


def test_newton_schulz_errors_at_the_smallest_interval():
    assert differing([ns_error(1e-5, k) for k in (8, 9, 10)], (0.17, 3.3e-3, 2.3e-8)) == []


def test_first_optimal_quintic():
    np.testing.assert_allclose(optimal_quintic(1e-3, 1.0), (8.470329, -25.108075, 18.629276), rtol=1e-6)


def test_quintic_scales_with_its_interval():
    a, b, c = optimal_quintic(0.02, 2.0)
    np.testing.assert_allclose(np.array([a * 2, b * 8, c * 32]), optimal_quintic(0.01, 1.0), rtol=1e-9)


@pytest.mark.parametrize(("steps", "cubics"), [(3, 0), (6, 0), (9, 0), (5, 2), (4, 4)])
def test_schedule_error_is_that_of_the_composition(steps, cubics):
    s = np.geomspace(1e-2, 1, 20001)
    x = s
    for a, b, c in ns_schedule(1e-2, steps, cubics=cubics):
        x = a * x + b * x**3 + c * x**5
    np.testing.assert_allclose(np.abs(x - 1).max(), ns_error(1e-2, steps, cubics=cubics), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("l", [1e-3, 0.2, 0.9, 1.0])
def test_one_cubic_is_minimax(l):  # noqa: E741
    ((a, b, c),) = ns_schedule(l, 1, cubics=1)
    x = np.linspace(l, 1, 20001)

    def worst(a, b):
        return np.abs(1 - a * x - b * x**3).max()

    assert c == 0
    np.testing.assert_allclose(worst(a, b), ns_error(l, 1, cubics=1), atol=1e-7)
    around = [worst(a * (1 + p), b * (1 + q)) for p in (-1e-3, 0, 1e-3) for q in (-1e-3, 0, 1e-3)]
    assert min(around) >= worst(a, b) - 1e-12


def test_margin_keeps_values_beyond_the_interval_bounded():
    x = np.geomspace(1e-3, 1.01, 1001)
    for a, b, c in ns_schedule(1e-3, 10, margin=1e-2, cushion=40.0):
        x = a * x + b * x**3 + c * x**5
    assert np.abs(x).max() < 1.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qdwh_weights(0.0), "l is 0.0"),
        (lambda: qdwh_weights(1.5), "l is 1.5"),
        (lambda: qdwh_schedule(0.1, 0.0), "tol is 0.0"),
        (lambda: root_schedule(1, 0.1, 0.1), "b is 1"),
        (lambda: root_schedule(2, 1.0, 0.1), "l is 1.0"),
        (lambda: optimal_quintic(1.0, 1.0), "l is 1.0"),
        (lambda: optimal_quintic(0.1, math.inf), "u is inf"),
        (lambda: ns_schedule(0.1, 0), "steps is 0"),
        (lambda: ns_error(math.nan, 2), "l is nan"),
        (lambda: ns_schedule(0.1, 2, cubics=3), "cubics is 3"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
