"""The benchmark frame on a toy: order, ratios, records, failures; and that the NumPy peers solve our problem.

No timing is asserted: where a number matters, the clock is a fake one.
"""

import errno
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import __main__ as entry
from experiments.benchmarks import (
    associative_memory,
    cli,
    dmft,
    growth,
    lora_files,
    panel_peers,
    prox,
    record,
    table,
    tensor_completion,
    timing,
)
from experiments.benchmarks.frame import Contestant, Row, at_most, compile_at_most, faster, time_at_most
from experiments.benchmarks.peers import first_penalty, halrtc, svt_gram, svt_lapack
from experiments.benchmarks.peers import soft_impute_path as numpy_soft_impute_path
from experiments.runner import store
from experiments.runner.contract import RunnerError
from jaxspec.completion import complete_tensor, soft_impute_path
from jaxspec.lora import load_peft
from jaxspec.prox import svt

TOY = '''
"""A toy."""

import jax.numpy as jnp

from experiments.benchmarks.frame import Contestant, Row, at_most


def row(size):
    ours = Contestant(lambda: jnp.ones(size).sum(), "sum", work=2, quality=lambda x: {"error": 0.0})
    peers = {"python": Contestant(lambda: sum([1.0] * size), "loop")}
    return Row("A sum", ours, peers, "term", (at_most("python", 1e9),))


ROWS = {"small": lambda: row(3), "large": lambda: row(5)}
'''


class Clock:
    """A clock that only the contestants move on."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def contestant(self, name, durations, work=1):
        """Takes the given seconds, call by call; the last duration lasts."""
        left = list(durations)

        def call():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return name

        return Contestant(call, name, work=work)


def run(lab, *arguments):
    return cli.main([*arguments, "--rounds", "2", "--out", str(lab.out / "toy.json")], package="fakelab")


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def test_rounds_interleave_the_contestants_ours_first():
    clock = Clock()
    row = Row("", clock.contestant("ours", [1]), {name: clock.contestant(name, [1]) for name in ("a", "b")})
    timing.measure(row, 3, clock=clock, rest_seconds=0)
    assert clock.order == ["ours", "ours", "a", "a", "b", "b", *["ours", "a", "b"] * 3]


def test_ratios_are_taken_within_a_round():
    clock = Clock()
    # the machine slows down tenfold in the second round: the ratio of a round does not see it
    ours = clock.contestant("ours", [9, 1, 1, 10, 3], work=4)
    row = Row("", ours, {"a": clock.contestant("a", [5, 5, 2, 20, 4])}, aims=(at_most("a", 0.5), faster("a", 3)))
    measured = record.row_record("toy.row", row, timing.measure(row, 3, clock=clock, rest_seconds=0))
    assert measured["contestants"]["ours"]["seconds"] == {"median": 0.75, "least": 0.25, "most": 2.5}
    assert measured["contestants"]["ours"]["compile_seconds"] == 6
    assert measured["contestants"]["a"]["ratio"] == {"median": 0.125, "least": 0.125, "most": 0.1875}
    assert [aim["met"] for aim in measured["aims"]] == [True, True]


def test_absolute_aims_look_at_our_time_and_compile_time():
    clock = Clock()
    row = Row("", clock.contestant("ours", [9, 1]), {}, aims=(time_at_most(1), time_at_most(0.9), compile_at_most(7)))
    measured = record.row_record("toy.row", row, timing.measure(row, 1, clock=clock, rest_seconds=0))
    assert [(aim["measured"], aim["met"]) for aim in measured["aims"]] == [(1, True), (1, False), (8, False)]


def test_a_quick_call_is_repeated_until_a_sample_lasts():
    clock = Clock()
    row = Row("", clock.contestant("ours", [1, 1, 2]), {"slow": clock.contestant("slow", [7])})
    timings = timing.measure(row, 2, least_seconds=3, clock=clock, rest_seconds=0)
    assert clock.order[4:] == ["ours"] * 3 + ["slow"] + ["ours"] * 3 + ["slow"]
    assert timings["ours"].seconds.tolist() == [2, 2]


def test_a_row_may_ask_for_fewer_rounds():
    clock = Clock()
    row = Row("", clock.contestant("ours", [1]), {"slow": clock.contestant("slow", [100])}, most_rounds=2)
    counts = [len(timing.measure(row, n, clock=clock, rest_seconds=0)["slow"].seconds) for n in (1, 9)]
    assert counts == [1, 2]


def test_work_may_be_counted_in_the_result():
    row = Row("", Contestant(lambda: jnp.arange(7), "", work=len), {})
    assert timing.measure(row, 1, least_seconds=0, rest_seconds=0)["ours"].work == 7


def test_an_aim_at_nobody_is_refused():
    with pytest.raises(ValueError, match="absent"):
        Row("", Contestant(lambda: 0, ""), {}, aims=(at_most("absent", 1),))


def test_the_command_line_writes_a_record_and_its_table(lab, capsys):
    lab.add("toy", TOY)
    lab.add("not_a_benchmark", '"""Nothing."""\n')
    assert run(lab) == 0
    assert lab.files() == ["toy.json", "toy.md"]
    written = json.loads((lab.out / "toy.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["toy.small", "toy.large"]
    assert {"python", "jax", "jaxlib", "numpy", "scipy", "tensorly"} <= set(written["environment"]["versions"])
    assert written["environment"]["blas"]
    assert "started_at" not in written["environment"]
    assert "filepath" not in json.dumps(written)
    ours, peer = (written["rows"][0]["contestants"][name] for name in ("ours", "python"))
    assert (ours["work"], ours["quality"]) == (2, {"error": 0.0})
    assert {"median", "least", "most"} == set(ours["seconds"]) == set(peer["ratio"])
    page = (lab.out / "toy.md").read_text()
    printed = capsys.readouterr().out
    for text in ("toy.small", "toy.large", "python", "error 0", "≤ 1e+09×: met"):
        assert text in page
        assert text in printed
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert {line.count("|") for line in lines} == {len(table.COLUMNS) + 1}


def test_a_partial_run_keeps_the_other_rows(lab):
    lab.add("toy", TOY)
    assert run(lab) == 0
    before = json.loads((lab.out / "toy.json").read_text())["rows"]
    assert run(lab, "toy.large") == 0
    after = json.loads((lab.out / "toy.json").read_text())["rows"]
    assert after[0] == before[0]
    assert [row["name"] for row in after] == ["toy.small", "toy.large"]


def test_a_partial_run_does_not_mix_environments(lab, capsys):
    lab.add("toy", TOY)
    assert run(lab) == 0
    path = lab.out / "toy.json"
    written = json.loads(path.read_text())
    del written["environment"]["versions"]["osqp"]  # a peer that no row of that record had
    path.write_text(json.dumps(written))
    assert run(lab, "toy.large") == 0
    written["environment"]["cores"] = 1000
    path.write_text(json.dumps(written))
    assert run(lab, "toy.large") == 2
    assert "cores" in one_line(capsys)
    assert json.loads(path.read_text()) == written
    path.write_text("{")
    assert run(lab, "toy.large") == 2
    assert "no record" in one_line(capsys)
    assert run(lab) == 0


def test_a_full_disk_leaves_the_old_record(lab, capsys, monkeypatch):
    lab.add("toy", TOY)
    assert run(lab) == 0
    before = {name: (lab.out / name).read_bytes() for name in lab.files()}

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_flush", full)
    assert run(lab) == 2
    assert "No space left" in one_line(capsys)
    assert {name: (lab.out / name).read_bytes() for name in lab.files()} == before


def test_an_interrupted_run_writes_nothing(lab, capsys):
    lab.add("toy", TOY + "\ndef stop():\n    raise KeyboardInterrupt\n\n\nROWS['last'] = stop\n")
    assert run(lab) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert lab.files() == []


def test_a_missing_peer_is_named_before_anything_is_measured(lab, capsys):
    lab.add("toy", TOY)
    lab.add("zoo", "import jax.numpy as jnp\nimport peer_nobody_has.linalg\n" + TOY)
    assert run(lab) == 2
    message = one_line(capsys)
    assert "zoo needs peer_nobody_has" in message
    assert "jaxspec-lab[bench]" in message
    assert lab.files() == []
    assert run(lab, "toy") == 0


@pytest.mark.parametrize("package", ["threadpoolctl", "scipy.linalg"])
def test_a_package_the_frame_misses_is_named(capsys, monkeypatch, package):
    for name in ("cli", "record", "table"):
        monkeypatch.delitem(sys.modules, f"experiments.benchmarks.{name}")
        monkeypatch.delattr(f"experiments.benchmarks.{name}")
    monkeypatch.setitem(sys.modules, package, None)
    assert entry.main() == 2
    message = one_line(capsys)
    assert package in message
    assert "jaxspec-lab[bench]" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toi"], "did you mean toy?"),
        (["nothing_like_it"], "there are toy"),
        (["toy.smal"], "did you mean toy.small or toy.large?"),
        (["toy", "--rounds", "0"], "at least 1"),
        (["toy", "--rounds", "many"], "--rounds"),
        (["toy", "--out", "record.txt"], ".json"),
        (["toy", "--bogus"], "--bogus"),
    ],
)
def test_wrong_use_is_one_line(lab, capsys, arguments, said):
    lab.add("toy", TOY)
    assert cli.main(arguments, package="fakelab") == 2
    assert said in one_line(capsys)
    assert lab.files() == []


def test_a_device_names_its_record():
    environment = {
        "device": {"backend": "cpu", "kind": "cpu", "count": 8},
        "cores": 2,
        "processor": "Any(R) CPU @ 2GHz",
    }
    assert record.slug(record.device_name(environment)) == "any-cpu-2ghz-2-cores"
    environment["device"] = {"backend": "gpu", "kind": "NVIDIA H100 80GB HBM3", "count": 2}
    assert record.slug(record.device_name(environment)) == "2-nvidia-h100-80gb-hbm3"


def test_numbers_that_json_lacks_become_text():
    row = Row("", Contestant(lambda: 0, "", quality=lambda _: {"NMSE": float("nan")}), {})
    measured = record.row_record("toy.row", row, timing.measure(row, 1, rest_seconds=0))
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    assert "NMSE nan" in table.markdown({"environment": record.environment(), "rows": [measured]})


def test_every_benchmark_defines_its_rows():
    package = "experiments.benchmarks"
    assert cli.benchmarks(package) == [
        "associative_memory",
        "dmft",
        "group_completion",
        "growth",
        "linalg",
        "lora",
        "lora_files",
        "muon_flow",
        "panel_effects",
        "peeled",
        "prox",
        "spectral_optimizers",
        "tensor_completion",
    ]
    assert len(cli.select([], package)) == 9 + 3 + 10 + 8 + 6 + 4 + 1 + 2 + 7 + 3 + 5 + 16 + 16
    assert list(cli.select(["linalg.top_svd_2000x1000"], package)) == ["linalg.top_svd_2000x1000"]
    with pytest.raises(RunnerError, match=r"prox\.svt_50x2500_float32_gram"):
        cli.select(["prox.svt_50x2500_float32_gran"], package)


def test_an_iteration_row_counts_iterations():
    row = tensor_completion.iteration_row((4, 4, 4))
    timings = timing.measure(row, 1, least_seconds=0, rest_seconds=0)
    assert {name: one.work for name, one in timings.items()} == {"ours": 80, "numpy_gram": 80, "numpy_svd": 8}
    assert set(timings["ours"].quality) == {"NMSE"}


@pytest.mark.parametrize("dtype", prox.DTYPES)
@pytest.mark.parametrize("engine", prox.ENGINES)
def test_svt_contestants_do_the_same_work(dtype, engine):
    row = prox.svt_row((6, 20), dtype, engine)
    outputs = [one.call() for one in row.contestants.values()]
    assert {str(output.dtype) for output in outputs} == {dtype}
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    assert all(one.quality(one.call())["error"] < tolerance for one in row.contestants.values())


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
@pytest.mark.parametrize("peer", [svt_gram, svt_lapack])
def test_numpy_thresholding_is_ours(x64, shape, peer):
    x = np.random.default_rng(0).standard_normal(shape)
    for threshold in (0.5, 2.0, 100.0):
        np.testing.assert_allclose(peer(x, threshold), svt(jnp.asarray(x), threshold), atol=1e-12)


def test_numpy_halrtc_reaches_our_optimum(x64):
    rng = np.random.default_rng(1)
    shape = (5, 6, 4)
    data, mask = rng.standard_normal(shape), rng.random(shape) < 0.5
    ours = complete_tensor(jnp.asarray(data), jnp.asarray(mask), tol=1e-9, max_iter=3000)
    assert bool(ours.info.converged)
    hidden = np.where(mask, data, np.nan)
    for peer in (svt_gram, svt_lapack):
        theirs = halrtc(hidden, mask, peer, rho=first_penalty(data, mask), growth=1.0, iterations=3000, tol=1e-10)
        np.testing.assert_allclose(theirs.tensor, ours.tensor, atol=1e-6)
        np.testing.assert_array_equal(theirs.tensor[mask], data[mask])


def test_numpy_halrtc_keeps_float32_and_stops_at_its_tolerance():
    rng = np.random.default_rng(2)
    data, mask = rng.standard_normal((4, 5, 3)).astype(np.float32), rng.random((4, 5, 3)) < 0.6
    rho = first_penalty(data, mask)
    result = halrtc(data, mask, svt_gram, rho=rho, iterations=500, tol=1e-2)
    assert result.tensor.dtype == np.float32
    assert result.iterations < 500
    assert halrtc(data, mask, svt_gram, rho=1e-6 * rho, iterations=3).iterations == 3


@pytest.mark.usefixtures("x64")
def test_numpy_soft_impute_reaches_our_objectives():
    rng = np.random.default_rng(3)
    data, mask = rng.standard_normal((12, 7)), rng.random((12, 7)) < 0.6
    lams = np.array([3.0, 1.0])
    ours = soft_impute_path(jnp.asarray(data), jnp.asarray(mask), lams, tol=1e-10)
    targets = np.asarray(ours.objective) * (1 + 1e-9)
    theirs = numpy_soft_impute_path(data, mask, lams, targets)
    assert (theirs.objectives <= targets).all()
    np.testing.assert_allclose(theirs.tables, ours.M, atol=1e-3)
    assert numpy_soft_impute_path(data, mask, lams, 0 * targets, iterations=3).iterations == 6


def test_the_memory_of_an_adapter_is_measured_in_a_process_of_its_own(tmp_path):
    size = lora_files.write_adapter(tmp_path, 2, 512, 768, 4)
    assert size > 2 * 7 * 2 * 4 * 512 * 2  # bytes of bfloat16
    assert len(load_peft(tmp_path).factors) == 14
    # All of it is in memory at the end; the rest is what a first use of JAX allocates.
    assert 1 <= lora_files.peak_over_file(tmp_path, size) < 500


def test_contestants_find_the_same_margin_and_status():
    row = associative_memory.margin_row(4)
    margins = {name: one.quality(one.call())["margin"] for name, one in row.contestants.items()}
    assert margins["ours"] == pytest.approx(margins["nnls"], rel=1e-3)
    assert margins["osqp"] == pytest.approx(margins["nnls"], rel=2e-2)
    assert 0 < margins["liblinear"] < margins["nnls"] * (1 + 1e-9)  # its hinges are soft
    row = associative_memory.feasibility_row(4)
    assert {one.quality(one.call())["status"] for one in row.contestants.values()} == {1}


def test_contestants_predict_the_same_training():
    row = dmft.sweep_row(2, 3)
    losses = [np.asarray(one.call()) for one in row.contestants.values()]
    assert losses[0].shape == (2 * 2 * len(dmft.WIDTHS),)
    np.testing.assert_allclose(*losses, rtol=1e-10)
    row = dmft.linear_curve_row(20, 4, 2)
    found = {name: one.call() for name, one in row.contestants.items()}
    assert {len(curve[2]) for curve in found.values()} == {4}
    np.testing.assert_allclose(found["simulations"][1], found["ours"][1], rtol=0.3)
    # The fixed point of all times at once is what the causal sweep finds, up to sampling.
    row = dmft.tanh_row(400, 3, 20, 2)
    quality = {name: one.quality(one.call()) for name, one in row.contestants.items()}
    assert quality["ours"]["error of f"] < 0.02
    assert quality["fixed_point"]["error of f"] < 0.02
    assert 1 < quality["fixed_point"]["iterations"] < 20


def test_a_growth_row_fits_the_exponent():
    seconds = iter([0.0, 1.0, 1.0, 5.0])  # a call takes 1 s at size 3 and 4 s at size 6
    calls, called = [lambda: called.append(3), lambda: called.append(6)], []
    row = growth.growth_row("measured", "settings", (3, 6), calls)
    assert called == [3, 6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth.time, "perf_counter", lambda: next(seconds))
        found = row.ours.call()
    assert called == [3, 6, 3, 6]
    assert row.ours.quality(found) == pytest.approx({"s at 3": 1.0, "s at 6": 4.0, "exponent": 2.0})


@pytest.mark.parametrize("name", ["cycle", "theory"])
def test_a_growing_operation_runs_at_its_sizes(name):
    made = {"cycle": growth._cycle, "theory": growth._theory}[name]
    sizes = (4, 5)
    row = growth._operation("measured", "settings", sizes, made, double=True)()
    assert {f"s at {size}" for size in sizes} | {"exponent"} == set(row.ours.quality(row.ours.call()))


def test_an_environment_is_made_once_and_again_when_unfinished(tmp_path, monkeypatch):
    made, installed = [], []
    monkeypatch.setattr(panel_peers.venv, "create", lambda home, **options: (made.append(home.name), home.mkdir()))
    monkeypatch.setattr(panel_peers.subprocess, "run", lambda command, **options: installed.append(command[-1]))
    found = panel_peers._environments(tmp_path)
    assert sorted(made) == sorted(panel_peers.PEERS) == sorted(found)
    assert "pysyncon==1.7.0" in installed
    (tmp_path / "pysyncon" / "installed.txt").unlink()
    monkeypatch.setattr(panel_peers.venv, "create", lambda home, **options: made.append(home.name))
    assert panel_peers._environments(tmp_path) == found
    assert made[len(panel_peers.PEERS) :] == ["pysyncon"]


def test_results_are_waited_for():
    waited = []

    class Pending:
        def block_until_ready(self):
            waited.append(1)
            return self

    row = Row("", Contestant(Pending, ""), {"peer": Contestant(Pending, "")})
    timing.measure(row, 1, least_seconds=0, rest_seconds=0)
    assert len(waited) == 2 * 3
    assert isinstance(jax.block_until_ready(Pending()), Pending)
