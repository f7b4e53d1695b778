"""The command line: what is computed, what is skipped, and what every kind of failure says and leaves."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.runner import cli, store
from experiments.runner.compilation import QUICK

STRICT = [
    ("2.0", "2.0", 0),
    ("2.0", "-1.0", 1),
    ('quantity="largest"', 'known_not_to_hold="reason"', 1),
    ('2.0, quantity="largest"', '-1.0, known_not_to_hold="reason"', 0),
    ("result.values, 2.0", 'float("nan"), 2.0', 1),
]


def one_line(capsys):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") == 1, error
    return error


def test_results_claims_figures_and_costs_are_saved(lab):
    lab.add("solo")
    assert lab.run("run", "solo") == 0
    assert lab.files() == [f"solo/quick/{name}" for name in ("arrays.npz", "figures/01-values-steps.svg", "meta.json")]
    meta = json.loads((lab.out / "solo/quick/meta.json").read_text())
    assert meta["config"] == {"seed": 0, "size": 4, "rates": [0.5, 0.25]}
    assert {"python", "jax", "jaxlib", "numpy", "jaxspec"} <= set(meta["versions"])
    assert meta["claims"][0]["verdict"] == "holds"
    assert meta["seconds"] > 0
    assert meta["processor_seconds"] > 0
    assert meta["peak_memory_bytes"] > 1e6
    assert {"started_at", "device", "platform", "cores", "fingerprint", "seed"} <= set(meta)


def test_finished_work_is_not_computed_again(lab, capsys):
    lab.add("solo")
    assert [lab.run("run", "solo"), lab.run("run", "solo")] == [0, 0]
    assert lab.calls("solo") == 1
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--force"], ["--seed", "3"], ["--size", "5"], ["--rates", "0.1", "0.2"]])
def test_force_and_changed_numbers_compute_again(lab, flags):
    lab.add("solo")
    assert [lab.run("run", "solo"), lab.run("run", "solo", *flags)] == [0, 0]
    assert lab.calls("solo") == 2


def test_a_changed_source_computes_again(lab):
    lab.add("solo")
    lab.run("run", "solo")
    lab.add("solo", replace=[("0.1 * step", "0.2 * step")])
    lab.run("run", "solo")
    assert lab.calls("solo") == 2
    assert store.load(lab.out / "solo/quick").arrays["values"].max() == pytest.approx(0.6)


def test_typed_flags_reach_the_config_and_are_marked_as_changed(lab):
    lab.add("solo")
    assert lab.run("run", "solo", "--preset", "full", "--size", "6", "--rates", "0.1") == 0
    meta = json.loads((lab.out / "solo/full/meta.json").read_text())
    assert meta["config"] == {"seed": 0, "size": 6, "rates": [0.1]}
    assert meta["changed"] == ["size", "rates"]


def test_a_folder_runs_all_parts_or_one_and_all_runs_everything(lab):
    lab.add("folder.first")
    lab.add("folder.second")
    lab.add("solo")
    assert lab.run("run", "folder.second") == 0
    assert (lab.calls("folder.first"), lab.calls("folder.second")) == (0, 1)
    assert lab.run("run", "folder") == 0
    assert lab.run("run", "--all", "--strict") == 0
    assert [lab.calls(name) for name in ("folder.first", "folder.second", "solo")] == [1, 1, 1]
    assert (lab.out / "folder/first/quick/arrays.npz").is_file()


@pytest.mark.parametrize(("old", "new", "status"), STRICT)
def test_strict_fails_when_a_claim_falls_and_when_a_fallen_one_holds(lab, old, new, status):
    lab.add("solo", replace=[(old, new)])
    assert lab.run("run", "solo") == 0
    assert lab.run("run", "solo", "--strict") == status


def test_list_shows_titles_and_what_is_computed(lab, capsys):
    lab.add("solo")
    lab.run("run", "solo", "--preset", "full")
    capsys.readouterr()
    assert lab.run("list") == 0
    output = capsys.readouterr().out
    assert "A small experiment about <spectra> & numbers" in output
    assert "full" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "sol"], "no experiment is called 'sol'; did you mean solo?"),
        (["run", "solo", "--preset", "quik"], "no preset 'quik'; did you mean quick?"),
        (["run", "solo", "--preset", "zzz"], "it has quick, full"),
        (["run", "solo", "--sise", "3"], "no flag --sise; did you mean --size"),
        (["run", "solo", "--size", "many"], "--size: invalid literal for int"),
        (["run", "solo", "--size"], "Missing value for argument '--size'"),
        (["run", "solo", "--seed", "x"], "--seed: invalid int value"),
        (["run", "--all", "--size", "3"], "--size belongs to one experiment; 2 are selected"),
        (["run", "--all", "solo"], "not both"),
        (["run"], "which experiment? name one of other, solo"),
        (["walk"], "invalid choice: 'walk'"),
        (["report", "solo"], "report does not know 'solo'"),
    ],
)
def test_wrong_use_is_one_line_and_computes_nothing(lab, capsys, arguments, message):
    lab.add("solo")
    lab.add("other")
    assert lab.run(*arguments) == cli.BAD_USE
    assert message in one_line(capsys)
    assert lab.calls("solo") == 0
    assert not lab.out.exists()


def test_a_wrong_preset_in_the_last_experiment_stops_before_the_first(lab, capsys):
    lab.add("first")
    lab.add("second", replace=[('"full":', '"huge":')])
    assert lab.run("run", "--all", "--preset", "full") == cli.BAD_USE
    assert "second has no preset 'full'" in one_line(capsys)
    assert lab.calls("first") == 0


def test_a_results_folder_that_cannot_be_written_is_found_before_computing(lab, capsys):
    lab.add("solo")
    lab.out.write_text("a file where the folder should be")
    assert lab.run("run", "solo") == cli.BAD_USE
    assert "cannot write" in one_line(capsys)
    assert lab.run("report") == cli.BAD_USE
    assert "cannot write" in one_line(capsys)
    assert lab.calls("solo") == 0


def test_a_full_disk_is_one_line_and_leaves_no_folder(lab, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lab.add("solo")
    monkeypatch.setattr(np, "savez", full)
    assert lab.run("run", "solo") == cli.BAD_USE
    assert "No space left on device" in one_line(capsys)
    assert list((lab.out / "solo").iterdir()) == []


def test_an_experiment_that_raises_leaves_no_result(lab):
    lab.add("solo", replace=[("    return Result(", "    raise ZeroDivisionError\n    return Result(")])
    with pytest.raises(ZeroDivisionError):
        lab.run("run", "solo")
    assert list((lab.out / "solo").iterdir()) == []


def test_an_unsupported_field_is_named(lab):
    lab.add("solo", replace=[('["α", "beta"]', "None")])
    with pytest.raises(TypeError, match="field 'names'"):
        lab.run("run", "solo")
    assert lab.files() == []


def test_a_fault_in_claims_keeps_the_computed_arrays(lab):
    lab.add("solo", replace=[("    return [Claim", "    raise ZeroDivisionError\n    return [Claim")])
    with pytest.raises(ZeroDivisionError):
        lab.run("run", "solo")
    assert lab.files() == ["solo/quick/arrays.npz", "solo/quick/meta.json"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_or_a_kill_leaves_nothing_and_the_next_run_starts_clean(lab, tmp_path, how):
    waiting = 'calls.write_text(".")\n    import time\n    time.sleep(60)\n'
    lab.add("first")
    lab.add("second", replace=[('calls.write_text(calls.read_text() + "." if calls.exists() else ".")\n', waiting)])
    root = os.path.dirname(os.path.dirname(os.path.dirname(cli.__file__)))
    # A shell's background jobs ignore the interrupt, and so would their children.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    snippet = f"{heard}; import sys; from experiments.runner.cli import main; sys.exit(main(package='fakelab'))"
    process = subprocess.Popen(
        [sys.executable, "-c", snippet, "run", "--all", "--out", str(lab.out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([root, str(tmp_path)]), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while lab.calls("second") == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # it has written its mark and is about to sleep: the signal shall meet it there, not in a finaliser
    process.send_signal(how)
    _, error = process.communicate(timeout=30)
    assert process.returncode == (cli.INTERRUPTED if how is signal.SIGINT else -how), error
    assert ("interrupted" in error) == (how is signal.SIGINT)
    assert "Traceback" not in error
    assert {name.split("/")[0] for name in lab.files()} == {"first"}
    lab.add("second")
    assert lab.run("run", "--all") == 0
    assert lab.calls("first") == 1
    assert (lab.out / "second/quick/arrays.npz").is_file()


def test_a_missing_extra_is_named_by_the_entry_point(run_python):
    hide = "import sys; sys.modules['tyro'] = None; sys.argv = ['experiments', 'list']\n"
    done = run_python(hide + "from experiments.__main__ import main; sys.exit(main())", check=False)
    assert done.returncode == cli.BAD_USE
    assert done.stderr == "error: tyro is not installed: pip install 'jaxspec-lab[experiments]'\n"


def test_help_of_an_experiment_lists_its_own_flags(lab, capsys):
    lab.add("solo")
    assert lab.run("run", "solo", "--help") == 0
    output = capsys.readouterr().out
    assert "--rates" in output
    assert "share observed" in output
    assert "--strict" in output
    assert lab.calls("solo") == 0


def test_several_at_a_time_give_what_one_at_a_time_gives(lab, capsys):
    lab.add("first")
    lab.add("second", replace=[("result.values, 2.0", "result.values, 0.1")])
    assert lab.run("run", "--all", "--jobs", "2", "--strict") == cli.STRICT_FAILURE
    output = capsys.readouterr().out
    assert "2 claims: 1 holds" in output
    found = {name: store.load(lab.out / name / "quick").arrays["values"] for name in ("first", "second")}
    assert lab.run("run", "--all", "--force") == cli.OK
    for name, values in found.items():
        np.testing.assert_array_equal(values, store.load(lab.out / name / "quick").arrays["values"])
        assert lab.calls(name) == 2


@pytest.mark.parametrize(
    ("preset", "given", "expected"), [("quick", None, QUICK), ("quick", "", ""), ("full", None, "")]
)
def test_quick_ones_at_a_time_are_compiled_quickly_unless_told_otherwise(lab, monkeypatch, preset, given, expected):
    monkeypatch.delenv("XLA_FLAGS")
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    for name in ("first", "second"):
        lab.add(name)
    assert lab.run("run", "--all", "--jobs", "2", "--preset", preset) == cli.OK
    for name in ("first", "second"):
        assert store.load(lab.out / name / preset).meta["xla_flags"] == expected


def test_a_process_that_dies_or_raises_keeps_the_finished_results(lab, capsys):
    lab.add("first")
    lab.add("second", replace=[("    return Result(", "    import os; os._exit(9)\n    return Result(")])
    lab.add("third")
    assert lab.run("run", "first", "third", "--jobs", "2") == cli.OK
    assert lab.run("run", "--all", "--jobs", "2") == cli.BAD_USE
    assert "a process died" in one_line(capsys)
    assert {name.split("/")[0] for name in lab.files()} == {"first", "third"}
    lab.add("second", replace=[("    return Result(", "    raise ZeroDivisionError\n    return Result(")])
    with pytest.raises(ZeroDivisionError):
        lab.run("run", "--all", "--jobs", "2")


def test_programs_are_forgotten_only_when_there_are_many():
    import jax

    from experiments.runner import workers

    traced = []
    counted = jax.jit(lambda x: traced.append(x) or x)
    for maps, count in ((10**9, 1), (0, 2)):
        counted(1.0)
        workers.forget_programs(maps)
        counted(1.0)
        assert len(traced) == count
