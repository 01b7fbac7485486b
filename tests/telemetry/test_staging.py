"""Windows as the bytes of a binary COPY: by column what the format says row by row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from struct import pack

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.mqtt.codec.names import Clock
from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import staging
from tests.mqtt import strategies as own
from tests.vectors.telemetry import window

NOW = datetime(2026, 11, 27, 12, 0, 0, 250_000, tzinfo=UTC)
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

device_ids = st.sampled_from(["a", "dev-1", "dev-2", "6055f9c1a2b3", "x" * 64])
sent = st.lists(st.tuples(device_ids, own.batches()), max_size=6)


def row(device_id: str, batch: Batch, n: int, version_id: int) -> bytes:
    """A row as the manual describes it: the number of fields, then length and value of each."""
    one = batch.windows[n]
    at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=one.ts_ms)
    lag_s = int((NOW - at) / timedelta(seconds=1))
    fields = [
        device_id.encode(),
        pack(">q", (at - POSTGRES_EPOCH) // timedelta(microseconds=1)),
        pack(">q", one.seq),
        pack(">q", version_id),
        *(pack(">i", value) for value in (one.dt_ms, one.n, one.us_mean, one.us_max, one.anom_max_e3)),
        *(pack(">i", value) for value in (one.anom_n, one.heap_min_64b, max(-(2**31) + 1, lag_s))),
        *(pack(">h", value) for value in (one.score_e4, one.top, one.lab_n, one.lab_ok, one.rssi_dbm)),
        *(pack(">h", value) for value in (one.flags, batch.slot, int(batch.clock))),
    ]
    return pack(">h", len(fields)) + b"".join(pack(">i", len(field)) + field for field in fields)


def rows(data: bytes) -> list[bytes]:
    """The rows of a binary COPY, taken apart."""
    head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    assert data.startswith(head)
    assert data.endswith(b"\xff\xff")
    at, found = len(head), []
    while at < len(data) - 2:
        start, at = at, at + 2
        for _ in range(int.from_bytes(data[start : start + 2], "big")):
            at += 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[start:at])
    return found


@settings(max_examples=200)
@given(sent=sent)
@example(sent=[])
def test_every_window_is_one_row_of_its_device_and_model_run(sent: list[tuple[str, Batch]]) -> None:
    runs = sorted({(batch.mid, batch.model, batch.version) for _, batch in sent})
    versions = {run: 2**40 + number for number, run in enumerate(runs)}
    expected = [
        row(device_id, batch, n, versions[batch.mid, batch.model, batch.version])
        for device_id, batch in sent
        for n in range(len(batch.windows))
    ]
    assert sorted(rows(staging.pack(sent, versions, now=NOW))) == sorted(expected)


def test_a_record_of_an_hour_ahead_has_a_negative_lag() -> None:
    later_ms = int((NOW + timedelta(hours=1)).timestamp() * 1000)
    one = window()._replace(ts_ms=later_ms)
    batch = Batch(7, 20, later_ms, Clock.SNTP, 0, "har", "1", "00" * 8, bytes(4), (one,))
    versions = {(batch.mid, batch.model, batch.version): 7}
    assert rows(staging.pack([("dev-1", batch)], versions, now=NOW)) == [row("dev-1", batch, 0, 7)]
