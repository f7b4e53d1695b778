"""The page: self-contained, escaped, complete, and made anew from the saved arrays."""

import re
from html.parser import HTMLParser

import matplotlib
from matplotlib.figure import Figure

from experiments.runner import execute, style

VOID = {"meta", "img"}


class Balance(HTMLParser):
    """Checks that every tag is closed, and gathers what the page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.problems, self.loads, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attributes if name in {"src", "href", "srcset", "data"}]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def page(lab):
    assert lab.run("report") == 0
    text = (lab.out / "index.html").read_text()
    parser = Balance()
    parser.feed(text)
    assert parser.problems == []
    assert parser.open == []
    return text, parser


def test_the_page_loads_nothing_from_elsewhere(lab):
    lab.add("solo")
    lab.run("run", "solo")
    text, parser = page(lab)
    assert {value.partition(":")[0] for value in parser.loads} == {"data", "#solo"}
    assert not re.search(r"url\(|@import|<script|<link|https?://", text)


def test_every_claim_is_there_and_escaped(lab):
    lab.add("solo")
    lab.add(
        "other",
        replace=[
            ("Values stay <small>", "Others <i>fall</i>"),
            ('2.0, quantity="largest"', '-9, known_not_to_hold="<why>"'),
        ],
    )
    lab.run("run", "--all")
    text, parser = page(lab)
    words = " ".join(parser.text)
    for phrase in (
        "Values stay <small> & tame",
        "Others <i>fall</i> & tame",
        "<why>",
        "Theorem 1",
        "largest ≤ 2",
        "0.3",
    ):
        assert phrase in words
    assert "<small>" not in text
    assert "<i>" not in text
    assert "known not to hold" in words


def test_settings_cost_and_citation_are_shown(lab):
    lab.add("solo")
    lab.run("run", "solo", "--size", "7")
    _, parser = page(lab)
    words = " ".join(" ".join(parser.text).split())
    for phrase in ("An Author (2026)", "size (not the preset's) 7", "[0.5, 0.25]", "seed 0", "jaxlib", "peak"):
        assert phrase in words


def test_claims_are_checked_anew_from_the_saved_arrays(lab):
    lab.add("solo")
    lab.run("run", "solo")
    lab.add("solo", replace=[("2.0", "-1.0")])
    text, _ = page(lab)
    assert "does not hold" in text
    assert lab.calls("solo") == 1


def test_figures_are_drawn_again_when_sources_or_files_changed_and_not_otherwise(lab, monkeypatch):
    lab.add("solo")
    lab.run("run", "solo")
    drawn, draw = [], execute.draw
    monkeypatch.setattr(execute, "draw", lambda *figure: drawn.append(figure[1]) or draw(*figure))
    first, _ = page(lab)
    assert drawn == []
    (figure,) = (lab.out / "solo/quick/figures").iterdir()
    before = figure.read_bytes()
    figure.unlink()
    assert page(lab)[0] == first
    assert drawn == ["Values & steps"]
    assert figure.read_bytes() == before
    lab.add("solo", replace=[("plot(result.values)", "plot(-result.values)")])
    assert page(lab)[0] != first
    assert drawn == ["Values & steps"] * 2


def test_what_was_not_run_says_how_to_run_it(lab):
    lab.add("folder.first")
    lab.add("solo")
    text, _ = page(lab)
    assert "python -m experiments run folder.first" in text
    assert "nothing has been run yet" in text


def test_presets_stand_side_by_side(lab):
    lab.add("solo")
    lab.run("run", "solo")
    lab.run("run", "solo", "--preset", "full")
    text, _ = page(lab)
    assert re.findall(r'class="preset">(\w+)', text) == ["quick", "full"]


def test_a_result_that_no_longer_fits_is_named_and_the_rest_is_shown(lab, capsys):
    lab.add("solo")
    lab.add("other")
    lab.run("run", "--all")
    lab.add("solo", replace=[("    names: np.ndarray", "    words: np.ndarray")])
    text, _ = page(lab)
    assert "solo, preset quick: its fields changed" in text
    assert "Values stay" in text
    assert "solo, preset quick" in capsys.readouterr().err


def test_large_drawings_become_png_and_small_ones_stay_svg(monkeypatch):
    figure = Figure()
    figure.subplots().plot([1, 2])
    small = execute.draw(1, "A line, 50³", figure)
    monkeypatch.setattr(execute, "LARGEST_SVG", 10)
    large = execute.draw(2, "", figure)
    assert (small.name, large.name) == ("01-a-line-50.svg", "02-figure.png")
    assert large.contents.startswith(b"\x89PNG")


def test_the_look_leaves_matplotlibs_settings_alone():
    before = dict(matplotlib.rcParams)
    figure, axes = style.subplots(1, 2)
    style.image(axes[0, 0], [[0.0, 2.0]], "clipped")
    style.band(axes[0, 1], [0, 1], [[1.0, 2.0], [3.0, 4.0]], label="seeds", color=style.BLUE)
    assert dict(matplotlib.rcParams) == before
    assert axes.shape == (1, 2)
    assert axes[0, 0].images[0].get_array().max() == 1.0
    assert figure.get_figwidth() == 2 * 4.2
