"""What a device costs a gateway that comes online, reports and updates: message by message and in batches.

    python -m tests.bench.control [--devices 400] [--batches 1,20,200] [--rounds 3] [--json FILE]

A private PostgreSQL with fsync; the gateway's own handler of control messages, given what a broker would
deliver: sealed uplinks of enrolled devices with a job each. In each round every way takes devices of its own
through the same five steps (online and first report, accepted, downloading, trial, confirmed), one after the
other, in turns, so that all see the same machine. Printed: microseconds of CPU a device and step, of gateway
and of PostgreSQL's process for it, statements, and the ratio to one message a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.query import database

if TYPE_CHECKING:
    from fleet.gateway.handlers import Control
    from fleet.mqtt.client import Arrived
    from tests.devices.makers import Board

RESULTS = Path(__file__).with_name("results")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.control", description=__doc__)
    options.add_argument("--devices", type=int, default=400, help="of each way and round")
    options.add_argument("--batches", default="1,20,200", help="messages a batch, separated by commas")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", type=Path, default=RESULTS / "control.json")
    args = options.parse_args()
    sizes = [int(size) for size in args.batches.split(",")]
    with tempfile.TemporaryDirectory(prefix="control-") as folder, database(Path(folder)):
        found = measure(sizes, devices=args.devices, rounds=args.rounds)
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0


def measure(sizes: Sequence[int], *, devices: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each size of batch and step: what a device cost."""
    from fleet.devices.keys import Keyring
    from fleet.gateway.handlers import Control
    from fleet.gateway.uplink import Reader

    now = datetime.now(UTC)
    numbers = count()
    sums: dict[tuple[int, str], dict[str, float]] = {}
    control: Control | None = None
    for turn in range(rounds):
        for size in sizes if turn % 2 == 0 else reversed(sizes):
            boards = [_board(next(numbers), now) for _ in range(devices)]
            target = _jobs(boards, now, f"{turn}-{size}")
            control = control or Control(Reader(boards[0].installation, Keyring()), slot=0)
            for name, messages in _steps(boards, target, now):
                batches = [messages[i : i + size] for i in range(0, len(messages), size)]
                cost = _cost(control, batches, now)
                row = sums.setdefault((size, name), dict.fromkeys(cost, 0.0))
                for key, value in cost.items():
                    row[key] += value / (devices * rounds)
            _check(boards)
    return [{"batch": size, "step": name, "rounds": rounds, **row} for (size, name), row in sums.items()]


def _board(number: int, now: datetime) -> Board:
    from tests.devices.makers import make_board

    return make_board(f"control-{number:06d}", now)


def _jobs(boards: Sequence[Board], now: datetime, name: str) -> str:
    """A running rollout with an offered job for each device; returns its manifest."""
    from ota.models import Artifact, Job, Manifest, MLModel, ModelVersion, Rollout, Wave

    made = {"created_at": now, "created_by": "bench"}
    target = name.encode().hex().ljust(64, "0")
    model = MLModel.objects.create(name=f"control-{name}", **made)
    artifact = Artifact.objects.create(sha256=target, size=1, data=b"x", created_at=now)
    version = ModelVersion.objects.create(model=model, version="1", artifact=artifact, **made)
    manifest = Manifest.objects.create(
        id=target, mid=target[:16], version=version, seq=1, floor=0, message=b"", leaves=b"", blob=b"",
        chunks=75, class_ids=[], kids=[], **made,
    )  # fmt: skip
    plan = {"waves": [{"percent": 100}]}
    rollout = Rollout.objects.create(
        name=name, manifest=manifest, plan=plan, salt=b"", state="running", **made
    )
    wave = Wave.objects.create(rollout=rollout, n=1, is_gated=False, state="open")
    Job.objects.bulk_create(
        Job(
            rollout=rollout, wave=wave, device_id=board.id, target=target, state="offered", counter=7,
            created_at=now, offered_at=now, state_at=now,
        )
        for board in boards
    )  # fmt: skip
    return target


def _steps(boards: Sequence[Board], target: str, now: datetime) -> Iterator[tuple[str, list[Arrived]]]:
    from fleet.mqtt.codec.names import BankFlag, UpdateState
    from fleet.mqtt.codec.reported import BankReport, SlotReport
    from tests.devices.makers import make_report

    id16 = bytes.fromhex(target)[:16]
    bank = BankReport(id16, 2, 1, BankFlag(0))
    slots = {
        "accepted": SlotReport(UpdateState.MANIFEST_OK, attempt=1, total=75, target=id16),
        "downloading": SlotReport(UpdateState.DOWNLOADING, attempt=1, have=40, total=75, target=id16),
        "trial": SlotReport(UpdateState.TRIAL, attempt=1, have=75, total=75, target=id16, run_bank=bank),
        "confirmed": SlotReport(
            UpdateState.CONFIRMED, attempt=1, have=75, total=75, target=id16, run_bank=bank
        ),
    }
    at = int(now.timestamp())
    first = [(board.online(True), board.reported(make_report(1, 1, unix_s=at))) for board in boards]
    yield "online, first report", [message for pair in first for message in pair]
    for n, (name, slot) in enumerate(slots.items(), 2):
        yield name, [board.reported(make_report(1, n, unix_s=at, slot=slot)) for board in boards]


def _check(boards: Sequence[Board]) -> None:
    from ota.models import Job

    done = Job.objects.filter(device_id__in=[board.id for board in boards], state="confirmed").count()
    if done != len(boards):
        raise SystemExit(f"{done} of {len(boards)} devices ended confirmed")


def _cost(control: Control, batches: Sequence[Sequence[Arrived]], now: datetime) -> dict[str, float]:
    from django.db import connection

    statements = count()

    def counted(execute: Any, *args: Any) -> Any:
        next(statements)
        return execute(*args)

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    server, own, wall = _cpu_of(backend), time.process_time(), time.perf_counter()
    with connection.execute_wrapper(counted):
        for batch in batches:
            control.handle(batch, now=now)
    return {
        "gateway_us": (time.process_time() - own) * 1e6,
        "postgres_us": (_cpu_of(backend) - server) * 1e6,
        "wall_us": (time.perf_counter() - wall) * 1e6,
        "statements": float(next(statements)),
    }


def _cpu_of(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * _TICK_S


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What a person reads."""
    base = {row["step"]: row for row in rows if row["batch"] == rows[0]["batch"]}
    lines = [f"{'step':<24}{'batch':>8}{'gateway us':>12}{'postgres us':>13}{'statements':>12}{'cheaper':>9}"]
    for row in sorted(rows, key=lambda one: list(base).index(one["step"])):
        both = [one["gateway_us"] + one["postgres_us"] for one in (base[row["step"]], row)]
        lines.append(
            f"{row['step']:<24}{row['batch']:>8}{row['gateway_us']:>12,.0f}{row['postgres_us']:>13,.0f}"
            f"{row['statements']:>12.2f}{both[0] / both[1]:>8.1f}x"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
