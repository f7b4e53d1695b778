"""Results on disk: written whole or not at all, and found again only for the same numbers and the same sources.

A result is a flat NamedTuple. A field may be anything NumPy turns into an array of booleans, integers, floats, complex
numbers or strings: JAX and NumPy arrays, Python numbers, strings and rectangular lists of them. Anything else (None,
nested tuples, dictionaries, typed random keys, bfloat16) is a TypeError that names the field. It comes back as the same
NamedTuple of NumPy arrays.

A folder is built beside its final place, flushed to the disk and renamed; whatever an interrupted run leaves behind has
a name that says so and is removed by the next one.
"""

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.runner.contract import RunnerError

ARRAYS, META, FIGURES = "arrays.npz", "meta.json", "figures"
SUPPORTED_KINDS = "biufcUS"


class Saved(NamedTuple):
    """A result on disk.

    Attributes:
        arrays: Field name to array.
        meta: Config, versions, device, cost and claims.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def to_arrays(result: Any) -> dict[str, np.ndarray]:
    """Turn a result into named arrays.

    Args:
        result: A flat NamedTuple.

    Returns:
        Field name to array, in the order of the fields.

    Raises:
        TypeError: Not a NamedTuple, or a field that cannot be saved without loss.
    """
    if not hasattr(result, "_fields"):
        raise TypeError(f"run must return a NamedTuple, got {type(result).__name__}")
    return {name: _to_array(name, value) for name, value in zip(result._fields, result, strict=True)}


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, the form in which two configurations are compared."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def prepare(folder: Path) -> None:
    """Make sure a folder can be written before minutes are spent, and remove what interrupted runs left in it.

    Raises:
        RunnerError: It cannot be created or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        _clean(folder)


def save(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write a result in place of the one that may be there, atomically.

    Args:
        folder: Final folder.
        arrays: From `to_arrays`.
        meta: JSON values.

    Raises:
        RunnerError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    with writing(folder), _replacement(folder) as temporary:
        with (temporary / ARRAYS).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            _flush(file)
        _write(temporary / META, json.dumps(meta, indent=2).encode())


def annotate(folder: Path, meta: dict[str, Any], figures: dict[str, bytes]) -> None:
    """Write the claims and figures made from a saved result beside it, each atomically.

    Args:
        folder: Folder of a saved result.
        meta: The whole of its meta data, claims included.
        figures: File name to contents.

    Raises:
        RunnerError: As in `save`.
    """
    with writing(folder):
        with _replacement(folder / FIGURES) as temporary:
            for name, contents in figures.items():
                _write(temporary / name, contents)
        write_file(folder / META, json.dumps(meta, indent=2).encode())


def load(folder: Path) -> Saved | None:
    """Read a saved result, or None when there is none.

    Raises:
        RunnerError: There is one that cannot be read.
    """
    if not (folder / META).is_file():
        return None
    try:
        meta = json.loads((folder / META).read_text())
        with (folder / ARRAYS).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunnerError(
            f"{folder} holds a result that cannot be read ({error}); run it again with --force"
        ) from error
    return Saved(arrays, meta)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The meta data of a saved result without its arrays, or None when there is none that can be read."""
    try:
        return json.loads((folder / META).read_text())
    except (OSError, ValueError):
        return None


def restore(saved: Saved, result_type: type) -> Any:
    """Build the experiment's own NamedTuple from a saved result.

    Raises:
        RunnerError: The fields changed since it was saved.
    """
    if set(saved.arrays) != set(result_type._fields):
        raise RunnerError("its fields changed since it was saved; run it again")
    return result_type(**saved.arrays)


def write_file(path: Path, contents: bytes) -> None:
    """Replace one file atomically.

    Raises:
        RunnerError: As in `save`.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with writing(path):
        try:
            _write(temporary, contents)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a write into one line."""
    try:
        yield
    except OSError as error:
        raise RunnerError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _replacement(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes its place, on any failure it disappears."""
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    retired = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clean(folder.parent)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        _flush_folder(temporary)
        if folder.exists():
            folder.rename(retired)
        temporary.rename(folder)
        _flush_folder(folder.parent)
    finally:
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _clean(parent: Path) -> None:
    """Remove what killed processes left, and put back a result that one of them had moved aside."""
    for leftover in sorted(parent.glob(".*.old-*")) + sorted(parent.glob(".*.tmp-*")):
        name, _, kind_and_owner = leftover.name[1:].rpartition(".")
        kind, _, owner = kind_and_owner.partition("-")
        if not owner.isdigit() or _alive(int(owner)):
            continue
        if kind == "old" and not (parent / name).exists():
            leftover.rename(parent / name)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _to_array(name: str, value: Any) -> np.ndarray:
    advice = "save numbers or strings that NumPy holds in one rectangular array"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"field {name!r} of the result is a {type(value).__name__}: {advice}") from error
    if array.dtype.kind not in SUPPORTED_KINDS:
        raise TypeError(f"field {name!r} of the result has dtype {array.dtype} ({type(value).__name__}): {advice}")
    return array


def _write(path: Path, contents: bytes) -> None:
    with path.open("wb") as file:
        file.write(contents)
        _flush(file)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
