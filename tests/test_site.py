"""What a build of the documentation adds to its pages, from results written by a fake experiment and from none."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLAIM = {
    "statement": "Values stay <small> & |tame|",
    "criterion": "largest |s_1| ≤ 2",
    "measured": 1.23456789,
    "verdict": "holds",
    "known_not_to_hold": "",
}
KNOWN = CLAIM | {"measured": "nan", "verdict": "known not to hold", "known_not_to_hold": "it depends on `c`"}
META = {
    "name": "paper.part",
    "preset": "quick",
    "seed": 7,
    "seconds": 12.4,
    "cores": 2,
    "versions": {"jax": "0.10.2", "python": "3.11.7"},
    "device": {"count": 1, "kind": "cpu"},
    "claims": [CLAIM, KNOWN],
    "figures": {"01-error.svg": "Error | against *n*"},
}


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results" / "paper" / "part" / "quick"
    (folder / "figures").mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(META))
    for name in ("02-second-figure.png", "01-error.svg"):
        (folder / "figures" / name).write_bytes(b"")
    half = tmp_path / "results" / "paper" / "part" / ".quick.interrupted"
    half.mkdir()
    (half / "meta.json").write_text("{}")
    return tmp_path / "results"


def test_without_results_the_gallery_says_how_to_make_them(hooks, tmp_path):
    assert hooks.saved_runs(tmp_path / "results") == []
    page = hooks.gallery([])
    assert "make reproduce" in page
    assert "make docs" in page


def test_the_gallery_shows_claims_and_figures_of_saved_runs(hooks, results):
    (run,) = hooks.saved_runs(results)
    page = hooks.gallery([run])
    assert page.startswith("1 results, 2 claims: 1 holds, 1 known not to hold.")
    assert "## paper\n\n### paper.part, quick\n\nSeed 7, 12 s on 1 cpu (2 cores), jax 0.10.2, Python 3.11.7." in page
    first = "![Error \\| against \\*n\\*](gallery/paper/part/quick/01-error.svg)"
    second = "![second figure](gallery/paper/part/quick/02-second-figure.png)"
    assert page.index(first) < page.index(second)


def test_text_of_claims_is_no_markup(hooks, results):
    page = hooks.gallery(hooks.saved_runs(results))
    rows = [line for line in page.splitlines() if line.startswith("| Values")]
    text = "Values stay &lt;small&gt; &amp; \\|tame\\|"
    assert rows == [
        f"| {text} | largest \\|s\\_1\\| ≤ 2 | 1.235 | holds |",
        f"| {text} (it depends on \\`c\\`) | largest \\|s\\_1\\| ≤ 2 | nan | known not to hold |",
    ]


def test_recorded_benchmarks_come_one_heading_lower(hooks):
    page = hooks.benchmarks(ROOT / "experiments" / "benchmarks" / "results")
    records = sorted((ROOT / "experiments" / "benchmarks" / "results").glob("*.md"))
    assert records
    for record in records:
        assert f"#{record.read_text().splitlines()[0]}" in page
    assert not any(line.startswith("# ") for line in page.splitlines())


class Page:
    """The two attributes of a page that the hooks read."""

    def __init__(self, source):
        self.file = self
        self.src_uri = source


class Config:
    """The one attribute of a configuration that the hooks read."""

    config_file_path = str(ROOT / "mkdocs.yml")


@pytest.mark.parametrize(
    ("source", "text"),
    [("benchmarks.md", "## Benchmarks on"), ("changelog.md", "## [Unreleased]"), ("gallery.md", "# a page\n\n")],
)
def test_pages_are_completed(hooks, source, text):
    assert text in hooks.on_page_markdown("# a page\n", page=Page(source), config=Config, files=None)


def test_other_pages_are_left_alone(hooks):
    assert hooks.on_page_markdown("# a page\n", page=Page("index.md"), config=Config, files=None) == "# a page\n"
