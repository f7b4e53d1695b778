"""The command line: ``python -m experiments list | run NAME... | run --all | report``."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.runner import discover, execute, report, store, workers
from experiments.runner.contract import RunnerError, Verdict

PROGRAM = "python -m experiments"
OK, STRICT_FAILURE, BAD_USE, INTERRUPTED = 0, 1, 2, 130
LOG_WIDTH = 140  # columns of a table in a log file, where there is no terminal to ask
VERDICT_STYLES = {
    Verdict.HOLDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.KNOWN: "yellow",
    Verdict.SURPRISE: "bold red",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        raise RunnerError(f"{message} (see {PROGRAM} --help)")


def main(arguments: Sequence[str] | None = None, package: str = "experiments") -> int:
    """Run the command line.

    Args:
        arguments: Command-line words; the process's own by default.
        package: Where to look for experiments.

    Returns:
        Exit status: 0 fine, 1 a claim failed under ``--strict``, 2 wrong use or a problem with the system,
        130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words, package)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    except KeyboardInterrupt:
        print("\ninterrupted: finished experiments are kept, the one under way left nothing", file=sys.stderr)
        return INTERRUPTED


def _dispatch(words: list[str], package: str) -> int:
    options, rest = _parser().parse_known_args(words)
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    papers = discover.discover(package)
    if options.command == "run":
        return _run(options, rest, papers, console)
    if rest:
        raise RunnerError(f"{options.command} does not know {rest[0]!r} (see {PROGRAM} --help)")
    if options.command == "list":
        return _list(papers, options.out, console)
    return _report(papers, options.out, console)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Run the experiments and check the papers' claims.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{list,run,report}", parser_class=_Parser)
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="results (default: results)")
    commands.add_parser("list", parents=[out], allow_abbrev=False, help="experiments and what has been computed")
    commands.add_parser("report", parents=[out], allow_abbrev=False, help="write FOLDER/index.html")
    run = commands.add_parser(
        "run",
        parents=[out],
        allow_abbrev=False,
        add_help=False,
        usage=f"{PROGRAM} run NAME... | --all  [--preset quick|full] [--seed N] [--strict] [--force] [--jobs N] "
        "[--FIELD VALUE]",
        help="run experiments: a paper (all its parts) or PAPER.PART",
        epilog=f"Every number of one experiment is a flag of its own: {PROGRAM} run NAME --help lists them.",
    )
    run.add_argument("--all", action="store_true", help="every experiment")
    run.add_argument(
        "--preset", default="quick", metavar="quick|full", help="which numbers to start from (default: quick)"
    )
    run.add_argument("--seed", type=int, metavar="N", help="seed of every experiment that runs")
    run.add_argument("--strict", action="store_true", help="exit 1 when a claim fails, or one known to be false holds")
    run.add_argument("--force", action="store_true", help="compute again what is already there")
    run.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="experiments at a time (default: 1; 1 on an accelerator)"
    )
    run.add_argument("-h", "--help", action="store_true", help="this text, with the flags of NAME when one is given")
    run.set_defaults(usage=run.format_help())
    return parser


def _run(options: argparse.Namespace, rest: list[str], papers: list[discover.Paper], console: Console) -> int:
    split = next((index for index, word in enumerate(rest) if word.startswith("-")), len(rest))
    names, flags = rest[:split], rest[split:]
    if options.help and not names:
        console.print(options.usage, markup=False, highlight=False)
        return OK
    if options.jobs < 1:
        raise RunnerError(f"--jobs must be at least 1, got {options.jobs}")
    if options.all and names:
        raise RunnerError("name experiments or use --all, not both")
    if not options.all and not names:
        known = ", ".join(paper.name for paper in papers)
        raise RunnerError(f"which experiment? name one of {known or 'none: there are no experiments'}, or use --all")
    parts = _in_turns(papers) if options.all else discover.select(papers, names)
    if flags and len(parts) != 1:
        raise RunnerError(f"{flags[0]} belongs to one experiment; {len(parts)} are selected")
    if options.help:
        flags = ["--help"]
        console.print(options.usage, markup=False, highlight=False)
    # all of them before the first runs: a typing error in the last must not cost the minutes of the others
    configs = [_configure(part, options.preset, options.seed, flags) for part in parts]
    if options.help:
        return OK
    evaluated = []
    for one in workers.run(
        parts, configs, options.preset, options.out, console, jobs=options.jobs, force=options.force
    ):
        evaluated.append(one)
        _print_claims(one, console)
    failures = [claim for one in evaluated for claim in one.claims if claim.verdict.strict_failure]
    _print_summary(evaluated, len(failures), options, console)
    return STRICT_FAILURE if options.strict and failures else OK


def _in_turns(papers: list[discover.Paper]) -> list[discover.Part]:
    """All parts, one of each paper in turn: neighbours share what they keep, and two at a time would both make it."""
    turns = itertools.zip_longest(*(paper.parts for paper in papers))
    return [part for turn in turns for part in turn if part is not None]


def _configure(part: discover.Part, preset: str, seed: int | None, flags: list[str]) -> Any:
    """A part's configuration: preset, then seed, then its own flags, which are typed by the fields of its Config."""
    module = discover.load(part)
    config = discover.preset(part, module, preset)
    if seed is not None:
        config = dataclasses.replace(config, seed=seed)
    if not flags:
        return config
    known = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(config)]
    program = f"{PROGRAM} run {part.name}"
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(module.Config, default=config, args=flags, prog=program, description=part.title)
    except SystemExit as stop:
        if not stop.code:
            return config
        words = [word.split("=")[0].replace("_", "-") for word in flags if word.startswith("--")]
        unknown = [word for word in words if word not in known and word.replace("--no-", "--", 1) not in known]
        if unknown:
            hint = discover.suggest(unknown[0], known) or f"; it has {', '.join(known)}"
            raise RunnerError(f"{part.name} has no flag {unknown[0]}{hint}") from stop
        raise RunnerError(f"{part.name}: {_first_paragraph(complaint.getvalue())} (see {program} --help)") from stop


def _first_paragraph(box: str) -> str:
    """The first sentence inside the box that tyro draws around a complaint."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()[1:]]
    rule = next((index for index, line in enumerate(lines) if line.startswith("─")), len(lines))
    return " ".join(line for line in lines[:rule] if line)


def _print_claims(one: execute.Evaluated, console: Console) -> None:
    if not one.claims:
        console.print("  no claims", style="dim")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for column in ("claim", "criterion", "measured"):
        table.add_column(column, overflow="fold")
    for claim in one.claims:
        verdict = Text(claim.verdict.value, style=VERDICT_STYLES[claim.verdict])
        statement = Text(claim.statement).append(f"\n{claim.source}", style="dim")
        if claim.known_not_to_hold:
            statement.append(f"\n{claim.known_not_to_hold}", style="italic")
        # a text may be long; a number never is
        measured = Text(claim.measured_text, no_wrap=not isinstance(claim.measured, str))
        table.add_row(verdict, statement, Text(claim.criterion), measured)
    console.print(table)
    how = "computed in" if one.computed else "already there; it took"
    console.print(f"  {how} {report.seconds(one.meta)}, peak {report.memory(one.meta)}", style="dim", highlight=False)


def _print_summary(
    evaluated: list[execute.Evaluated], failures: int, options: argparse.Namespace, console: Console
) -> None:
    claims = [claim for one in evaluated for claim in one.claims]
    counts = {verdict: sum(claim.verdict is verdict for claim in claims) for verdict in Verdict}
    console.rule(style="dim")
    parts = [
        Text(f"{count} {verdict.value}", style=VERDICT_STYLES[verdict]) for verdict, count in counts.items() if count
    ]
    console.print(Text(f"{len(claims)} claims: ").append_text(Text(", ").join(parts)) if claims else "no claims")
    if failures and not options.strict:
        console.print("a claim stands against expectation; --strict would exit 1", style="yellow", highlight=False)
    console.print(Text(f"results in {options.out}; {PROGRAM} report writes the page", style="dim"))


def _list(papers: list[discover.Paper], out: Path, console: Console) -> int:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("name", "title", "computed"):
        table.add_column(column, overflow="fold")
    for paper in papers:
        if [part.name for part in paper.parts] != [paper.name]:
            table.add_row(Text(paper.name, style="bold"), Text(paper.title, style="bold"), "")
        for part in paper.parts:
            computed = ", ".join(report.presets(out, part))
            table.add_row(Text(part.name), Text(part.title), Text(computed, style="green"))
    console.print(table if papers else "there are no experiments")
    return OK


def _report(papers: list[discover.Paper], out: Path, console: Console) -> int:
    page, problems = report.build(papers, out)
    store.prepare(out)
    store.write_file(out / "index.html", page.encode())
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    console.print(Text(f"wrote {out / 'index.html'}"))
    return OK
