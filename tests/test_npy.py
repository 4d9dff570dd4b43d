"""numpy's files are read as numpy reads them, and whatever is wrong with one is one typed error."""

from __future__ import annotations

import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.files.npy import read_npy, read_npz

ARRAYS = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">i4"),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "texts": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "complex": np.array([1j]),
    "booleans": np.array([True, False]),
}


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_numpy_reads_it(name: str) -> None:
    found = read_npy(io.BytesIO(npy(ARRAYS[name])), "x.npy", InputError)
    expected = np.load(io.BytesIO(npy(ARRAYS[name])))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape
    assert found.dtype.isnative
    assert found.flags.writeable


def test_arrays_of_a_npz_are_read_stored_and_compressed() -> None:
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, **ARRAYS)
        found = read_npz(file, "x.npz", InputError)
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)


def test_a_stream_is_left_behind_its_array() -> None:
    stream = io.BytesIO(npy(np.arange(3)) + npy(np.arange(4)))
    assert len(read_npy(stream, "x", InputError)) == 3
    assert len(read_npy(stream, "x", InputError)) == 4


def headed(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


BROKEN = {
    "nothing": b"",
    "another magic": b"\x94NUMPY\x01\x00",
    "cut off in the header": npy(np.arange(9))[:20],
    "cut off in the data": npy(np.arange(9))[:-1],
    "an open bracket": headed(b"{'descr': '<f4', 'shape': (3,(((\n"),
    "nested without end": headed(b"(" * 9000 + b"\n"),
    "no dictionary": headed(b"3\n"),
    "no keys": headed(b"{}\n"),
    "a negative size": headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n"),
    "more than there is": headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}\n"),
    "more than there can be": headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**30,)}\n"),
    "300 dimensions": headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 300 + b")}\n", b"\0" * 4),
    "objects": npy(np.array([{}], object)),
    "records": npy(np.zeros(2, [("a", "f4")])),
    "dates": npy(np.array(["2026-01-01"], "M8[D]")),
    "no dtype": headed(b"{'descr': 'spam', 'fortran_order': False, 'shape': (1,)}\n"),
    "an empty dtype": headed(b"{'descr': '<U0', 'fortran_order': False, 'shape': (1099511627776,)}\n"),
    "version 9": headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", b"\0" * 4, b"\x09\x00"),
    "not ASCII": headed(b"\xff\xfe\n"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_array_is_one_typed_error(case: str) -> None:
    with pytest.raises(InputError, match=r"^x\.npy: not a readable \.npy array \(.+\)$"):
        read_npy(io.BytesIO(BROKEN[case]), "x.npy", InputError)


def archive(write: Any, kind: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as members:
        write(members)
    return file


def refusal(file: io.BytesIO, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        read_npz(file, "x.npz", InputError, **options)
    return str(caught.value)


def test_members_that_are_no_arrays_are_refused() -> None:
    assert refusal(archive(lambda z: z.writestr("a.txt", "hello"))) == "x.npz: 'a.txt' is no array, or stands twice"
    assert "x.npz: 'a': not a readable .npy array" in refusal(archive(lambda z: z.writestr("a.npy", "hello")))
    behind = npy(np.arange(3)) + b"more"
    assert "is followed by something that is no array" in refusal(archive(lambda z: z.writestr("a.npy", behind)))


def test_other_compressions_are_refused_before_they_are_unpacked() -> None:
    file = archive(lambda z: z.writestr("a.npy", npy(np.arange(3))), zipfile.ZIP_LZMA)
    assert refusal(file) == "x.npz: not a readable .npz file ('a.npy' is compressed by method 14)"
    assert lzma.LZMAError not in InputError.__mro__


def test_compressed_arrays_are_refused_where_they_must_be_stored() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1 << 20))
    assert refusal(file, stored=True) == "x.npz: 'a' is compressed; these arrays are stored as they are"


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_flipped_byte_anywhere_is_a_typed_error_or_an_array(at: int) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, image=np.tile(np.arange(64, dtype="f4").reshape(1, 1, 8, 8), (5, 1, 1, 1)))
    data = bytearray(file.getvalue())
    data[at % len(data)] ^= 255
    try:
        found = read_npz(io.BytesIO(data), "x.npz", InputError)
    except InputError as error:
        assert str(error).startswith("x.npz: ")
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    assert refusal(io.BytesIO(b"not a zip")).startswith("x.npz: not a readable .npz file (")
