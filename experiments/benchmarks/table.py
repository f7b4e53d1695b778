"""Tables of a record: for a terminal, and as Markdown."""

from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.benchmarks.record import device_name

COLUMNS = ("benchmark", "who", "time per", "least to most", "compile", "ours / peer", "quality", "aim")
NOTE = (
    "Median over interleaved rounds in one process (ours, peer, peer, ours, ...), least and most beside it; "
    "ours / peer: median (least to most) of the ratios within a round; compile: first call minus a steady one."
)


def terminal(rows: list[dict[str, Any]]) -> Table:
    """The table that is printed."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in ("benchmark", "who"))
    for row in rows:
        for cells in _lines(row):
            missed = "missed" in cells[-1]
            table.add_row(*(Text(cell) for cell in cells[:-1]), Text(cells[-1], style="yellow" if missed else "green"))
    return table


def markdown(record: dict[str, Any]) -> str:
    """The page that is committed."""
    environment, rows = record["environment"], record["rows"]
    lines = [f"# Benchmarks on {device_name(environment)}", "", f"{NOTE} Never asserted by a test.", ""]
    lines += [f"- {line}" for line in _environment_lines(environment)]
    lines += ["", _markdown_row(COLUMNS), _markdown_row(["---"] * len(COLUMNS))]
    lines += [_markdown_row(cells) for row in rows for cells in _lines(row)]
    lines += ["", "## What was measured", ""]
    for row in rows:
        lines.append(f"- **{row['name']}** ({row['rounds']} rounds). {row['measured']}.")
        lines += [f"  - {who}: {one['settings']}." for who, one in row["contestants"].items()]
    return "\n".join(lines) + "\n"


def seconds(value: float) -> str:
    """A duration in the unit that suits it, three significant digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _lines(row: dict[str, Any]) -> list[list[str]]:
    """One line of cells per contestant."""
    lines = []
    for who, one in row["contestants"].items():
        spread, ratio = one["seconds"], one.get("ratio")
        own = "" if who == "ours" else who
        aims = [f"{aim['text']}: {'met' if aim['met'] else 'missed'}" for aim in row["aims"] if aim["peer"] == own]
        lines.append(
            [
                row["name"] if who == "ours" else "",
                who,
                f"{seconds(spread['median'])} / {row['unit']}",
                f"{seconds(spread['least'])} to {seconds(spread['most'])}",
                seconds(one["compile_seconds"]) if who == "ours" else "",
                ""
                if ratio is None
                else f"{_short(ratio['median'])} ({_short(ratio['least'])} to {_short(ratio['most'])})",
                ", ".join(f"{what} {_short(value)}" for what, value in one["quality"].items()),
                "; ".join(aims),
            ]
        )
    return lines


def _environment_lines(environment: dict[str, Any]) -> list[str]:
    device = environment["device"]
    accelerator = "" if device["backend"] == "cpu" else f"; ours on {device['count']} × {device['kind']}"
    blas = "; ".join(
        f"{pool['internal_api']} {pool['version']} ({pool['architecture']}, threads: {pool['num_threads']})"
        for pool in environment["blas"]
    )
    return [
        f"{environment['platform']}, {environment['processor']}, {environment['cores']} cores for every contestant"
        f"{accelerator}",
        ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        f"BLAS: {blas or 'unknown'}",
        f"persistent compilation cache: {'on' if environment['persistent_compilation_cache'] else 'off'}",
    ]


def _markdown_row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _short(value: float | str) -> str:
    """Three significant digits; what is no number stays as it is."""
    return value if isinstance(value, str) else f"{value:.3g}"
