"""Progress of a running experiment: rich bars on a terminal, one line a stage in a log file, nothing in a test."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

LOG_INTERVAL = 20.0  # seconds between two lines of one stage in a log file


class _Stages:
    """The part every progress shares: a stack of open stages."""

    def track(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items, one step of a stage each."""
        items = list(items)
        with self.stage(name, total=len(items)):
            for item in items:
                yield item
                self.advance()


class Silent(_Stages):
    """A progress that says nothing, for tests and notebooks."""

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[None]:
        """Open a stage nobody sees."""
        yield

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Do nothing."""


class Lines(_Stages):
    """Plain lines: one when a stage starts, one when it ends, and one in between now and then when it is long."""

    def __init__(self, console: Console, label: str = "") -> None:
        self._console = console
        self._label = f"{label}  " if label else ""
        self._start = time.perf_counter()
        self._open: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[None]:
        """Open a stage and print its lines."""
        now = time.perf_counter()
        self._print(f"{name} ...")
        self._open.append({"name": name, "total": total, "done": 0, "start": now, "said": now})
        try:
            yield
        finally:
            self._open.pop()
        self._print(f"{name}: done in {time.perf_counter() - now:.1f} s")

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Move the innermost stage on."""
        if not self._open:
            return
        stage, now = self._open[-1], time.perf_counter()
        stage["done"] += steps
        if now - stage["said"] >= LOG_INTERVAL:
            stage["said"] = now
            self._print(f"{stage['name']}: {stage['done']}/{stage['total']} {message}".rstrip())

    def _print(self, text: str) -> None:
        elapsed = time.perf_counter() - self._start
        line = f"  {elapsed:7.1f} s  {self._label}{'  ' * len(self._open)}{text}"
        self._console.print(line, markup=False, highlight=False)


class Terminal(_Stages):
    """Live bars."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._open: list[Any] = []

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[None]:
        """Open a stage with its own bar."""
        task = self._bars.add_task("  " * len(self._open) + escape(name), total=total, message="")
        self._open.append(task)
        try:
            yield
            self._bars.update(task, completed=total, message="")
        finally:
            self._open.pop()
            self._bars.stop_task(task)

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Move the innermost bar on."""
        if self._open:
            self._bars.update(self._open[-1], advance=steps, message=escape(message))


@contextmanager
def live(console: Console, label: str = "") -> Iterator[Terminal | Lines]:
    """Yield the progress that suits the console: bars on a terminal, lines elsewhere.

    Args:
        console: Where it goes.
        label: Begins every line.
    """
    if not console.is_terminal:
        yield Lines(console, label)
        return
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", style="dim"),
    )
    with Bars(*columns, console=console) as bars:
        yield Terminal(bars)
