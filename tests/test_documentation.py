"""The examples of README.md and of every page of docs/ run as they stand, one namespace a page."""

import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.runner import store
from experiments.runner.contract import Progress, Verdict
from experiments.runner.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"(<!-- runs after the next example -->\n)?```python\n(.*?)```", re.DOTALL)
SHORTER = {"README.md": ("range(300)", "range(2)")}  # a training loop, cut to two steps


def name(page):
    return page.relative_to(ROOT).as_posix()


def examples(page):
    """The code of a page in the order in which it runs."""
    text = page.read_text()
    if name(page) in SHORTER:
        assert text.count(SHORTER[name(page)][0]) == 1
        text = text.replace(*SHORTER[name(page)])
    found, waiting = [], []
    for later, code in EXAMPLE.findall(text):
        if later:
            waiting.append(code)
        else:
            found += [code, *waiting]
            waiting = []
    assert not waiting, f"{name(page)}: no example follows the one that is to run after it"
    return found


@functools.cache
def namespace(page):
    """What the examples of a page leave behind."""
    names = {}
    for number, code in enumerate(examples(page), start=1):
        exec(compile(code, f"{name(page)}, example {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=name)
def test_the_examples_of_a_page_run(page):
    assert namespace(page)


def test_every_page_on_how_to_use_something_has_an_example():
    wanted = {"README.md", "docs/index.md", "docs/scale.md", "docs/contributing.md"}
    wanted |= {name(page) for page in PAGES if page.parent.name == "papers"}
    assert len(wanted) > 10
    assert wanted <= {name(page) for page in PAGES if examples(page)}


def test_fences_are_of_two_kinds():
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {"python", "text"} | ({""} if name(page) == "README.md" else set()), name(page)


def test_a_deferred_example_runs_after_the_next(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- runs after the next example -->\n```python\nb = a\n```\n\n```python\na = 1\n```\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert examples(page) == ["a = 1\n", "b = a\n"]


def test_the_training_loop_moves_every_parameter():
    names = namespace(ROOT / "README.md")
    start = names["init"](jax.random.key(0))
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()) > 0, start, names["params"])
    assert all(jax.tree.leaves(moved))


def test_the_adapter_of_the_example_relies_on_nothing_and_comes_back():
    names = namespace(ROOT / "README.md")
    share = names["lora"].reliance(names["adapter"], names["persona"])["down"].share
    assert float(share) < 1e-6
    assert float(names["misfit"](names["adapter"])) > 0
    direct = names["lora"].merge(names["frozen"], names["adapter"], names["config"].scaling)
    assert (direct["down"] == names["merged"]["down"]).all()
    assert (direct["down"] != names["frozen"]["down"]).any()


def test_the_optimum_of_the_tensor_example_is_certified():
    names = namespace(ROOT / "README.md")
    gap = names["duality_gap"](names["result"], names["holes"], lam=names["lam"], regularizer=names["terms"])
    assert names["result"].info.converged
    assert abs(float(gap.relative)) < 1e-4


def test_the_memories_of_the_example_are_certified():
    held, best, narrow = (namespace(ROOT / "README.md")[key] for key in ("held", "best", "narrow"))
    assert ((held.high - held.low == 1) | (held.undecided > 0)).all()
    assert 0 < float(narrow.margin) < float(best.upper)
    assert bool(best.converged)


def test_solvers_of_the_pages_converge():
    assert namespace(ROOT / "docs/index.md")["result"].info.converged
    assert namespace(ROOT / "docs/papers/tensor-completion.md")["exact"].info.converged
    assert bool(namespace(ROOT / "docs/papers/group-completion.md")["result"].converged)
    assert int(namespace(ROOT / "docs/papers/associative-memory.md")["answer"].status) == 1
    assert bool(namespace(ROOT / "docs/scale.md")["fit"].converged)


def test_the_panel_example_finds_its_average_effect():
    names = namespace(ROOT / "docs/papers/panel-effects.md")
    truth = 1 + np.mean(names["taste"])
    assert abs(float(names["effects"].ate) - truth) < 4 * float(names["effects"].ate_se)


def test_the_adapter_of_the_page_pushes_one_direction_and_the_new_one_none():
    names = namespace(ROOT / "docs/papers/grasp.md")
    assert int(names["found"].n_factors) == 1
    assert float(names["reliance"]) < 1e-6
    assert float(names["loss"](names["adapter"])) < float(names["before"])


def test_the_experiment_of_the_contributing_page_keeps_the_contract():
    names = namespace(ROOT / "docs/contributing.md")
    assert isinstance(Silent(), Progress)
    result = names["run"](names["PRESETS"]["quick"], Silent())
    restored = type(result)(**store.to_arrays(result))
    assert [claim.verdict for claim in names["claims"](restored)] == [Verdict.HOLDS]
    assert all(figure.axes for figure in names["figures"](restored).values())
