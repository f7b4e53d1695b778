"""Rows of safetensors files: the same numbers as the safetensors package, and nothing believed that cannot be true."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxspec.tensor_files import list_tensors, read_tensor_rows, write_tensors

RNG = np.random.default_rng(0)
NUMBERS = {
    "F64": RNG.standard_normal((5, 3)),
    "F32": RNG.standard_normal((4, 2)).astype(np.float32),
    "F16": RNG.standard_normal((4, 2)).astype(np.float16),
    "BF16": RNG.standard_normal((7, 3)).astype(ml_dtypes.bfloat16),
    "F8_E4M3": RNG.standard_normal((3, 5)).astype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": RNG.standard_normal((3, 5)).astype(ml_dtypes.float8_e5m2),
    "I64": np.arange(6).reshape(3, 2),
    "BOOL": np.array([[True], [False]]),
}


def raw(header, data=b"", length=None):
    """Bytes of a file with that header, which may claim another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write(path, tensors):
    """A file of any dtypes, written here from the description of the format."""
    header, data = {"__metadata__": {"format": "np"}}, b""
    for name, (dtype, array) in tensors.items():
        header[name] = entry(dtype, array.shape, (len(data), len(data) + array.nbytes))
        data += array.tobytes()
    path.write_bytes(raw(header, data))
    return path


@pytest.fixture(scope="module")
def every_dtype(tmp_path_factory):
    path = tmp_path_factory.mktemp("dtypes") / "all.safetensors"
    return write(path, {dtype: (dtype, array) for dtype, array in NUMBERS.items()})


@pytest.mark.parametrize("dtype", NUMBERS)
def test_rows_keep_their_dtype_and_bits(every_dtype, dtype):
    array = NUMBERS[dtype]
    for rows in (None, [1, 0, 1], np.array([len(array) - 1]), []):
        read = read_tensor_rows(every_dtype, dtype, rows)
        expected = array if rows is None else array[np.asarray(rows, int)]
        assert read.dtype == array.dtype
        assert read.shape == expected.shape
        assert read.tobytes() == expected.tobytes()
    assert list_tensors(every_dtype)[dtype].dtype == dtype


def test_rows_are_those_of_the_package(tmp_path):
    array = RNG.standard_normal((50, 8)).astype(np.float32)
    save_file({"b": array, "a": array[:0], "c": np.float32([[3]])}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        part = file.get_slice("b")
        for row in (0, 17, 49):
            np.testing.assert_array_equal(read_tensor_rows(tmp_path, "b", [row]), part[row : row + 1])
    assert read_tensor_rows(tmp_path, "a").shape == (0, 8)
    assert set(list_tensors(tmp_path)) == {"a", "b", "c"}


def test_a_sharded_index_is_followed(tmp_path):
    shards = {"one.safetensors": "first", "two.safetensors": "second"}
    for number, (file, name) in enumerate(shards.items()):
        save_file({name: np.full((3, 2), number, np.float32)}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, name in shards.items()}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert read_tensor_rows(path, "second", [2])[0, 0] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\x01\x00\x00", "truncated"),
        (raw({}, length=10**6), "claims 1000000 bytes"),
        (raw({}, length=2**64 - 1), "claims"),
        (raw(b"not json"), "JSON"),
        (raw(b"\xff\xfe{}"), "JSON"),
        (raw(b"[" * 100_000), "JSON"),
        (raw([1, 2]), "no table of tensors"),
        (raw({"x": 3}), "expected a shape"),
        (raw({"x": {"dtype": "F32"}}), "expected a shape"),
        (raw({"x": entry(shape=(-2, -2))}, bytes(16)), "expected a shape"),
        (raw({"x": entry(shape=(2.0, 2))}, bytes(16)), "expected a shape"),
        (raw({"x": entry(shape=(True, 4))}, bytes(16)), "expected a shape"),
        (raw({"x": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}), "expected a shape"),
        (raw({"x": entry(shape=(1,) * 40, offsets=(0, 4))}, bytes(16)), "expected a shape"),
        (raw({"x": entry(offsets=(0, 16, 32))}, bytes(16)), "expected a shape"),
        (raw({"x": entry()}, bytes(15)), "truncated or corrupt"),
        (raw({"x": entry(offsets=(8, 16))}, bytes(16)), "truncated or corrupt"),
        (raw({"x": entry(offsets=(16, 0))}, bytes(16)), "truncated or corrupt"),
        (raw({"x": entry(shape=(2**20, 2**20), offsets=(0, 2**42))}, bytes(16)), "truncated or corrupt"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tensor_rows(path, "x", [0])


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=200), position=st.integers(0, 60))
def test_a_damaged_file_never_ends_in_another_error(tmp_path_factory, noise, position):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    whole = raw({"x": entry()}, bytes(16))
    path.write_bytes(whole[:position] + noise + whole[position + len(noise) :])
    try:
        rows = read_tensor_rows(path, "x", [0])
    except (ValueError, KeyError, IndexError):
        return
    assert rows.shape[0] == 1


def test_an_unknown_dtype_stops_only_its_own_tensor(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"x": entry("F4"), "y": entry()}, bytes(16)))
    assert read_tensor_rows(path, "y").shape == (2, 2)
    with pytest.raises(ValueError, match="x has dtype F4"):
        read_tensor_rows(path, "x")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([5], IndexError, r"expected 0 to 4"),
        ([-1], IndexError, r"rows has \[-1\]"),
        ([0.5], TypeError, "integers"),
        ([[0]], TypeError, "integers"),
        ([True], TypeError, "integers"),
    ],
)
def test_rows_that_are_no_rows_are_refused(every_dtype, rows, error, message):
    with pytest.raises(error, match=message):
        read_tensor_rows(every_dtype, "F64", rows)


def test_a_scalar_has_no_rows(tmp_path):
    path = write(tmp_path / "x.safetensors", {"x": ("F32", np.float32(3))})
    assert read_tensor_rows(path, "x") == 3
    with pytest.raises(ValueError, match="scalar"):
        read_tensor_rows(path, "x", [0])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.gguf", "model.h5", "weights.npz", "a.onnx"])
def test_other_formats_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ValueError, match="only safetensors are read"):
        list_tensors(tmp_path / name)
    with pytest.raises(ValueError, match=name):
        list_tensors(tmp_path)


def test_paths_that_lead_nowhere_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        list_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="holds nothing"):
        list_tensors(tmp_path)
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(ValueError, match=r"expected \.safetensors or"):
        list_tensors(tmp_path / "model.txt")


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ({"weight_map": {"x": "../secret.safetensors"}}, ValueError, "beside it"),
        ({"weight_map": {"x": "/etc/passwd"}}, ValueError, "beside it"),
        ({"weight_map": {"x": 3}}, ValueError, "weight_map"),
        ({"weight_map": {"x": "absent.safetensors"}}, FileNotFoundError, "missing"),
        ({"weight_map": {"z": "here.safetensors"}}, ValueError, "do not hold them: z"),
        ([], ValueError, "weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, index, error, message):
    save_file({"x": np.ones(2)}, tmp_path / "here.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(error, match=message):
        list_tensors(path)


def test_the_package_reads_what_is_written(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {
        **NUMBERS,
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float32(2),
        "strided": np.arange(12.0).reshape(3, 4).T,
    }
    write_tensors(path, arrays, {"format": "pt"})
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        for name in ("F64", "F32", "F16", "I64", "BOOL", "empty", "strided"):
            np.testing.assert_array_equal(file.get_tensor(name), arrays[name])
        assert {name: tuple(file.get_slice(name).get_shape()) for name in arrays} == {
            n: np.shape(a) for n, a in arrays.items()
        }
    for name, array in arrays.items():
        assert read_tensor_rows(path, name).tobytes() == np.asarray(array).tobytes()
    assert (int.from_bytes(path.read_bytes()[:8], "little") + 8) % 8 == 0


def test_writing_replaces_a_file_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"x": np.ones(3)})
    before = path.read_bytes()

    class Unreadable:
        dtype, shape = np.dtype(np.float32), (2,)

        def __array__(self, *arguments, **options):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        write_tensors(path, {"x": np.zeros(3), "y": Unreadable()})
    with pytest.raises(TypeError, match="x has dtype complex128"):
        write_tensors(path, {"x": np.ones(2, complex)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_small_file_cannot_stand_for_much_memory(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({f"x{i}": entry() for i in range(1000)}, bytes(16)))
    with pytest.raises(ValueError, match="share bytes"):
        list_tensors(path)
    path.write_bytes(
        raw({"x": entry(), "y": entry(shape=(2,), offsets=(8, 16)), "z": entry(shape=(0,), offsets=(4, 4))}, bytes(16))
    )
    with pytest.raises(ValueError, match="'x' and 'y' share bytes"):
        list_tensors(path)
    path.write_bytes(raw({"x": entry()}, bytes(16)))
    with pytest.raises(ValueError, match="at most 10 are read"):
        list_tensors(path, max_header=10)
