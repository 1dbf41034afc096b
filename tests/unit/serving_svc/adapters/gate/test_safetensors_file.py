from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from serving_svc.adapters.gate.safetensors_file import (
    header_limit,
    read_header,
    read_rows,
    read_shapes,
)
from tests.unit.serving_svc.adapters.gate.adapter_folder import header

ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
ENTRY_TEXT = json.dumps(ENTRY).encode()


def changed(**changes: object) -> bytes:
    return header({"a": ENTRY | changes}, b"1234")


def raw(entry: bytes) -> bytes:
    return header(b'{"a": ' + entry + b"}", b"1234")


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\1" + b"\0" * 6,
    "a length beyond the file": b"\xff" * 8,
    "a header of no bytes": b"\0" * 8,
    "a list": header([]),
    "cut": header(b"{"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "UTF-16": header('{"a": 1}'.encode("utf-16")),
    "too few bytes": header({"a": ENTRY}),
    "bytes after the last tensor": header({"a": ENTRY}, b"12345678"),
    "bytes before the first tensor": header({"a": ENTRY | {"data_offsets": [4, 8]}}, b"12345678"),
    "overlap": header({"a": ENTRY, "b": ENTRY}, b"1234"),
    "a shape that needs more": changed(shape=[2]),
    "a shape whose product is beyond int64": changed(shape=[2**62, 2**62]),
    "a shape whose product wraps to 1": changed(shape=[2**32 + 1, 2**32 - 1]),
    "too many dimensions": changed(shape=[1] * 9),
    "a length beyond int64": changed(shape=[2**63, 0]),
    "a negative length": changed(shape=[-1, -1]),
    "a float as length": changed(shape=[1.0]),
    "a bool as length": changed(shape=[True]),
    "a string as shape": changed(shape="1"),
    "offsets in reverse": changed(data_offsets=[4, 0]),
    "a negative offset": changed(data_offsets=[-4, 0]),
    "one offset": changed(data_offsets=[4]),
    "three offsets": changed(data_offsets=[0, 4, 4]),
    "a bool as offset": changed(data_offsets=[False, 4]),
    "offsets of no list": changed(data_offsets=4),
    "a dtype that is a number": changed(dtype=1),
    "a dtype that is a list": changed(dtype=["F32"]),
    "no dtype": header({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "a key too many": changed(extra=1),
    "an entry that is a number": header({"a": 1}),
    "a name twice": header(b'{"a": ' + ENTRY_TEXT + b', "a": ' + ENTRY_TEXT + b"}", b"1234"),
    "a key twice": raw(ENTRY_TEXT[:-1] + b', "shape": [1]}'),
    "metadata of text": header({"__metadata__": "pt", "a": ENTRY}, b"1234"),
    "metadata of numbers": header({"__metadata__": {"format": 1}, "a": ENTRY}, b"1234"),
    "NaN": raw(b'{"dtype": NaN, "shape": [1], "data_offsets": [0, 4]}'),
    "infinity": raw(b'{"dtype": "F32", "shape": [-Infinity], "data_offsets": [0, 4]}'),
    "1e999": raw(b'{"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}'),
    "1e999 in the metadata": header(b'{"__metadata__": {"x": 1e999}}'),
    "an int of 5,000 digits": raw(b'{"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}"),
    "an int of 4,000 digits": changed(shape=[10**4000]),
    "lists 100,000 deep": header(b"[" * 100_000),
    "objects 100,000 deep": header(b'{"a":' * 100_000),
    "deep in the metadata": header(b'{"__metadata__": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a long name": header({"x" * 100_000: 1}),
    "a lone surrogate as name": header(b'{"\\ud800": 1}'),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_not_sound_is_an_error_of_few_words(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_header(tmp_path / "x")
    assert len(str(caught.value).encode()) < 400


def test_a_header_longer_than_asked_for_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(header(b'{"a": ' + ENTRY_TEXT + b"}" + b" " * 1000, b"1234"))
    assert "a" in read_header(tmp_path / "x", 2000)
    with pytest.raises(ValueError, match="1000 are the most"):
        read_header(tmp_path / "x", 1000)


def test_a_sound_header_stays_under_its_limit(tmp_path: Path) -> None:
    names = [f"base_model.model.model.layers.{i}.mlp.up_proj.lora_A.weight" for i in range(2000)]
    save_file({name: np.zeros((16, 16), np.float32) for name in names}, tmp_path / "x")
    assert len(read_header(tmp_path / "x", header_limit(names))) == 2000
    # The slack is for metadata: the entries themselves need none of it.
    length = int.from_bytes((tmp_path / "x").read_bytes()[:8], "little")
    assert length < header_limit(names) - header_limit([])


def test_metadata_of_text_is_no_tensor(tmp_path: Path) -> None:
    # As PEFT writes it.
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "x", metadata={"format": "pt"})
    assert read_header(tmp_path / "x").keys() == {"a"}


def test_other_formats_of_numbers_are_read_without_their_width(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(changed(dtype="F8_E4M3", shape=[4]))
    assert read_shapes(tmp_path) == {"a": (4,)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
entries = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets", "x"]),
    json_values | st.lists(st.integers(-2, 2**65), max_size=3) | st.sampled_from(["F32", "BF16"]),
)
headers = st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries | json_values)
FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(
    data=st.binary(max_size=100)
    | st.builds(header, st.binary(max_size=100) | headers, st.binary(max_size=16))
)
def test_no_header_raises_anything_but_value_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    try:
        found = read_header(tmp_path / "x")
    except ValueError:
        return
    for tensor in found.values():
        assert 0 <= tensor.start <= tensor.end <= len(data)


@pytest.mark.parametrize(("dtype", "width"), [("F32", 4), ("F16", 2), ("BF16", 2)])
def test_rows_come_back_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, width: int
) -> None:
    values = np.arange(21, dtype=np.float32).reshape(7, 3) - 8
    data = {
        "F32": values.tobytes(),
        "F16": values.astype(np.float16).tobytes(),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
    }[dtype]
    entry = {"dtype": dtype, "shape": [7, 3], "data_offsets": [0, 21 * width]}
    (tmp_path / "x").write_bytes(header({"a": entry}, data))
    # Two rows and a bit at a time.
    monkeypatch.setattr("serving_svc.adapters.gate.safetensors_file._BLOCK_BYTES", 8 * width)
    blocks = list(read_rows(tmp_path / "x", read_header(tmp_path / "x")["a"]))
    assert [len(block) for block in blocks] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), values)


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    (tmp_path / "x").write_bytes(header({"a": entry}, b"1234"))
    tensor = read_header(tmp_path / "x")["a"]
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-1])
    with pytest.raises(ValueError, match="shorter"):
        list(read_rows(tmp_path / "x", tensor))
