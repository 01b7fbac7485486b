"""Thousands of true firmware cores take an update from the backend's own signing and staging code.

    python -m tests.bench.swarm [--devices 5000] [--kib 300] [--rate 500] [--loss 0.01] [--cut-per-hour 2]
        [--bad-golden 0.02] [--crash 0.01] [--seed 1] [--deadline 900] [--json FILE]

A private Mosquitto gets a plain listener on loopback for the swarm (`device_firmware/host/swarm.c`: true
cores, libsodium, power cuts; the engine is played, it knows no TFLM). This process is the backend without its
database: `ota.signing`, `ota.trust`, `ota.desired`, `ota.chunking` and `fleet.mqtt.client`. All devices
install a small model, then version 2 with --kib; on some of them the seed makes version 2 fail its golden
vectors or crash. At the end the retained `reported` of every device is read back, its MAC checked, and
compared with the script.

Printed: a table, and with --json everything as one object. Exit 0 only if every device ended as scripted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_firmware.host import build
from device_firmware.host.core import encode_operators
from fleet.mqtt import broker_files, topics
from fleet.mqtt.codec import envelope
from fleet.mqtt.codec.names import Action
from fleet.mqtt.codec.reported import parse_reported
from fleet.stack import mosquitto
from fleet.stack.paths import RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.processes import Supervisor
from fleet.stack.tls import ensure_tls
from ota.desired import Desired, DesiredEntry, sign_desired
from ota.tensors import GoldenVector
from tests.bench.saving import SAVINGS, configure
from tests.firmware import artifacts
from tests.stack.services import Broker

SLOT_BYTES = 376_832  # slot 0 of partitions.csv
ARENA_BYTES = 100_000
CONFIG = {1: 300, 2: 60, 3: 1000}
"""Heartbeat, telemetry window, inference period: SPEC.md's defaults."""
STATES = {"pass": ("confirmed", 0), "bad_golden": ("reverted", 17), "crash": ("reverted", 19)}
PUBLISH_S = 300.0


@dataclass(frozen=True)
class Person:
    """One device: what the broker and the backend know of it."""

    device_id: str
    secret: str
    mac_key: bytes


def people(count: int, seed: int) -> list[Person]:
    """Devices with keys that follow from the seed."""

    def key(kind: str, number: int) -> bytes:
        return hashlib.sha256(f"swarm {seed} {kind} {number}".encode()).digest()

    return [Person(f"sw-{n:05d}", key("secret", n).hex(), key("mac", n)) for n in range(count)]


def fleet_file(path: Path, devices: list[Person]) -> Path:
    """What `swarm --file` reads."""
    lines = [
        f"installation {artifacts.INSTALLATION.hex()}",
        f"class {artifacts.CLASS_ID.hex()}",
        *(f"root {key.public_key.hex()}" for key in artifacts.ROOTS),
        "root_threshold 2",
        "least_trust 1",
        f"arena {ARENA_BYTES}",
        f"slot {SLOT_BYTES}",
        "firmware 1.0.0",
        f"operators {encode_operators(artifacts.OPERATORS).hex()}",
        "probation 5 5",
        *(f"device {one.device_id} {one.secret} {one.mac_key.hex()}" for one in devices),
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def echoing(count: int) -> list[GoldenVector]:
    """Golden vectors that the played engine answers: each output byte is the input byte at its place."""
    return [GoldenVector((bytes([n, 2, 3, 4]),), (bytes([n, 2, 3]),)) for n in range(1, count + 1)]


@contextmanager
def broker_of(folder: Path, devices: list[Person], *, saving: str) -> Iterator[tuple[Broker, int]]:
    """The stack's Mosquitto with a plain loopback listener beside the TLS one; yields it and that port.

    saving: when it writes its store to disk, a key of SAVINGS.
    """
    run = RunDir(folder).ensure()
    port, plain, tls = free_port(), free_port(), ensure_tls(run)
    hashes = {one.device_id: broker_files.hash_secret(one.secret) for one in devices}
    spec = mosquitto.spec(run, port, tls)
    broker_files.change(mosquitto.password_file(run), add=hashes)
    configure(run, saving, more=(f"listener {plain} {LOOPBACK}",))
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(spec)
        yield Broker(run, port, tls, supervisor), plain


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Backend:
    """Signs and publishes as the product does, without its database."""

    def __init__(self, devices: list[Person]) -> None:
        from fleet.mqtt.client import BackendClient  # settings are read when it is imported

        self.devices = devices
        self.publishes = Counter[str]()
        self._client = BackendClient("stage").connect()

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def _publish(self, kind: str, items: list[tuple[str, bytes]]) -> None:
        self.publishes[kind] += self._client.publish_all(items, deadline_s=PUBLISH_S)

    def trust(self) -> None:
        """Publish trust document 1."""
        self._publish("trust", [(topics.TRUST, artifacts.signed_trust(artifacts.trust()))])

    def stage(self, item: artifacts.Artifact, kind: str = "model") -> None:
        """Publish a model's retained messages and read them back, as `ota.staging.stage` does."""
        messages = item.publications()
        self._publish(kind, list(messages.items()))
        found = self._client.read_retained(
            topics.model_filter(item.mid), expect=len(messages), timeout_s=PUBLISH_S
        )
        if found != messages:
            raise SystemExit("the broker does not hold what was staged")

    def desire(self, item: artifacts.Artifact, attempt: int) -> None:
        """A signed desired document for each device."""
        now_s = int(time.time())
        entries = {0: DesiredEntry(Action.RUN, item.id, attempt=attempt)}

        def documents() -> Iterator[tuple[str, bytes]]:
            for one in self.devices:
                document = Desired(
                    one.device_id,
                    1 << 40 | now_s << 8 | attempt,
                    1,
                    issued=now_s,
                    entries=entries,
                    config=CONFIG,
                )
                signed = sign_desired(document, artifacts.ONLINE, installation_id=artifacts.INSTALLATION)
                yield topics.desired(one.device_id), signed

        self._publish("desired", list(documents()))

    def ends(self, item: artifacts.Artifact) -> Counter[str]:
        """State and code of slot 0 as every device reported it, its MAC checked."""
        found: Counter[str] = Counter()
        held = self._client.read_retained(
            topics.uplink_filter("reported"), expect=len(self.devices), timeout_s=PUBLISH_S
        )
        for one in self.devices:
            topic = topics.device(one.device_id, "reported")
            payload = envelope.open_uplink(
                "reported",
                held[topic],
                topic=topic,
                installation_id=artifacts.INSTALLATION,
                key_lookup=envelope.keyring(one.mac_key),
            )
            slot = parse_reported(payload).slots[0]
            if slot.target != item.id[:16]:
                found["another target"] += 1
            else:
                found[f"{slot.state.name.lower()}({int(slot.code or 0)})"] += 1
        return found


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole benchmark; returns everything that was measured."""
    devices = people(args.devices, args.seed)
    program = build.build_swarm(sanitize=args.sanitize)
    luck = random.Random(args.seed)  # no two chunks alike
    first = artifacts.artifact(1, data=luck.randbytes(20_000), golden=echoing(2))
    second = artifacts.artifact(2, data=luck.randbytes(args.kib * 1024), golden=echoing(4))
    with broker_of(folder, devices, saving=args.saving) as (broker, plain):
        os.environ.update(broker.env(), DJANGO_SETTINGS_MODULE="fleet.settings")
        broker_pid = int(mosquitto.pid_file(broker.run).read_text())
        backend = Backend(devices)
        backend.trust()
        backend.stage(first)
        backend.desire(first, 1)
        command = [program, "--file", fleet_file(folder / "fleet", devices), "--port", plain]
        command += ["--devices", args.devices, "--goal", first.mid, "--goal", second.mid]
        for name in ("rate", "loss", "cut_per_hour", "bad_golden", "crash", "seed"):
            command += [f"--{name.replace('_', '-')}", getattr(args, name)]
        command += ["--duration", args.deadline]
        with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as swarm:
            try:
                result = _follow(args, swarm, backend, second, broker_pid)
            finally:
                swarm.terminate()
        result["exit"] = swarm.returncode
        result["reported"] = dict(backend.ends(second))
        result["backend"]["publishes"] = dict(backend.publishes)
        backend.close()
    result["verdict"] = _judge(result, args.devices)
    return result


def _follow(
    args: argparse.Namespace,
    swarm: subprocess.Popen[str],
    backend: Backend,
    second: artifacts.Artifact,
    broker_pid: int,
) -> dict[str, Any]:
    """Read the swarm's lines; offer version 2 once all run version 1."""
    seen: dict[str, Any] = {"options": {k: v for k, v in vars(args).items() if k != "json"}, "goals": []}
    rows: list[dict[str, Any]] = []
    began, ours = time.monotonic(), _own_cpu()
    broker_before = [cpu_s(broker_pid)]
    assert swarm.stdout is not None
    for text in swarm.stdout:
        line = json.loads(text)
        match line["event"]:
            case "start":
                seen["engine"] = line["engine"]
            case "states":
                rows.append({"s": line["s"], "settled": line["settled"], **line["states"]})
                if sum(line["states"].values()) != args.devices:
                    raise SystemExit(f"devices are lost: {line}")
                if args.progress:
                    print(f"{line['s']:7.1f} s  {line['states']}", file=sys.stderr)
            case "goal":
                line["broker_cpu_s"] = round(cpu_s(broker_pid) - broker_before[-1], 2)
                line["wall_s"] = round(time.monotonic() - began, 2)
                seen["goals"].append(line)
                if len(seen["goals"]) == 1:
                    staging, staging_broker = _own_cpu(), cpu_s(broker_pid)
                    backend.stage(second, "second model")
                    seen["staging_cpu_s"] = round(_own_cpu() - staging, 2)
                    seen["staging_broker_cpu_s"] = round(cpu_s(broker_pid) - staging_broker, 2)
                    began, ours = time.monotonic(), _own_cpu()
                    broker_before.append(cpu_s(broker_pid))
                    backend.desire(second, 2)
                    seen["desired_s"] = round(time.monotonic() - began, 2)
            case "end":
                seen["end"] = line
    seen["backend"] = {"cpu_s": round(_own_cpu() - ours, 2)}
    seen["states"] = rows
    return seen


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _judge(result: dict[str, Any], devices: int) -> str:
    """`ok`, or what is wrong. Every device must have ended as its line of the script says."""
    if result["exit"] != 0 or len(result["goals"]) != 2:
        return f"the swarm ended with {result['exit']} after {len(result['goals'])} goals"
    update = result["goals"][1]
    expected = {
        "{}({})".format(*STATES[kind]): 0 for kind in STATES
    }  # pass and failures have different pairs, so each sum is its own
    for kind, count in update["scripted"].items():
        expected["{}({})".format(*STATES[kind])] += count
    expected = {key: count for key, count in expected.items() if count}
    for where in (update["ends"], result["reported"]):
        if where != expected:
            return f"expected {expected}, got {where}"
    if sum(expected.values()) != devices or update["as_scripted"] != devices:
        return f"{update['as_scripted']} of {devices} ended as scripted"
    return "ok"


def table(result: dict[str, Any]) -> str:
    """What a person reads."""
    options, end = result["options"], result["end"]
    update = result["goals"][-1]
    first = result["goals"][0]
    desired = result["backend"]["publishes"]
    rows = [
        ("cores, update", f"{options['devices']:,}, {options['kib']} KiB"),
        ("engine", result["engine"]),
        (
            "loss of chunks; cuts per device and hour; connections/s",
            f"{options['loss']:.1%}; {options['cut_per_hour']:g}; {options['rate']}",
        ),
        (
            "first model: all confirmed after",
            f"{first['wall_s']:.1f} s from the start ({options['rate']}/s connecting)",
        ),
        (
            "update: half, 99 %, all ended after",
            ", ".join(
                f"{update[key] - first['s']:.1f} s" for key in ("half_s", "p99_s", "last_s") if key in update
            ),
        ),
        ("ends in the swarm", update["ends"]),
        ("ends as reported, MAC checked", result["reported"]),
        ("script", update["scripted"]),
        (
            "power cuts (in a flash operation), panics",
            f"{end['cuts']} ({end['cuts_in_flash']}), {end['panics']}",
        ),
        ("chunks received, lost on purpose", f"{end['chunks']:,}, {end['chunks_lost']:,}"),
        (
            "CPU of all cores",
            f"{end['cpu_s']:.1f} s, {end['cpu_s'] / options['devices'] * 1000:.1f} ms a core",
        ),
        (
            "CPU of the broker: first model, update",
            f"{first['broker_cpu_s']:.1f} s, {update['broker_cpu_s']:.1f} s",
        ),
        ("CPU of the backend during the update", f"{result['backend']['cpu_s']:.1f} s"),
        ("backend publishes", ", ".join(f"{name} {count:,}" for name, count in desired.items())),
        (
            "memory a core (peak RSS), of which struct fc_core",
            f"{end['kib_per_core']:.1f} KiB, {end['core_struct_bytes'] / 1024:.1f} KiB",
        ),
        (
            "flash pages: in memory, referred to",
            f"{end['pages_shared'] + end['pages_private']:,}, {end['pages_referred_to']:,}",
        ),
        ("broker saves its store", options["saving"]),
        ("verdict", result["verdict"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def parser() -> argparse.ArgumentParser:
    """Options; see the module docstring."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.swarm", description=__doc__)
    options.add_argument("--devices", type=int, default=5000)
    options.add_argument("--kib", type=int, default=300)
    options.add_argument("--rate", type=int, default=500)
    options.add_argument("--loss", type=float, default=0.01)
    options.add_argument("--cut-per-hour", type=float, default=2.0)
    options.add_argument("--bad-golden", type=float, default=0.02)
    options.add_argument("--crash", type=float, default=0.01)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--deadline", type=int, default=900, help="seconds")
    options.add_argument("--saving", choices=SAVINGS, default="never", help="when the broker saves its store")
    as_stack: dict[str, Any] = {"action": "store_const", "const": "stack", "dest": "saving"}
    options.add_argument("--durable", **as_stack, help="let the broker save as the stack does")
    options.add_argument("--sanitize", action="store_true", help="build the swarm with ASan and UBSan")
    options.add_argument("--progress", action="store_true", help="states over time on stderr")
    options.add_argument("--json", type=Path, help="write everything that was measured here")
    return options


def main() -> int:
    """Command line entry. 0: every device ended as scripted."""
    args = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        result = run(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if result["goals"] and "end" in result:
        print(table(result))
    else:
        print(result["verdict"])
    return 0 if result["verdict"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
