"""Lists of devices as text: what is read, and that whatever is wrong is refused with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.devices import records
from fleet.devices.errors import GroupError
from fleet.devices.records import Record


@pytest.mark.parametrize(
    ("data", "form", "found"),
    [
        (b"dev-1\n\n dev-2 \r\n", "csv", [Record("dev-1", 1), Record("dev-2", 3)]),
        (b"\xef\xbb\xbfid\ndev-1\n", "csv", [Record("dev-1", 2)]),
        (b"Device,tags\ndev-1,a b\n", "csv", [Record("dev-1", 2, {"tags": "a b"})]),
        (b'id,note\ndev-1,"two\nlines"\ndev-2,x\n', "csv",
         [Record("dev-1", 2, {"note": "two\nlines"}), Record("dev-2", 4, {"note": "x"})]),
        (b'{"id": "dev-1", "tags": ["a"]}\r\n"dev-2"', "ndjson",
         [Record("dev-1", 1, {"tags": ["a"]}), Record("dev-2", 2)]),
        (b"", "csv", []),
        (b"\n\n", "ndjson", []),
    ],
)  # fmt: skip
def test_a_list_is_read_with_its_lines(data: bytes, form: str, found: list[Record]) -> None:
    assert records.read(data, form) == found


@pytest.mark.parametrize(
    ("data", "form", "code", "line"),
    [
        (b"id,id\ndev-1,dev-1\n", "csv", "validation", 1),
        (b"id,\ndev-1,\n", "csv", "validation", 1),
        (b"id,a\ndev-1\n", "csv", "validation", 2),
        (b"id\n-dev\n", "csv", "validation", 2),
        (b"a\nb\n\na\n", "csv", "duplicate", 4),
        (b"[" * 100_000, "ndjson", "validation", 1),
        (b'{"id": 3}', "ndjson", "validation", 1),
        (b'"a"\n"\\ud800"', "ndjson", "validation", 2),
        (b"a\nb\n\xc3\n", "csv", "validation", 3),
    ],
)
def test_a_line_that_is_wrong_is_named(data: bytes, form: str, code: str, line: int) -> None:
    with pytest.raises(GroupError) as refused:
        records.read(data, form)
    assert (refused.value.code, refused.value.line) == (code, line), refused.value.text


def test_a_list_is_bounded() -> None:
    many = "\n".join(f"d{n:x}" for n in range(records.MAX_RECORDS + 1)).encode()
    with pytest.raises(GroupError) as refused:
        records.read(many, "csv")
    assert (refused.value.code, refused.value.line) == ("validation", records.MAX_RECORDS + 1)
    with pytest.raises(GroupError, match="too_large"):
        records.read(b"\n" * (records.MAX_BYTES + 1), "csv")


@given(st.binary(max_size=200) | st.text(alphabet='id,"\n\r{}:[]-a1\\', max_size=80).map(str.encode))
def test_no_bytes_raise_anything_but_the_coded_error(data: bytes) -> None:
    for form in ("csv", "ndjson"):
        try:
            found = records.read(data, form)
        except GroupError as refused:
            assert 1 <= refused.line <= data.count(b"\n") + data.count(b"\r") + 1  # noqa: PT017
        else:
            assert len({one.device_id for one in found}) == len(found)
