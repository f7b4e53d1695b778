"""What a build adds to the pages: figures and claims of results/, the recorded benchmarks, the changelog.

The pages that receive them exist as sources with an introduction, so that links to them need no build.
"""

import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("mkdocs.hooks.jaxspec")

RESULTS, RECORDS, CHANGELOG = Path("results"), Path("experiments/benchmarks/results"), Path("CHANGELOG.md")
FIGURES = "gallery"  # folder of the site
MISSING = (
    "**There were no results when this page was built.** `make reproduce` computes every experiment at its quick "
    "preset (minutes on two cores) and keeps the results in `results/`; `make docs` then puts their figures and claims "
    "here."
)


class Run(NamedTuple):
    """A saved result.

    Attributes:
        folder: where it lies, relative to the results: paper, part, preset.
        meta: settings, versions, device, cost and claims.
        figures: files, in the order in which the experiment gives them.
    """

    folder: Path
    meta: dict[str, Any]
    figures: list[Path]


def saved_runs(results: Path) -> list[Run]:
    """Every saved result, in the order of its name; none where the folder is missing."""
    runs = []
    for path in sorted(results.glob("**/meta.json")):
        folder = path.parent.relative_to(results)
        if not any(part.startswith(".") for part in folder.parts):
            runs.append(Run(folder, json.loads(path.read_text()), sorted((path.parent / "figures").glob("*.*"))))
    return runs


def gallery(runs: list[Run]) -> str:
    """The page's part that depends on results, as Markdown."""
    if not runs:
        return MISSING
    papers: dict[str, list[Run]] = {}
    for run in runs:
        papers.setdefault(run.folder.parts[0], []).append(run)
    sections = [_paper(name, members) for name, members in papers.items()]
    return "\n\n".join([_tally(runs), *sections])


def benchmarks(records: Path) -> str:
    """The recorded tables, as Markdown, their headings one level down."""
    tables = "\n\n".join(path.read_text().strip() for path in sorted(records.glob("*.md")))
    lower = re.sub(r"^#", "##", tables, flags=re.MULTILINE)
    return re.sub(r"^  - ", "    - ", lower, flags=re.MULTILINE)  # a list within a list is four columns in


def on_files(files: Any, config: Any) -> Any:
    """Adds the figures to the site."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    runs = saved_runs(root / RESULTS)
    if not runs:
        log.info("no results in %s: the gallery stays empty until `make reproduce` has run", root / RESULTS)
    for run in runs:
        for figure in run.figures:
            files.append(File.generated(config, _place(run, figure), abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Completes the three pages that show what lies outside docs/."""
    root = Path(config.config_file_path).parent
    if page.file.src_uri == "gallery.md":
        return f"{markdown}\n\n{gallery(saved_runs(root / RESULTS))}\n"
    if page.file.src_uri == "benchmarks.md":
        return f"{markdown}\n\n{benchmarks(root / RECORDS)}\n"
    if page.file.src_uri == "changelog.md":
        return (root / CHANGELOG).read_text()
    return markdown


def _tally(runs: list[Run]) -> str:
    verdicts = [claim["verdict"] for run in runs for claim in run.meta.get("claims", [])]
    kinds = [(verdicts.count(kind), kind) for kind in ("holds", "known not to hold", "does not hold")]
    surprises = verdicts.count("holds unexpectedly")
    counts = ", ".join(f"{count} {kind}" for count, kind in [*kinds, (surprises, "holds unexpectedly")] if count)
    return f"{len(runs)} results, {len(verdicts)} claims: {counts}."


def _paper(name: str, runs: list[Run]) -> str:
    return "\n\n".join([f"## {name}", *("\n\n".join(_run(run)) for run in runs)])


def _run(run: Run) -> Iterator[str]:
    meta = run.meta
    yield f"### {meta['name']}, {meta['preset']}"
    versions, device = meta["versions"], meta["device"]
    yield (
        f"Seed {meta['seed']}, {meta['seconds']:.0f} s on {device['count']} {device['kind']} "
        f"({meta['cores']} cores), jax {versions['jax']}, Python {versions['python']}."
    )
    claims = [
        f"| {_cell(claim['statement'])}{_reason(claim)} | {_cell(claim['criterion'])} | {_number(claim['measured'])} "
        f"| {claim['verdict']} |"
        for claim in meta.get("claims", [])
    ]
    if claims:
        yield "\n".join(["| claim | criterion | measured | verdict |", "| --- | --- | --- | --- |", *claims])
    captions = meta.get("figures", {})
    for figure in run.figures:
        caption = captions.get(figure.name) or figure.stem.split("-", 1)[-1].replace("-", " ")
        yield f"![{_cell(caption)}]({_place(run, figure)})\n\n*{_cell(caption)}*"


def _place(run: Run, figure: Path) -> str:
    return (Path(FIGURES) / run.folder / figure.name).as_posix()


def _reason(claim: dict[str, Any]) -> str:
    return f" ({_cell(claim['known_not_to_hold'])})" if claim["known_not_to_hold"] else ""


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    """Plain text in a table of Markdown."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
