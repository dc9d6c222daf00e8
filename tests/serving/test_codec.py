"""The wire format: the same bytes and values as openpi's, and nothing beyond the bounds."""

from __future__ import annotations

import math
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from openpi_client import msgpack_numpy

from igrft.serving.codec import Bounds, CodecError, decode, encode

DTYPES = ["?", "u1", "i1", "<u2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8", ">f4", ">i2"]


def same(first: Any, second: Any) -> bool:
    """Equal, dtypes and NaN included."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        equal = np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
        return first.dtype == second.dtype and first.shape == second.shape and equal
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, float) and math.isnan(first):
        return math.isnan(second)
    return type(first) is type(second) and first == second


# Keys that mark arrays are no plain values.
keys = st.text() | st.binary().filter(lambda key: not key.startswith(b"__"))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20),
    max_leaves=60,
)
numpy_arrays = arrays.arrays(st.sampled_from(DTYPES), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))


@given(plain)
def test_plain_values_read_as_msgpack_reads_them(value):
    assert same(decode(msgpack.packb(value)), msgpack.unpackb(msgpack.packb(value)))


@given(numpy_arrays, st.booleans())
def test_arrays_go_both_ways(array, transposed):
    array = array.T if transposed else array
    message = {"images": {"a": array}, "state": [1, array]}
    assert same(msgpack_numpy.unpackb(encode(message)), message)
    assert same(decode(msgpack_numpy.packb(message)), message)
    assert encode(message) == msgpack_numpy.packb(message)


@pytest.mark.parametrize("value", [np.float32(1.5), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.float16(2)])
def test_scalars_go_both_ways(value):
    for found in (msgpack_numpy.unpackb(encode({"a": value}))["a"], decode(msgpack_numpy.packb({"a": value}))["a"]):
        assert found == value and found.dtype == value.dtype


def test_arrays_own_aligned_writable_memory():
    found = decode(encode({"x": "1", "a": np.arange(5, dtype=np.float64)}))["a"]
    assert found.flags.writeable and found.flags.aligned and found.flags.owndata
    found[0] = 9


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([1j]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(2, [("a", "f4")]),
        object(),
        {1, 2},
        2**64,
    ],
)
def test_what_cannot_be_written_is_refused(value):
    with pytest.raises(CodecError, match="cannot be written"):
        encode({"a": value})


def array(data: Any = b"\0" * 8, dtype: Any = "<f4", shape: Any = (2,), **more: Any) -> bytes:
    marked = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    return msgpack.packb({"a": {**marked, **{k.encode(): v for k, v in more.items()}}})


class Exploit:
    """Unpickled, it would leave a mark."""

    ran = False

    def __reduce__(self):
        return setattr, (Exploit, "ran", True)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (array(pickle.dumps(Exploit()), "|O"), "booleans, integers or floats"),
        (array(pickle.dumps(Exploit()), "O", ()), "booleans, integers or floats"),
        (array(dtype="<U1"), "booleans, integers or floats"),
        (array(dtype="|S4"), "booleans, integers or floats"),
        (array(dtype="|V4"), "booleans, integers or floats"),
        (array(dtype="<c8", shape=(1,)), "booleans, integers or floats"),
        (array(dtype="<M8[s]", shape=(1,)), "booleans, integers or floats"),
        (array(dtype="f4,f4"), "booleans, integers or floats"),
        (array(dtype=b"<f4"), "booleans, integers or floats"),
        (array(dtype=["<f4"]), "booleans, integers or floats"),
        (array(dtype="<" + "f" * 10_000), "booleans, integers or floats"),
        (array(dtype="<f1", shape=(8,)), "no dtype"),
        (array(dtype="<b8", shape=(1,)), "no dtype"),
        (array(shape=(3,)), "takes 12 bytes, its data has 8"),
        (array(shape=(2**31 - 1, 2**31 - 1)), "bytes, its data has 8"),
        (array(shape=(2**40,)), "list of sizes"),
        (array(shape=(-2,)), "list of sizes"),
        (array(shape=(2.0,)), "list of sizes"),
        (array(shape=(True, 2)), "list of sizes"),
        (array(shape="22"), "list of sizes"),
        (array(shape=None), "list of sizes"),
        (array(b"", shape=(0,) * 9), "9 dimensions"),
        (array(b"", shape=(0, *[2**31 - 1] * 6)), "cannot be made"),
        (array(data="text"), "must be bytes"),
        (array(data=[1, 2]), "must be bytes"),
        (array(b"\x02", "|b1", (1,)), "more than 0 and 1"),
        (array(more=1), "nothing else"),
        (msgpack.packb({b"__ndarray__": True}), "nothing else"),
        (msgpack.packb({b"__ndarray__": 1, b"data": b"", b"dtype": "<f4", b"shape": [0]}), "nothing else"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "300 does not fit"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}), "cannot be a str"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1, b"dtype": "|b1"}), "cannot be a int"),
        (msgpack.packb({b"__npgeneric__": True, b"data": b"x", b"dtype": "|O"}), "booleans, integers or floats"),
        (msgpack.packb({1: 2}), "keys must be text"),
        (b"\x81\x90\x01", "keys must be text"),
        (b"\x82\xa1a\x01\xa1a\x02", "twice"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "no plain msgpack"),
        (msgpack.packb(msgpack.Timestamp(1)), "no plain msgpack"),
        (b"\xc1", "no plain msgpack"),
        (b"\xa2\xff\xfe", "not UTF-8"),
        (b"", "cut off"),
        (msgpack.packb({"a": 1}) + b"\xc0", "goes on for 1 bytes"),
        (b"\x91" * 17 + b"\xc0", "nested deeper than 16"),
        (b"\x91" * 5_000_000, "nested deeper than 16"),
        (b"\xdd\xff\xff\xff\xff", "more than 10000 values"),
        (b"\xdf\xff\xff\xff\xff", "more than 10000 values"),
        (b"\xdc\x27\x0f" + b"\x91\x91\xc0" * 9999, "more than 10000 values"),
        (b"\xc6\xff\xff\xff\xff", "cut off"),
    ],
)
def test_what_is_refused(message, says):
    with pytest.raises(CodecError, match=says) as error:
        decode(message)
    text = str(error.value)
    assert "\n" not in text and len(text) < 300
    assert not Exploit.ran


def test_the_key_of_a_bad_array_is_named():
    with pytest.raises(CodecError, match="'a': an array of shape"):
        decode(array(shape=(3,)))


@given(plain | numpy_arrays.map(lambda a: {"a": a}), st.data())
def test_a_message_that_is_cut_off_anywhere_is_refused(value, data):
    message = encode(value)
    at = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(CodecError):
        decode(message[:at])


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(message):
    try:
        decode(message)
    except CodecError as error:
        assert "\n" not in str(error)


def test_bounds_are_settings():
    message = encode({"a": [[[1]]], "b": np.zeros((1, 1, 1))})
    decode(message)
    for bounds, says in ((Bounds(items=5), "values"), (Bounds(depth=3), "deeper"), (Bounds(dimensions=2), "dimensi")):
        with pytest.raises(CodecError, match=says):
            decode(message, bounds)


def test_memory_is_bounded_by_the_message_and_the_bounds():
    import tracemalloc

    # 30 MB of empty lists would become 1.9 GB.
    message = b"\xdd\x01\xc9\xc3\x80" + b"\x90" * 30_000_000
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(message)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
