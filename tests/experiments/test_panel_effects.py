"""The parts of the panel paper run end to end at a size of seconds; their claims on made-up results; the generator."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.panel_effects._panels import Design, autoregressive, draw, proposition_99, row_errors
from experiments.runner.contract import Verdict
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
)

SMALL = {
    "rates": {"seeds": 2, "square": (12, 20), "periods": 12, "tall": (20,), "bound_shapes": ((12, 16),)},
    "confounding": {"seeds": 2, "side": 16},
    "ranks": {
        "seeds": 1,
        "first_seeds": 1,
        "shapes": ((14, 16),),
        "staggered": (14, 16),
        "correlated": (14, 16),
        "block": 4,
    },
    "coverage": {
        "intervals": 24,
        "side": 16,
        "shapes": (),
        "uneven": (16, 18),
        "averages": ((16, 18, 0.35, 0.65),),
        "draws": 2,
        "small": (16, 24, 0.35, 0.65),
    },
    "proposition_99": {"ranks": 1, "sweeps": 2, "flip_ceiling": 2},
    "staggered": {"panels": 2, "shape": (24, 16), "missing": 0.02},
}


def load(name):
    return importlib.import_module(f"experiments.panel_effects.{name}")


LEAST_CLAIMS = 5


part = part_fixture("panel_effects", SMALL)


# Claims on made-up results.


def rates_result(worse):
    module = load("rates")
    n = np.array([100, 200, 400] * 2)
    m = np.array([100, 200, 400, 100, 100, 100])
    rate = np.sqrt(1 / n + n / m**2)
    falls = n ** (-0.1 if worse else -0.5) * np.where(np.arange(6) < 3, 1, 1)
    largest = rate * (20 * n / 100) if worse else 6 * np.where(np.arange(6) < 3, rate, rate[3])
    largest[3:] = largest[3:] if not worse else 20 * rate[3:] * n[3:] / 100
    one, two = largest[:, None], largest[:, None] * (1.2 if worse else 0.4)
    methods = np.stack([one, two], axis=1)
    bound = np.array([0.9 if worse else 1.0]), np.array([9.0 if worse else 3.0]), np.array([1.5 if worse else 0.5])
    rms = np.stack([falls[:, None]] * 2, axis=1)
    return module.Result(np.repeat([0, 1], 3), n, m, methods, rms, rate, *bound)


def confounding_result(worse):
    module = load("confounding")
    good = [[0.0, 0.7, -0.01, 0.02, -0.01, 0.005], [0.15, 0.16, 0.16, 0.01, 0.0, 0.005]]
    bad = [[0.0, 0.1, -0.1, 0.02, -0.05, 0.05], [0.15, 0.16, 0.16, 0.01, 0.1, 0.05]]
    error = [[0.1, 0.8, 0.1, 0.15, 0.11, 0.08], [0.22, 0.3, 0.22, 0.1, 0.09, 0.2 if worse else 0.07]]
    shape = lambda x: np.asarray(x)[..., None]  # noqa: E731
    pairs = np.zeros((2, 7, 3))
    names = np.asarray(module.DESIGNS), np.asarray(module.METHODS)
    return module.Result(*names, shape(bad if worse else good), shape(error), pairs)


def ranks_result(worse):
    module = load("ranks")
    hits = np.full((2, 4), 0.5 if worse else 1.0)
    chosen = np.full((2, 5, 2), 8)
    chosen[1] = 8 if worse else np.array([2, 4])
    return module.Result(np.array([[60, 60], [100, 400]]), hits, np.array([1, 0.4, 0.2]), np.zeros(3), chosen)


def coverage_result(worse):
    module = load("coverage")
    names = np.asarray(["Gaussian", "AR(1) errors, treatment in spells"])
    coverage = np.array([0.8 if worse else 0.95, 0.7])
    terciles = np.array([[0.99, 0.96, 0.85], [0.95, 0.95, 0.85 if worse else 0.94]])
    averages = np.asarray(["40 x 80"]), np.array([[0.9, 0.9]]), np.ones((1, 2)), 100
    small = np.full(2, 0.8 if worse else 0.95), np.ones(2)
    return module.Result(names, coverage, np.ones(2), np.array([1500] * 2), terciles, *averages, *small)


def proposition_result(worse):
    module = load("proposition_99")
    shift = 1 if worse else 0.0
    att = np.array([[60.0, *(module.PROTOTYPE_ATT[:2] + shift)], [-27.3491 + shift, -23.0, -24.0]])
    block = np.array([-44.0, 60.0]), np.ones(2) if worse else np.full(2, 0.4), np.full(2, not worse)
    names, values = zip(*module.PEERS, strict=True)
    flips = 6, not worse, not worse
    table = np.full((2, 3), 0.1), np.full((2, 3), 15.0)
    return module.Result(np.arange(3), att, *table, *block, *flips, np.asarray(names), np.asarray(values))


def staggered_result(worse):
    module = load("staggered")
    z = np.random.default_rng(0).standard_normal((2, 4, 2, 400))
    far = np.array([5.0 if worse else 0.0, 0.0, 20.0, 20.0])[:, None, None]
    error = 0.05 * (z[:, :1] * (1.5 if worse else 1) + far)
    error[1, :, :, 0] += 0 if worse else 50
    shape = (2, 4, 400)
    motion = np.full(shape, 0.2 if worse else 5.0)
    units, rmse = np.full((2, 4), 0.8 if worse else 0.95), np.full((2, 4), 0.3)
    rmse[:, 0] *= 1.5 if worse else 1
    flags = motion, np.full(shape, 2), np.zeros(shape, bool)
    return module.Result(
        np.asarray(module.DESIGNS), np.asarray(module.METHODS), error, np.full(error.shape, 0.05), units, rmse, *flags
    )


MADE_UP = {
    "rates": rates_result,
    "confounding": confounding_result,
    "ranks": ranks_result,
    "coverage": coverage_result,
    "proposition_99": proposition_result,
    "staggered": staggered_result,
}


@pytest.mark.parametrize("name", MADE_UP)
def test_claims_hold_on_a_result_like_the_specification_and_keep_their_reasons_where_they_do_not(name):
    claims = load(name).claims(MADE_UP[name](False))
    assert [claim.statement for claim in claims if claim.verdict in (Verdict.FAILS, Verdict.SURPRISE)] == []


@pytest.mark.parametrize("name", MADE_UP)
def test_every_claim_fails_on_a_result_unlike_it(name):
    claims = load(name).claims(MADE_UP[name](True))
    assert [claim.statement for claim in claims if claim.holds] == []


# The panels.


def test_the_effect_of_a_unit_is_that_of_every_period():
    panel = draw(jax.random.key(0), Design((7, 9), sigma=0.0))
    np.testing.assert_allclose(panel.A1 - panel.A0, jnp.broadcast_to(panel.tau[:, None], (7, 9)), atol=1e-6)
    np.testing.assert_allclose(panel.Y, jnp.where(panel.D, panel.A1, panel.A0), atol=1e-6)
    np.testing.assert_allclose(row_errors(panel.A1 - panel.A0 + 2.0, panel), 2.0, rtol=1e-5)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_arms_have_their_rank(rank):
    panel = draw(jax.random.key(1), Design((12, 10), rank=rank))
    for arm in (panel.A0, panel.A1):
        assert np.linalg.matrix_rank(np.asarray(arm), tol=1e-4) == rank


def test_propensities_vary_within_a_unit_only_if_asked():
    for within in (False, True):
        panel = draw(jax.random.key(2), Design((6, 8), within=within, low=0.15, high=0.85))
        assert float(panel.p.min()) >= 0.15
        assert float(panel.p.max()) <= 0.85
        assert bool(np.ptp(panel.p, axis=1).max() > 0.05) is within


def test_spells_of_treatment_share_their_status():
    D = np.asarray(draw(jax.random.key(3), Design((20, 12), spell=4)).D).reshape(20, 3, 4)
    assert (D[..., :1] == D).all()
    assert 0.2 < D.mean() < 0.8


def test_autoregressive_errors_have_their_correlation():
    e = np.asarray(autoregressive(jax.random.key(4), (400, 100), 0.5))
    assert e.std() == pytest.approx(1, abs=0.02)
    assert np.mean(e[:, 1:] * e[:, :-1]) == pytest.approx(0.5, abs=0.02)
    assert np.mean(e[:, 2:] * e[:, :-2]) == pytest.approx(0.25, abs=0.02)


def test_proposition_99_has_the_means_that_were_published_with_it():
    Y, D, states = proposition_99()
    california = states.index("California")
    assert Y.shape == D.shape == (39, 31)
    assert D.sum() == 12
    assert D[california, 19:].all()
    others = np.delete(Y, california, axis=0)
    means = [Y[california, :19], Y[california, 19:], others[:, :19], others[:, 19:]]
    np.testing.assert_allclose([x.mean() for x in means], [116.2105, 60.35, 130.5695, 102.0581], atol=1e-4)


# Peers in interpreters of their own.


def test_a_peer_is_run_by_its_own_interpreter_and_keeps_its_row(tmp_path, capsys, monkeypatch):
    from experiments.benchmarks import panel_peers

    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, sys\nimport numpy as np\n"
        "file = np.load(sys.argv[2])\nshape = file['Y'].shape\n"
        "arms = np.stack([np.zeros(shape), np.ones(shape)], axis=1).tolist()\n"
        "found = {'versions': {'peer': '1'}, 'seconds': [1.0] * shape[0], 'estimates': arms}\n"
        "json.dump(found, open(sys.argv[3], 'w'))\n"
    )
    monkeypatch.setattr(panel_peers, "WORKER", worker)
    out = tmp_path / "record.json"
    words = ["--peer", f"fancyimpute={sys.executable}", "--sides", "40", "--panels", "2", "--designs", "row"]
    skipped = [name for name in panel_peers.OURS if name != "difference in means"]
    for _ in range(2):
        assert panel_peers.main([*words, "--skip", *skipped, "--out", str(out)]) == 0
    capsys.readouterr()
    rows = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in rows] == ["fancyimpute, soft_impute", "jaxspec, difference in means"]
    assert all(np.isfinite(row["rmse"]).all() and len(row["rmse"]) == 2 for row in rows)
    assert str(Path(sys.executable).parent) not in out.read_text()
    assert "fancyimpute, soft_impute 1" in out.with_suffix(".md").read_text()


def test_the_worker_names_the_package_it_lacks(tmp_path):
    from experiments.benchmarks import panel_peers

    done = subprocess.run(
        [sys.executable, str(panel_peers.WORKER), "soft_impute", "none.npz", str(tmp_path / "out.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "fancyimpute" in done.stderr
