"""Where a gateway's processor time goes, step by step, and what storing costs on both sides.

    python -m tests.bench.telemetry.read_path [--records 1,10,60] [--devices 1000] [--commit 200,1000,5000]

In one process, without a broker: what the lean reader would have read from the socket is given to each step
in turn. `strict` is the way of unusual messages. store: `ingest.store` of batches of --commit records into
a durable PostgreSQL, processor time here, there, and the time by the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tests.bench.telemetry.cells import family_cpu_s
from tests.bench.telemetry.installation import MID, Installation, installed

ROUNDS = 5


def main() -> None:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.telemetry.read_path", description=__doc__)
    numbers: Callable[[str], list[int]] = lambda text: [int(one) for one in text.split(",")]  # noqa: E731
    options.add_argument("--records", type=numbers, default=[1, 10, 60])
    options.add_argument("--devices", type=int, default=1000)
    options.add_argument("--commit", type=numbers, default=[200, 1000, 5000])
    args = options.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="path-") as folder,
        installed(Path(folder), devices=args.devices, saving="stack") as there,
    ):
        for number, records in enumerate(args.records):
            print(f"{records} records a message, microseconds a message (best of {ROUNDS})")
            for name, us in steps(there, records, boot=100 + number):
                print(f"  {name:<22}{us:>8.2f}")
        print(f"{'store':<8}{'records':>8}{'a commit':>9}{'here':>8}{'there':>8}{'clock':>8}  us a record")
        boot = 200
        for records in args.records:
            for commit in args.commit:
                boot += 1
                here, away, clock = store(there, records, commit, boot=boot)
                print(f"{'':<8}{records:>8}{commit:>9}{here:>8.2f}{away:>8.2f}{clock:>8.2f}")


def steps(there: Installation, records: int, *, boot: int) -> list[tuple[str, float]]:
    """Each step and its microseconds a message."""
    from fleet.devices.installation import installation_id
    from fleet.gateway import frames
    from fleet.gateway.pace import Pace
    from fleet.gateway.uplink import Reader
    from fleet.mqtt.client import Arrived
    from fleet.mqtt.codec import cose, telemetry
    from fleet.mqtt.codec.envelope import seal_uplink
    from fleet.telemetry import staging

    identity, now = installation_id(), datetime.now(UTC)
    batches = made(there, records, 1, boot=boot, now=now)
    sealed = []
    for person, batch in batches:
        topic = f"f1/dev/{person.device_id}/telemetry"
        payload = telemetry.encode_batch(batch)
        sealed.append((topic, payload, seal_uplink(
            "telemetry", payload, topic=topic, installation_id=identity, key=person.mac_key
        )))  # fmt: skip
    stream = b"".join(_published(topic, message) for topic, _, message in sealed)
    arrived = [Arrived(topic, message, False, 1, 1) for topic, _, message in sealed]
    keys = [person.mac_key for person, _ in batches]
    reader, pace = Reader(identity), Pace(per_s=1e9, burst=10**9)
    reader.read_all(arrived, now=now)  # keys and the model run, once
    versions = {("00" * 8, "har", "1"): 1, (batches[0][1].mid, batches[0][1].model, batches[0][1].version): 1}
    rows = [(person.device_id, batch) for person, batch in batches]

    def verify() -> None:
        for (topic, _, message), key in zip(sealed, keys, strict=True):
            aad = cose.external_aad(identity, topic)
            cose.verify_mac0("telemetry", message, lambda _kid, key=key: key, aad=aad, max_bytes=4096)

    work: list[tuple[str, Callable[[], Any]]] = [
        ("frames", lambda: frames.FrameReader().feed(stream)),
        ("pace", lambda: [pace.judge(one.topic, now_s=1.0) for one in arrived]),
        ("envelope and MAC", verify),
        ("same, strict, no MAC", lambda: [cose._strict_mac0("telemetry", m, 4096) for _, _, m in sealed]),
        ("batch", lambda: [telemetry.parse_batch(payload) for _, payload, _ in sealed]),
        ("batch, strict", lambda: [telemetry.parse_strictly(payload) for _, payload, _ in sealed]),
        ("reader, all of it", lambda: reader.read_all(arrived, now=now)),
        ("rows for COPY", lambda: staging.pack(rows, versions, now=now)),
        ("acknowledgements", lambda: frames.acknowledge([one.mid for one in arrived])),
    ]
    return [(name, _best_s(step) / len(sealed) * 1e6) for name, step in work]


def store(there: Installation, records: int, commit: int, *, boot: int) -> tuple[float, float, float]:
    """Microseconds a record: here, in PostgreSQL, and by the clock."""
    from fleet.telemetry import ingest

    now = datetime.now(UTC)
    times = max(1, 20_000 // (len(there.people) * records))
    deliveries = [
        ingest.Delivery(person.device_id, batch)
        for person, batch in made(there, records, times, boot=boot, now=now)
    ]
    messages = max(1, commit // records)
    ingest.ensure_partitions(deliveries)
    began_s, here_s, away_s = time.perf_counter(), time.process_time(), family_cpu_s(there.postgres_pid)
    stored = 0
    for start in range(0, len(deliveries), messages):
        stored += ingest.store(deliveries[start : start + messages], slot=0, now=now).windows
    assert stored == len(deliveries) * records
    spent = (
        time.process_time() - here_s,
        family_cpu_s(there.postgres_pid) - away_s,
        time.perf_counter() - began_s,
    )
    here, away, clock = (one / stored * 1e6 for one in spent)
    return here, away, clock


def made(there: Installation, records: int, times: int, *, boot: int, now: datetime) -> Sequence[Any]:
    """(person, batch) in turn for every device, `times` over."""
    from fleet.mqtt.codec.names import Clock
    from fleet.mqtt.codec.telemetry import Batch, Window, encode_batch, parse_strictly

    t0_ms = int(now.timestamp() * 1000) - 3_600_000
    found = []
    for k, person in enumerate(islice(cycle(there.people), times * len(there.people))):
        turn = k // len(there.people)
        rows = tuple(
            Window(0, 0, 1, 250, 1500 + n, 2600, 9100, 2, 120, 1, 0, 0, 1400, -61, 0) for n in range(records)
        )
        batch = Batch(
            boot,
            turn * records,
            t0_ms + turn,
            Clock.SNTP,
            0,
            "activity",
            "1.0.0",
            MID.hex(),
            b"\1\2\3\4",
            rows,
        )
        found.append((person, parse_strictly(encode_batch(batch))))
    return found


def _published(topic: str, payload: bytes) -> bytes:
    raw = topic.encode()
    body = len(raw).to_bytes(2, "big") + raw + b"\x00\x01\x00" + payload
    size = bytes((len(body),)) if len(body) < 128 else bytes((len(body) & 0x7F | 0x80, len(body) >> 7))
    return b"\x32" + size + body


def _best_s(step: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began_s = time.process_time()
        step()
        best = min(best, time.process_time() - began_s)
    return best


if __name__ == "__main__":
    main()
