"""`identify_factors` against controls whose matrices do not fill the space, as those of low-rank adapters."""

import numpy as np
import pytest

from jaxspec.lora import identify_factors

D, LAYERS = 96, 8


def unit(rng):
    x = rng.normal(size=D)
    return x / np.linalg.norm(x)


def drawn(rng, rank, *terms):
    """Noise, and directions of given strengths in units of the largest singular value of one matrix of noise."""
    edge, adapter = np.sqrt(D) + np.sqrt(rank), {}
    for i in range(LAYERS):
        b = rng.normal(size=(D, rank))
        for u, strength in terms:
            g = rng.normal(size=rank)
            b = b + strength * edge * np.outer(u, g / np.linalg.norm(g))
        a = np.linalg.qr(rng.normal(size=(rank + 5, rank)))[0].T
        adapter[f"layers.{i}.down"] = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    return adapter


def found(adapter, controls):
    return identify_factors(adapter, roles=lambda path: "writes", reference=controls)


@pytest.mark.parametrize("rank", [2, 16])  # of all matrices of a control: 16 and 128, below and above D
@pytest.mark.parametrize("seed", [0, 1])
def test_controls_that_share_nothing_change_no_direction(rank, seed):
    rng = np.random.default_rng([rank, seed])
    u = unit(rng)
    adapter = drawn(rng, rank, (u, 1.0))
    report = found(adapter, [drawn(rng, rank) for _ in range(2)])
    plain = identify_factors(adapter, roles=lambda path: "writes")
    assert int(report.n_factors) == 1
    np.testing.assert_allclose(report.directions, plain.directions, atol=1e-4)
    assert abs(u @ np.asarray(report.directions[:, 0])) > 0.9
    assert float(report.reference.value[0]) > 4


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_what_controls_share_and_chance_are_no_factors(rank, strength):
    rng = np.random.default_rng([rank, int(strength)])
    common = unit(rng)
    terms = [(common, strength)] if strength else []
    report = found(drawn(rng, rank, *terms), [drawn(rng, rank, *terms) for _ in range(2)])
    assert int(report.n_factors) == 0
    assert float(report.reference.value[0]) < 2.5  # of chance, 1 and its spread: few rows are along any direction


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_factor_of_matrices_of_rank_one_is_one(seed):
    """What is left of them has a linear relation, which the null of the second factor has as well."""
    rng = np.random.default_rng([9, seed])
    u, common = unit(rng), unit(rng)
    report = identify_factors(drawn(rng, 1, (u, 2.0)), roles=lambda path: "writes")
    assert int(report.n_factors) == 1
    report = found(drawn(rng, 1, (common, 2.0)), [drawn(rng, 1, (common, 2.0)) for _ in range(2)])
    assert int(report.n_factors) == 0


@pytest.mark.parametrize("rank", [2, 16])
def test_a_factor_beside_what_controls_share_is_found_as_if_alone(rank):
    rng = np.random.default_rng(rank)
    u, common = unit(rng), unit(rng)
    u -= (u @ common) * common
    u /= np.linalg.norm(u)
    state = rng.bit_generator.state
    alone = identify_factors(drawn(rng, rank, (u, 1.0)), roles=lambda path: "writes")
    rng.bit_generator.state = state
    adapter = drawn(rng, rank, (u, 1.0), (common, 2.0))
    report = found(adapter, [drawn(rng, rank, (common, 2.0)) for _ in range(2)])
    assert int(report.n_factors) == 1
    cosines = [abs(u @ np.asarray(each.directions[:, 0])) for each in (report, alone)]
    assert cosines[0] > cosines[1] - 0.03


def test_a_shared_direction_of_which_the_adapter_has_more_is_its_factor():
    rng = np.random.default_rng(0)
    common = unit(rng)
    report = found(drawn(rng, 16, (common, 3.0)), [drawn(rng, 16, (common, 1.0)) for _ in range(2)])
    assert int(report.n_factors) == 1
    assert abs(common @ np.asarray(report.directions[:, 0])) > 0.9
