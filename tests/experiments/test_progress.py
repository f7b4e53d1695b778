"""Progress: lines in a log, bars on a terminal, the same three calls for the experiment."""

import io

import pytest
from rich.console import Console

from experiments.runner import progress


def use(live):
    with live.stage("outer [x]", total=2):
        items = list(live.track("inner", range(3)))
        live.advance(message="half")
    live.advance()
    return items


@pytest.mark.parametrize("terminal", [False, True])
def test_stages_nest_on_a_terminal_and_in_a_log(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with progress.live(console) as live:
        assert use(live) == [0, 1, 2]
    text = console.file.getvalue()
    assert "outer [x]" in text
    assert "inner" in text


def test_a_log_has_a_line_when_a_stage_starts_and_one_when_it_ends():
    console = Console(file=io.StringIO(), width=100)
    with progress.live(console) as live:
        use(live)
    lines = [line.split(" s  ")[1] for line in console.file.getvalue().splitlines()]
    assert [line.split(" in ")[0] for line in lines] == [
        "outer [x] ...",
        "  inner ...",
        "  inner: done",
        "outer [x]: done",
    ]


def test_a_long_stage_speaks_up_in_between(monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    console = Console(file=io.StringIO(), width=100)
    with progress.live(console) as live, live.stage("long", total=4):
        live.advance(3, message="gap 1e-3")
    assert "long: 3/4 gap 1e-3" in console.file.getvalue()


def test_silent_yields_the_items():
    assert use(progress.Silent()) == [0, 1, 2]


def test_a_failing_stage_does_not_say_done():
    console = Console(file=io.StringIO(), width=100)
    with pytest.raises(ZeroDivisionError), progress.live(console) as live, live.stage("bad"):
        raise ZeroDivisionError
    assert "done" not in console.file.getvalue()
