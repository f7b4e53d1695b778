"""Tensors in safetensors files: a header that is checked, a memory map, and nothing else of the file; and writing them.

Files are untrusted. A header is believed only where it agrees with itself and with the size of the file, and no byte
belongs to two tensors; tensors are read from a memory map, row by row; nothing is executed, and no other format is
opened. A file is written whole or not at all.

Reference: the format description of safetensors (8 bytes little-endian header length, JSON header, raw data).
"""

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "BOOL": np.dtype(np.bool_),
    **{f"{kind.upper()}{bits}": np.dtype(f"{kind}{bits // 8}") for kind in "iu" for bits in (8, 16, 32, 64)},
}
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package itself
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_AXES = 32  # of a tensor
_MOST_JSON = 256_000_000  # bytes of an index or a tokenizer
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_OTHERS = {
    ".bin": "a PyTorch pickle, which can run code",
    ".pt": "a PyTorch pickle, which can run code",
    ".pth": "a PyTorch pickle, which can run code",
    ".ckpt": "a PyTorch pickle, which can run code",
    ".pkl": "a Python pickle, which can run code",
    ".gguf": "a GGUF file",
    ".h5": "an HDF5 file",
    ".hdf5": "an HDF5 file",
    ".onnx": "an ONNX file",
    ".npz": "a NumPy archive",
    ".npy": "a NumPy array",
    ".msgpack": "a msgpack file",
    ".orbax": "an orbax checkpoint",
    ".tflite": "a TensorFlow Lite file",
}
Pathish = str | PathLike[str]


class TensorInfo(NamedTuple):
    """A tensor as a header describes it.

    Attributes:
        name: of the tensor.
        file: that holds it.
        dtype: of its numbers, as the format names it: ``"BF16"``, ...
        shape: of the tensor.
        offset: of its first byte in the file.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def list_tensors(path: Pathish, *, max_header: int = _MAX_HEADER) -> dict[str, TensorInfo]:
    """What a checkpoint holds: a safetensors file, its sharded index, or a folder with either.

    Args:
        path: of the file, of ``*.safetensors.index.json``, or of the folder.
        max_header: bytes of a header that are read at most.

    Returns:
        Name to description, in the order of the headers. No data are read.

    Raises:
        FileNotFoundError: no such file, or a shard that the index names is missing.
        ValueError: another format (refused by name), or a header or an index that cannot be true.
    """
    path = _resolve(Path(path))
    if path.suffix == ".json":
        return _indexed(path, max_header)
    return _header(path, max_header)


def read_tensor_rows(path: Pathish, name: str, rows: Any = None) -> np.ndarray:
    """``T[rows]`` of a tensor in a checkpoint, in its own dtype; only these rows are read.

    Args:
        path: as in `list_tensors`.
        name: of the tensor.
        rows: indices along the first axis, each in [0, number of rows); None: the whole tensor.

    Returns:
        Copy of the rows, in the order asked for; bfloat16 and float8 as dtypes of ml_dtypes.

    Raises:
        FileNotFoundError: as in `list_tensors`.
        KeyError: no tensor of that name; the candidates are listed.
        TypeError: indices that are no integers.
        ValueError: as in `list_tensors`, an unknown dtype, or a scalar tensor whose rows are asked for.
        IndexError: a row that the tensor does not have.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"head": np.arange(6.0).reshape(3, 2)}, f"{folder}/model.safetensors")
        ...     read_tensor_rows(folder, "head", [2, 0])
        array([[4., 5.],
               [0., 1.]])
    """
    tensors = list_tensors(path)
    if name not in tensors:
        shown = ", ".join(sorted(tensors)[:20]) + (", ..." if len(tensors) > 20 else "")
        raise KeyError(f"name is {name!r}; expected a tensor of {path}, which has {shown or 'none'}")
    return rows_of(tensors[name], rows)


def rows_of(tensor: TensorInfo, rows: Any = None) -> np.ndarray:
    """`read_tensor_rows` for a tensor that `list_tensors` found.

    Args:
        tensor: where it lies.
        rows: as in `read_tensor_rows`.

    Returns:
        Copy of the rows.

    Raises:
        TypeError: as in `read_tensor_rows`.
        ValueError: as in `read_tensor_rows`.
        IndexError: as in `read_tensor_rows`.
    """
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{tensor.name} has dtype {tensor.dtype}; expected one of {', '.join(_DTYPES)}")
    if rows is not None:
        rows = _indices(rows, tensor)
    dtype = _DTYPES[tensor.dtype]
    if 0 in tensor.shape:  # an empty map is refused by the system
        whole = np.empty(tensor.shape, dtype)
    else:
        whole = np.memmap(tensor.file, dtype, "r", tensor.offset, tensor.shape)
    return np.array(whole if rows is None else whole[rows])


def write_tensors(path: Pathish, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, in place of one that may be there, atomically; one tensor at a time is copied.

    Args:
        path: of the file.
        tensors: name to array of a dtype that the format has.
        metadata: texts for its header.

    Raises:
        TypeError: a dtype that the format lacks.
        OSError: the file cannot be written; one that was there is left as it was.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(f"{folder}/model.safetensors", {"head": np.arange(6.0).reshape(3, 2)})
        ...     read_tensor_rows(folder, "head", [1])
        array([[2., 3.]])
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        dtype = np.dtype(tensor.dtype)
        if dtype not in _NAMES:
            raise TypeError(f"{name} has dtype {dtype}; expected one of {', '.join(map(str, _NAMES))}")
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of 8 bytes
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(np.asarray(tensor)).reshape(-1).view(np.uint8).data)


@contextmanager
def replacing(path: Pathish) -> Iterator[Any]:
    """An open file, which takes the place of the one at ``path`` when the block ends without an error, and never else.

    Args:
        path: of the file; its folder must exist.

    Yields:
        The file, open for bytes.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path, *, most: int = _MOST_JSON) -> Any:
    """Content of an untrusted JSON file.

    Args:
        path: of the file.
        most: bytes that are read at most.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: too large, not JSON, or nested too deeply.
    """
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} is refused: {size} bytes of JSON, at most {most} are read")
    return _parsed(path.read_bytes(), path)


def _parsed(text: bytes, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not hold the JSON it should: {error}") from error


def _resolve(path: Path) -> Path:
    """The file that a path means, refused unless its name is of safetensors."""
    if path.is_dir():
        for name in (_INDEX, _SINGLE):
            if (path / name).is_file():
                return path / name
        inside = sorted(entry.name for entry in path.iterdir())
        singles = [name for name in inside if name.endswith(".safetensors")]
        if len(singles) == 1:
            return path / singles[0]
        refused = [f"{name} ({_OTHERS[Path(name).suffix]})" for name in inside if Path(name).suffix in _OTHERS]
        found = ", ".join((singles or refused or inside)[:10]) or "nothing"
        raise ValueError(f"{path} holds {found}; expected {_SINGLE} or {_INDEX}")
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if path.suffix in _OTHERS:
        raise ValueError(f"{path} is {_OTHERS[path.suffix]}; only safetensors are read: convert it first")
    if path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
        raise ValueError(f"path is {path}; expected .safetensors or .safetensors.index.json at its end, or a folder")
    return path


def _indexed(path: Path, max_header: int) -> dict[str, TensorInfo]:
    index = read_json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"{path} has no weight_map; expected one from tensors to files")
    for file in set(places.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{path} names {file!r}; expected safetensors files beside it")
        if not (path.parent / file).is_file():
            raise FileNotFoundError(f"{path} names {file}, which is missing")
    headers = {file: _header(path.parent / file, max_header) for file in sorted(set(places.values()))}
    lost = [name for name, file in places.items() if name not in headers[file]]
    if lost:
        raise ValueError(f"{path} places tensors in files that do not hold them: {', '.join(lost[:5])}")
    return {name: headers[file][name] for name, file in places.items()}


def _header(path: Path, most: int) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, most):
            raise ValueError(
                f"{path} is no safetensors file or is truncated: its header claims {length} bytes of {size}, "
                f"at most {most} are read"
            )
        header = _parsed(file.read(length), path)
    if not isinstance(header, dict):
        raise ValueError(f"{path} has a header that is no table of tensors")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    tensors = {name: _described(name, entry, path, 8 + length, size) for name, entry in entries.items()}
    _check_apart(path, tensors.values())
    return tensors


def _check_apart(path, tensors):
    """Refuse tensors that share bytes: a small file must not stand for a large amount of memory."""
    known = [tensor for tensor in tensors if tensor.dtype in _DTYPES]
    spans = sorted((t.offset, t.offset + math.prod(t.shape) * _DTYPES[t.dtype].itemsize, t.name) for t in known)
    reached, before = 0, ""
    for start, end, name in spans:
        if start < reached and start < end:
            raise ValueError(f"{path} lets {before!r} and {name!r} share bytes: corrupt")
        if end > reached:
            reached, before = end, name


def _described(name: str, entry: Any, path: Path, start: int, size: int) -> TensorInfo:
    """One entry of a header, believed where dtype, shape and offsets agree and lie in the file."""
    fields = [entry.get(key) for key in ("dtype", "shape", "data_offsets")] if isinstance(entry, dict) else [None] * 3
    dtype, shape, offsets = fields
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise ValueError(f"{path} describes {name!r} as {str(entry)[:200]}; expected a shape and two offsets")
    tensor = TensorInfo(name, path, str(dtype), tuple(shape), start + offsets[0])
    if tensor.dtype not in _DTYPES:
        return tensor  # does not stop anybody from reading the others; `rows_of` refuses it
    expected = math.prod(shape) * _DTYPES[tensor.dtype].itemsize
    if offsets[1] - offsets[0] != expected or start + offsets[1] > size:
        raise ValueError(
            f"{path} describes {name!r} as {dtype} {tuple(shape)}, {expected} bytes, at offsets {offsets[0]} to "
            f"{offsets[1]} of {size - start} bytes of data: truncated or corrupt"
        )
    return tensor


def _naturals(values: Any) -> bool:
    """Whether these are numbers that an array can have as its shape, 0 among them."""
    natural = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    return natural and len(values) <= _MOST_AXES and math.prod(max(value, 1) for value in values) < 2**60


def _indices(rows: Any, tensor: TensorInfo) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise TypeError(f"rows is {rows.dtype} of shape {rows.shape}; expected a list of integers")
    if not tensor.shape:
        raise ValueError(f"{tensor.name} is a scalar and has no rows")
    outside = rows[(rows < 0) | (rows >= tensor.shape[0])]
    if outside.size:
        raise IndexError(f"rows has {outside[:5].tolist()}; expected 0 to {tensor.shape[0] - 1} for {tensor.name}")
    return rows
