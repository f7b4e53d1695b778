"""Which modules are experiments, and what is said about the ones that almost are."""

import pytest

from experiments.runner import discover
from experiments.runner.contract import RunnerError


def find():
    return discover.discover("fakelab")


def test_papers_parts_titles_and_citations_are_found_without_importing(lab):
    lab.add("solo", replace=[("import dataclasses", "import dataclasses, no_such_package")])
    lab.add("folder.second")
    lab.add("folder.first")
    papers = {paper.name: paper for paper in find()}
    assert [part.name for part in papers["folder"].parts] == ["folder.first", "folder.second"]
    assert (papers["folder"].title, papers["folder"].note) == ("A paper in parts", "Its citation.")
    assert papers["solo"].title == "A small experiment about <spectra> & numbers"
    assert papers["solo"].note.startswith("An Author (2026)")


def test_runner_benchmarks_helpers_and_hidden_names_are_not_experiments(lab):
    for name in ("_draft", "runner.one", "benchmarks.two"):
        lab.add(name)
    lab.add("helper", source='"""Shared."""\nVALUE = 1\n')
    assert find() == []


def test_a_module_that_misses_a_piece_is_an_error_naming_it(lab):
    lab.add("solo", replace=[("def figures", "def pictures")])
    with pytest.raises(RunnerError, match=r"solo.py looks like an experiment but does not define figures"):
        find()


def test_a_folder_of_experiments_without_a_title_is_an_error_naming_the_file(lab):
    lab.add("folder.first")
    (lab.root / "folder" / "__init__.py").unlink()
    with pytest.raises(RunnerError, match=r"folder holds experiments and no __init__.py"):
        find()


def test_selection_keeps_order_and_drops_repeats(lab):
    lab.add("solo")
    lab.add("folder.first")
    lab.add("folder.second")
    chosen = discover.select(find(), ["folder.second", "solo", "folder"])
    assert [part.name for part in chosen] == ["folder.second", "solo", "folder.first"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import dataclasses", "import no_such_package", r"needs no_such_package.*jaxspec-lab\[experiments\]"),
        ("frozen=True", "frozen=False", "frozen dataclass"),
        ("    seed: int = 0\n", "", "field `seed: int`"),
        ("    size: int = 4  # rows\n", "    size: int = 4\n    force: int = 0\n", "names .'force'. of the runner"),
        ("class Result(NamedTuple)", "class Result(dict)", "must be a NamedTuple"),
    ],
)
def test_a_broken_contract_is_said_in_one_line(lab, old, new, message):
    lab.add("solo", replace=[(old, new)])
    with pytest.raises(RunnerError, match=message):
        discover.load(find()[0].parts[0])


def test_fingerprint_sees_the_part_its_helpers_and_not_its_siblings(lab):
    lab.add("folder.first")
    lab.add("folder.second")

    def prints():
        return {part.name: discover.fingerprint(part) for part in find()[0].parts}

    before = prints()
    lab.add("folder.second", replace=[("2.0", "3.0")])
    after_sibling = prints()
    (lab.root / "folder" / "_shared.py").write_text("VALUE = 1\n")
    after_helper = prints()
    assert before["folder.first"] == after_sibling["folder.first"]
    assert before["folder.second"] != after_sibling["folder.second"]
    assert after_sibling["folder.first"] != after_helper["folder.first"]
