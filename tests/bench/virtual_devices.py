"""What a virtual device costs in memory and CPU, with TFLM in its own process and with shared workers.

    python -m tests.bench.virtual_devices [--devices 40] [--engines 0 2] [--seconds 15]

A private Mosquitto and real virtual devices (C core, TFLM, recordings, TLS), each on activity 1.0.1 with an
inference every 100 ms. Memory is read from /proc/<pid>/smaps_rollup: `private` is what a further device adds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from fleet.mqtt.codec.names import UpdateState
from tests.firmware.virtual import artifact, backend_of, model_bytes, running
from tests.stack.services import private_mosquitto, wait_until

FIELDS = ("Rss", "Pss", "Private_Dirty")


def memory_kib(pid: int) -> dict[str, int]:
    """Resident, proportional and private memory of a process."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in FIELDS:
            found[name] = int(rest.split()[0])
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(devices: int, engines: int, seconds: float) -> str:
    """One row: what a device and the workers use once all run the model."""
    good = artifact(model_bytes("activity-v1"), 1)
    names = [f"vd-{number:04d}" for number in range(devices)]
    with (
        tempfile.TemporaryDirectory() as folder,
        private_mosquitto(Path(folder) / "broker") as broker,
        running(Path(folder) / "devices", "--engines", str(engines)) as fleet,
        backend_of(broker) as backend,
    ):
        identities = [backend.identity(name) for name in names]
        for name in names:
            backend.want(name, good)
        fleet.add(*identities)
        for name in names:
            backend.until_state(name, UpdateState.CONFIRMED, good, deadline_s=180)
        status = fleet.ask({"do": "status"})["devices"]
        pids = [one["pid"] for one in status.values()]
        family = Path(f"/proc/{fleet.process.pid}/task/{fleet.process.pid}/children").read_text().split()
        workers = [int(pid) for pid in family if int(pid) not in pids]
        before = {pid: cpu_s(pid) for pid in (*pids, *workers)}
        ends_at = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > ends_at, deadline_s=seconds + 5)
        used = {pid: (cpu_s(pid) - before[pid]) / seconds for pid in before}
        rows = [memory_kib(pid) for pid in pids]
        mean = {name: sum(row[name] for row in rows) / len(rows) / 1024 for name in FIELDS}
        shared = sum(memory_kib(pid)["Private_Dirty"] for pid in workers) / 1024
        all_of = mean["Private_Dirty"] + shared / devices
        return (
            f"{engines:>7} {devices:>7}  {mean['Rss']:>6.1f} {mean['Pss']:>6.1f}"
            f" {mean['Private_Dirty']:>8.1f}"
            f"  {shared:>7.1f}  {all_of:>9.1f}"
            f"  {sum(used[pid] for pid in pids) / devices * 1000:>8.1f}"
            f"  {sum(used[pid] for pid in workers) * 1000:>8.1f}"
        )


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.virtual_devices", description=__doc__)
    options.add_argument("--devices", type=int, default=40)
    options.add_argument("--engines", type=int, nargs="+", default=[0, 2])
    options.add_argument("--seconds", type=float, default=15.0)
    args = options.parse_args()
    print("                  MiB of a device            MiB of     private    CPU ms/s  CPU ms/s")
    print("engines devices     rss    pss  private   workers   a device   a device   workers")
    for engines in args.engines:
        print(measure(args.devices, engines, args.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
