"""The page: every paper, its claims with what was measured, its figures, its settings and what it cost, in one file."""

import base64
import html
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.runner import discover, execute, store
from experiments.runner.contract import Claim, RunnerError, Verdict

STYLE = Path(__file__).with_name("page.css")
MIME = {".svg": "image/svg+xml", ".png": "image/png"}
CLASSES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.KNOWN: "known", Verdict.SURPRISE: "fails"}
MARKS = {Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.KNOWN: "≠", Verdict.SURPRISE: "!"}
WIDE = 600  # CSS pixels; a wider figure scrolls inside its frame on a phone instead of becoming unreadable


def presets(out: Path, part: discover.Part) -> list[str]:
    """Presets of an experiment that have a result, quick before full."""
    folder = out / part.folder
    found = [path.parent.name for path in folder.glob(f"[!.]*/{store.META}") if (path.parent / store.ARRAYS).is_file()]
    return sorted(found, key=lambda name: ({"quick": 0, "full": 2}.get(name, 1), name))


def build(papers: list[discover.Paper], out: Path) -> tuple[str, list[str]]:
    """Evaluate everything that has been computed and write it as one page.

    Args:
        papers: The experiments.
        out: Results folder.

    Returns:
        The page, and one line for each result that could not be shown.
    """
    problems: list[str] = []
    runs = {part.name: _evaluate(part, out, problems) for paper in papers for part in paper.parts}
    shown = [run for part_runs in runs.values() for run in part_runs]
    claims = [claim for run in shown for claim in run.claims]
    sections = "\n".join(_paper(paper, runs) for paper in papers)
    contents = "\n".join(_entry(paper, runs) for paper in papers)
    body = f"""
<header>
<h1>jaxspec, measured</h1>
<p class="lead">What the papers claim, the criterion each claim is held to, and what our own code measured.
Everything below was computed from saved arrays; a claim that we measured not to hold stays here with the reason.</p>
<p class="tally">{_tally(claims)}</p>
</header>
{_problems(problems)}
<nav aria-label="Papers"><ul>{contents}</ul></nav>
<main>{sections}</main>
<footer>Written by <code>python -m experiments report</code>{_versions(shown)}.</footer>"""
    return _document(body), problems


def memory(meta: dict[str, Any]) -> str:
    """Peak memory of a run in words, with the accelerator's own where it was counted."""
    text = _bytes(meta["peak_memory_bytes"])
    device = meta.get("peak_device_memory_bytes")
    return f"{text} ({_bytes(device)} on the device)" if device else text


def _evaluate(part: discover.Part, out: Path, problems: list[str]) -> list[execute.Evaluated]:
    evaluated = []
    for preset in presets(out, part):
        try:
            module = discover.load(part)
            evaluated.append(execute.evaluate(part, preset, module, out / part.folder / preset))
        except RunnerError as error:
            problems.append(str(error))
    return evaluated


def _paper(paper: discover.Paper, runs: dict[str, list[execute.Evaluated]]) -> str:
    several = len(paper.parts) > 1 or paper.parts[0].name != paper.name
    blocks = []
    for part in paper.parts:
        if several:
            blocks.append(f'<h3 id="{_id(part.name)}">{_escape(part.title)}</h3>')
        if not runs[part.name]:
            blocks.append(
                f'<p class="empty">Not run yet: <code>python -m experiments run {_escape(part.name)}</code></p>'
            )
        blocks += [_run(run) for run in runs[part.name]]
    note = "".join(f"<p>{_escape(' '.join(text.split()))}</p>" for text in paper.note.split("\n\n") if text.strip())
    return f"""
<section class="paper" id="{_id(paper.name)}">
<h2>{_escape(paper.title)}</h2>
<div class="note">{note}</div>
{"".join(blocks)}
</section>"""


def _run(run: execute.Evaluated) -> str:
    rows = "".join(_claim(claim) for claim in run.claims)
    heads = "".join(f"<th>{head}</th>" for head in ("Verdict", "Claim", "Criterion", "Measured"))
    table = (
        f'<table class="claims"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        if rows
        else '<p class="empty">This experiment makes no claims.</p>'
    )
    figures = "".join(_figure(drawing) for drawing in run.drawings)
    return f"""
<div class="run">
<p class="cost"><span class="preset">{_escape(run.preset)}</span> {_escape(_cost(run.meta))}</p>
{table}
<div class="figures">{figures}</div>
{_settings(run.meta)}
</div>"""


def _claim(claim: Claim) -> str:
    verdict = claim.verdict
    reason = f'<p class="reason">{_escape(claim.known_not_to_hold)}</p>' if claim.known_not_to_hold else ""
    badge = f'<span class="badge {CLASSES[verdict]}"><b aria-hidden="true">{MARKS[verdict]}</b> {verdict.value}</span>'
    return f"""<tr>
<td class="verdict">{badge}</td>
<td class="claim">{_escape(claim.statement)}<p class="source">{_escape(claim.source)}</p>{reason}</td>
<td class="criterion" data-label="Criterion"><span>{_escape(claim.criterion)}</span></td>
<td class="measured" data-label="Measured"><span>{_escape(claim.measured_text)}</span></td>
</tr>"""


def _figure(drawing: execute.Drawing) -> str:
    encoded = base64.b64encode(drawing.contents).decode()
    mime = MIME[Path(drawing.name).suffix]
    caption = _escape(drawing.caption)
    image = f'<img alt="{caption}" width="{drawing.width}" src="data:{mime};base64,{encoded}">'
    frame = "frame wide" if drawing.width > WIDE else "frame"
    return f'<figure><div class="{frame}">{image}</div><figcaption>{caption}</figcaption></figure>'


def _settings(meta: dict[str, Any]) -> str:
    changed = set(meta.get("changed", ()))
    rows = []
    for name, value in meta["config"].items():
        text = value if isinstance(value, str) else json.dumps(value)
        mark = " <em>(not the preset's)</em>" if name in changed else ""
        rows.append(f"<div><dt>{_escape(name)}{mark}</dt><dd>{_escape(text)}</dd></div>")
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    machine = f"{meta['platform']}, {meta['cores']} cores; {meta['device']['count']} × {meta['device']['kind']}"
    facts = {"versions": versions, "machine": machine, "started": meta["started_at"], "sources": meta["fingerprint"]}
    if meta.get("xla_flags"):
        facts["compiler"] = meta["xla_flags"]
    rows += [f"<div><dt>{name}</dt><dd>{_escape(text)}</dd></div>" for name, text in facts.items()]
    hint = f" ({len(changed)} changed from the preset)" if changed else ""
    return f"<details><summary>Settings, versions, machine{hint}</summary><dl>{''.join(rows)}</dl></details>"


def seconds(meta: dict[str, Any]) -> str:
    """What a run took: on the clock, and on the processor where that was measured."""
    processor = f" ({meta['processor_seconds']:.1f} s of processor)" if "processor_seconds" in meta else ""
    return f"{meta['seconds']:.1f} s{processor}"


def _cost(meta: dict[str, Any]) -> str:
    device = meta["device"]
    where = f"{meta['cores']} CPU cores" if device["backend"] == "cpu" else f"{device['count']} × {device['kind']}"
    return f"{seconds(meta)} · peak {memory(meta)} · {where} · seed {meta['seed']}"


def _entry(paper: discover.Paper, runs: dict[str, list[execute.Evaluated]]) -> str:
    claims = [claim for part in paper.parts for run in runs[part.name] for claim in run.claims]
    tally = _tally(claims) if claims else '<span class="empty">not run yet</span>'
    return f'<li><a href="#{_id(paper.name)}">{_escape(paper.title)}</a> <span class="tally">{tally}</span></li>'


def _tally(claims: Iterable[Claim]) -> str:
    verdicts = [claim.verdict for claim in claims]
    badges = [
        f'<span class="badge {CLASSES[verdict]}"><b aria-hidden="true">{MARKS[verdict]}</b> '
        f"{verdicts.count(verdict)} {_escape(_plural(verdict, verdicts.count(verdict)))}</span>"
        for verdict in Verdict
        if verdict in verdicts
    ]
    return " ".join(badges) or '<span class="empty">nothing has been run yet</span>'


def _plural(verdict: Verdict, count: int) -> str:
    return (
        verdict.value if count == 1 else {"holds": "hold", "does not hold": "do not hold"}.get(verdict, verdict.value)
    )


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{_escape(problem)}</li>" for problem in problems)
    return f'<div class="problems"><p>Not shown:</p><ul>{items}</ul></div>'


def _versions(runs: list[execute.Evaluated]) -> str:
    found = {f"{name} {version}" for run in runs for name, version in run.meta["versions"].items()}
    return f"; {', '.join(sorted(found))}" if found else ""


def _document(body: str) -> str:
    head = textwrap.dedent("""\
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>jaxspec, measured</title>""")
    return f"{head}\n<style>\n{STYLE.read_text()}</style>\n</head>\n<body>{body}\n</body>\n</html>\n"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _id(name: str) -> str:
    return _escape(name.replace(".", "-").replace("_", "-"))


def _escape(text: str) -> str:
    return html.escape(str(text))
