"""The command line: ``python -m experiments.benchmarks [NAME...] [--rounds N] [--out FILE]``."""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from experiments.benchmarks import record, table, timing
from experiments.benchmarks.frame import Row
from experiments.runner import discover, progress, store
from experiments.runner.contract import RunnerError

PROGRAM = "python -m experiments.benchmarks"
INSTALL_HINT = "pip install 'jaxspec-lab[bench]'"
OK, BAD_USE, INTERRUPTED = 0, 2, 130
LOG_WIDTH = 200  # columns of a table in a log file, where there is no terminal to ask

Rows = dict[str, Callable[[], Row]]


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        raise RunnerError(f"{message} (see {PROGRAM} --help)")


def main(arguments: Sequence[str] | None = None, package: str = "experiments.benchmarks") -> int:
    """Run the command line.

    Args:
        arguments: Command-line words; the process's own by default.
        package: Where to look for benchmarks.

    Returns:
        Exit status: 0 measured, whether or not aims were met, 2 wrong use or a problem with the system, 130
        interrupted.
    """
    try:
        return _run(_parser(package).parse_args(arguments), package)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED


def benchmarks(package: str) -> list[str]:
    """Names of the modules of a package that define ``ROWS``, read from their source."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RunnerError(f"there is no package {package!r} to look for benchmarks in")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return [path.stem for path in sorted(folder.glob("*.py")) if _defines_rows(path)]


def load(name: str, package: str) -> Rows:
    """Import a benchmark; its rows by full name.

    Raises:
        RunnerError: A peer is missing; the message names it and the extra that has it.
    """
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in {"", "jaxspec", package.split(".")[0]}:
            raise
        raise RunnerError(f"{name} needs {missing}, which is not installed: {INSTALL_HINT}") from error
    return {f"{name}.{row}": build for row, build in module.ROWS.items()}


def select(names: Sequence[str], package: str) -> Rows:
    """Rows that the names ask for: a benchmark, one of its rows (``benchmark.row``), or everything for no name.

    Raises:
        RunnerError: No benchmark or row has that name; close names are suggested.
    """
    known = benchmarks(package)
    chosen: Rows = {}
    for name in names or known:
        benchmark = name.partition(".")[0]
        if benchmark not in known:
            hint = discover.suggest(benchmark, known) or f"; there are {', '.join(known) or 'none'}"
            raise RunnerError(f"no benchmark is called {benchmark!r}{hint}")
        rows = load(benchmark, package)
        if name != benchmark and name not in rows:
            hint = discover.suggest(name, rows) or f"; {benchmark} has {', '.join(rows)}"
            raise RunnerError(f"no row is called {name!r}{hint}")
        chosen |= rows if name == benchmark else {name: rows[name]}
    return chosen


def _parser(package: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Time the library against other libraries.", allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(benchmarks(package))}, or BENCHMARK.ROW")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="interleaved rounds (default: 9)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="record, with its table beside it (default: results/DEVICE.json in the folder of the benchmarks)",
    )
    return parser


def _run(options: argparse.Namespace, package: str) -> int:
    if options.rounds < 1:
        raise RunnerError(f"--rounds must be at least 1, got {options.rounds}")
    if options.out is not None and options.out.suffix != ".json":
        raise RunnerError(f"--out must be a file that ends in .json, got {options.out}")
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    # Peers are imported and the file is looked at before the first row: neither must cost the minutes of the others.
    chosen = select(options.names, package)
    for name in benchmarks(package):  # a part runs beside the same libraries as the whole
        with contextlib.suppress(RunnerError):
            load(name, package)
    environment = record.environment()
    path = options.out or Path(__file__).parent / "results" / f"{record.slug(record.device_name(environment))}.json"
    kept = record.kept_rows(path, environment) if options.names else []
    store.prepare(path.parent)
    rows = _measure(chosen, options.rounds, console)
    order = list(dict.fromkeys([*(row["name"] for row in kept), *chosen]))
    written = {"environment": environment, "rows": record.merged(rows, kept, order)}
    files = record.write(path, written, table.markdown(written))
    console.print(table.terminal(rows))
    console.print(Text(f"{table.NOTE}\nwrote {' and '.join(map(str, files))}", style="dim"))
    return OK


def _measure(chosen: Rows, rounds: int, console: Console) -> list[dict[str, Any]]:
    rows = []
    with progress.live(console) as live:
        for name, build in chosen.items():
            with live.stage(name, total=rounds):
                row = build()
                rows.append(record.row_record(name, row, timing.measure(row, rounds, after_round=live.advance)))
    return rows


def _defines_rows(path: Path) -> bool:
    """Whether a module assigns ``ROWS``."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "ROWS" for target in targets):
            return True
    return False
