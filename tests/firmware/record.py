"""Reads the record log from a flash file, by SPEC.md section 8 and apart from the C that wrote it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES, RECORD_BYTES, RECORDS = 4096, 512, 16


@dataclass(frozen=True)
class Record:
    """What the tests look at of one record; the slot is slot 0."""

    number: int
    desired_counter: int
    trust_version: int
    panics: int
    names: tuple[tuple[bytes, bytes, int, int], ...]
    phase: int
    run_bank: int
    flags: int
    attempts: int
    cuts: int
    fail_code: int
    run_id: bytes
    other_id: bytes
    failed_id: bytes
    failed_attempt: int


def parse(raw: bytes) -> Record | None:
    """One record, None when it is not a whole one."""
    if raw[:4] != b"FCR1" or struct.unpack_from("<HH", raw, 4) != (1, RECORD_BYTES):
        return None
    if zlib.crc32(raw[:508]) != struct.unpack_from("<I", raw, 508)[0]:
        return None
    names = tuple(struct.unpack_from("<8s8sII", raw, 80 + 24 * i) for i in range(8))
    phase, run_bank, flags, attempts, cuts, fail_code = raw[272:278]
    run_id, other_id, failed_id, failed_attempt = struct.unpack_from("<16s16s8sI", raw, 280)
    return Record(
        number=struct.unpack_from("<Q", raw, 8)[0],
        desired_counter=struct.unpack_from("<Q", raw, 16)[0],
        trust_version=struct.unpack_from("<I", raw, 32)[0],
        panics=struct.unpack_from("<I", raw, 64)[0],
        names=tuple(name for name in names if any(name[0])),
        phase=phase,
        run_bank=run_bank,
        flags=flags,
        attempts=attempts,
        cuts=cuts,
        fail_code=fail_code,
        run_id=run_id,
        other_id=other_id,
        failed_id=failed_id,
        failed_attempt=failed_attempt,
    )


def records(flash: Path) -> list[Record]:
    """All whole records, oldest first."""
    data = flash.read_bytes()[HEAD_BYTES : HEAD_BYTES + RECORDS * RECORD_BYTES]
    found = [parse(data[at : at + RECORD_BYTES]) for at in range(0, len(data), RECORD_BYTES)]
    return sorted((record for record in found if record), key=lambda record: record.number)


def newest(flash: Path) -> Record:
    """The record in force."""
    return records(flash)[-1]
