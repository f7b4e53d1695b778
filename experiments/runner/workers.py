"""Runs the experiments of one command: one after the other, or several at a time in processes of their own."""

import gc
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from experiments.runner import compilation, discover, execute
from experiments.runner.contract import RunnerError

MANY_MAPS = 20_000  # memory maps of a process, of which Linux allows 65530; every compiled program holds 3 to 20


def run(
    parts: Sequence[discover.Part],
    configs: Sequence[Any],
    preset: str,
    out: Path,
    console: Console,
    *,
    jobs: int = 1,
    force: bool = False,
) -> Iterator[execute.Evaluated]:
    """Run experiments and yield each when it is done.

    Args:
        parts: The experiments.
        configs: Their configurations.
        preset: Name of the preset the configurations started from.
        out: Results folder.
        console: Where titles and progress go.
        jobs: How many run at a time. Each has a process of its own, so an accelerator holds one only. Several ``quick``
            ones, which are mostly compilation, are compiled quickly, unless ``XLA_FLAGS`` says how.
        force: Compute in any case.

    Yields:
        The evaluated results; in the order given for one job, as they finish for several.

    Raises:
        RunnerError: As `execute.run` does, or a process died.
    """
    tasks = list(zip(parts, configs, strict=True))
    if jobs == 1 or len(tasks) < 2:
        for part, config in tasks:
            _title(part, preset, console)
            yield execute.run(part, preset, config, out, console, force=force)
            forget_programs()
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin, initargs=(preset,))
    try:
        futures = {pool.submit(_one, part, preset, config, out, console.width, force): part for part, config in tasks}
        for future in as_completed(futures):
            done = _result(future)
            _title(futures[future], preset, console)
            yield done
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:  # after a failure nothing new begins, and what runs is waited for
        pool.shutdown(cancel_futures=True)


def forget_programs(maps: int = MANY_MAPS) -> None:
    """Forget compiled programs when this process holds many memory maps: at the limit the compiler crashes.

    Args:
        maps: How many are many.
    """
    held = Path("/proc/self/maps")
    if held.exists() and len(held.read_bytes().splitlines()) > maps:
        import equinox
        import jax

        equinox.clear_caches()
        jax.clear_caches()
        gc.collect()


def _begin(preset: str) -> None:
    """First in a worker, before JAX reads its flags; interrupts are left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if preset == "quick":
        compilation.hurry(compilation.QUICK)


def _one(part: discover.Part, preset: str, config: Any, out: Path, width: int, force: bool) -> execute.Evaluated:
    """One experiment inside a worker."""
    console = Console(width=width, force_terminal=False)
    done = execute.run(part, preset, config, out, console, force=force, label=part.name)
    forget_programs()
    return done


def _result(future: Future) -> execute.Evaluated:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunnerError(
            "a process died while it ran an experiment (out of memory?); finished ones are kept"
        ) from error


def _title(part: discover.Part, preset: str, console: Console) -> None:
    console.rule(Text(f"{part.name} · {preset}"), align="left", style="dim")
