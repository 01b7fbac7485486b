"""What it costs backend and broker to bring one model to many devices, against two other ways, in one run.

    python -m tests.bench.delivery [--devices 1000,5000] [--kib 300] [--runs 3] [--rival-devices 5000]
        [--savings "never,change,5 s"] [--saving-devices 300] [--json FILE]

Ours: the swarm's true cores (`tests.bench.swarm`) without faults: desired documents, manifest, chunks, trial
and reports. Ideal broadcast: the same chunks, once, to clients that only read (`tests.bench.crowd`); nobody
could resume or repair anything so. Request and response: a device asks for each chunk, a segment at a time,
and one backend process answers from memory; it does nothing else. Rivals use QoS 0 and no flash. The
backend's figure for ours is staging alone, which is what the rivals' does; the documents of a rollout cost
any of the three the same and are `backend_all_cpu_s`.

The broker's figure for ours has the whole update in it: desired document, manifest, leaf list, and a report
of each state at QoS 1, which any way of delivery would cost. "Ours, one chunk" is the same update with a
model of one chunk; what ours costs more than that is the delivery of the others, segments and their
subscriptions included, and is what the goal of 1.25 x ideal broadcast is held against ("delivery x").

The ways take turns --runs times, each with a broker of its own, and the medians are shown. With more devices
than --rival-devices the rivals run with that many and their costs are scaled up by the number of devices,
which the table marks with a star; a broker's cost a message rises with its clients, so that flatters rivals.

The second table updates --saving-devices cores once for each way of the broker to save its store.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet.mqtt import topics
from fleet.stack import mosquitto
from fleet.stack.ports import LOOPBACK
from ota import chunking
from tests.bench import crowd, swarm
from tests.bench.saving import SAVINGS
from tests.stack.services import Broker

RESULTS = Path(__file__).with_name("results")
SEED = 1
MID = "00" * 8
ROW = "{:<44}{:>9}{:>12}{:>12}{:>13}{:>12}{:>13}"


def ours(devices: int, kib: int, saving: str) -> dict[str, Any]:
    """One update of the swarm; publishes are what the broker acknowledged."""
    args = swarm.parser().parse_args([])
    vars(args).update(devices=devices, kib=kib, saving=saving, loss=0.0, cut_per_hour=0.0)
    vars(args).update(bad_golden=0.0, crash=0.0, deadline=240, seed=SEED)
    with tempfile.TemporaryDirectory(prefix="delivery-") as folder:
        found = swarm.run(args, Path(folder))
    if found["verdict"] != "ok":
        raise SystemExit(f"the swarm: {found['verdict']}")
    update = found["goals"][1]
    return {
        "devices": devices,
        "saving": saving,
        "publishes": found["backend"]["publishes"]["second model"],
        "chunks": -(-kib * 1024 // chunking.CHUNK_BYTES),
        "backend_cpu_s": found["staging_cpu_s"],
        "backend_all_cpu_s": found["backend"]["cpu_s"],
        "broker_cpu_s": round(update["broker_cpu_s"] + found["staging_broker_cpu_s"], 2),
        "wall_s": round(update["last_s"] - found["goals"][0]["s"], 1),
    }


def rival(mode: str, devices: int, kib: int) -> dict[str, Any]:
    """The same chunks by another way, with a broker that keeps its store in memory."""
    people = swarm.people(devices, SEED)
    chunks = [os.urandom(chunking.CHUNK_BYTES) for _ in range(-(-kib * 1024 // chunking.CHUNK_BYTES))]
    with (
        tempfile.TemporaryDirectory(prefix="delivery-") as folder,
        swarm.broker_of(Path(folder), people, saving="never") as (broker, plain),
    ):
        os.environ.update(broker.env(), DJANGO_SETTINGS_MODULE="fleet.settings")
        pid = int(mosquitto.pid_file(broker.run).read_text())
        with _backend(broker, chunks) as backend, _crowd(mode, devices, plain, len(chunks)) as pipe:
            before, own, began = swarm.cpu_s(pid), _own_cpu_s(), time.monotonic()
            if mode == "broadcast":
                for index, chunk in enumerate(chunks):
                    backend.client.publish(topics.chunk(MID, index), chunk, qos=0)
                    backend.publishes += 1
            if not pipe.poll(crowd.DEADLINE_S + 10):
                raise SystemExit(f"{mode}: the crowd did not end")
            messages, requests = pipe.recv()
            return {
                "devices": devices,
                "publishes": backend.publishes,
                "messages": messages,
                "requests": requests,
                "chunks": len(chunks),
                "backend_cpu_s": round(_own_cpu_s() - own, 2),
                "broker_cpu_s": round(swarm.cpu_s(pid) - before, 2),
                "wall_s": round(time.monotonic() - began, 1),
            }


class _Backend:
    """Answers requests for chunks from memory."""

    def __init__(self, broker: Broker, chunks: list[bytes]) -> None:
        import ssl

        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.publishes = 0
        self._chunks = chunks
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="svc.test-0")
        self.client.username_pw_set("svc.test-0", broker.secret("svc.test-0"))
        self.client.tls_set_context(ssl.create_default_context(cafile=str(broker.tls.ca)))
        self.client.on_message = self._answer
        self.client.on_connect = lambda client, *_: client.subscribe(topics.uplink_filter("event"))
        self.client.connect(LOOPBACK, broker.port, keepalive=300)
        self.client.loop_start()

    def _answer(self, client: Any, _data: object, message: Any) -> None:
        device_id = message.topic.split("/")[2]
        client.publish(topics.cmd(device_id), self._chunks[int.from_bytes(message.payload, "big")], qos=0)
        self.publishes += 1


@contextmanager
def _backend(broker: Broker, chunks: list[bytes]) -> Iterator[_Backend]:
    backend = _Backend(broker, chunks)
    try:
        yield backend
    finally:
        backend.client.disconnect()
        backend.client.loop_stop()


@contextmanager
def _crowd(mode: str, devices: int, port: int, chunks: int) -> Iterator[Any]:
    """The devices in a process of their own, all subscribed."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=crowd.child, args=(theirs, mode, devices, SEED, port, MID, chunks))
    process.start()
    theirs.close()
    try:
        if not mine.poll(180) or mine.recv() != "ready":
            raise SystemExit(f"{mode}: the crowd did not connect")
        yield mine
    finally:
        process.terminate()
        process.join()


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _apart(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """`work` in a process of its own: settings are read once a process, and each way has its own broker."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def compare(devices: int, kib: int, rivals: int, runs: int) -> dict[str, Any]:
    """Ours and the two rivals with this many devices: medians of `runs` turns, all figures under `runs`."""
    few = min(devices, rivals)
    one_kib = chunking.CHUNK_BYTES // 1024
    turns = []
    for turn in range(runs):
        found = {
            "ours": _apart(ours, devices, kib, "never"),
            "broadcast": _apart(rival, "broadcast", few, kib),
            "one_chunk": _apart(ours, devices, one_kib, "never"),
            "ask": _apart(rival, "ask", few, kib),
        }
        turns.append(found)
        print(f"{devices} devices, turn {turn + 1}: {json.dumps(found)}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {way: _medians([turn[way] for turn in turns]) for way in turns[0]}
    mine = result["ours"]
    for mode in ("broadcast", "ask"):
        other = result[mode]
        other["scale"] = devices / few
        for key in ("backend_cpu_s", "broker_cpu_s"):
            other[f"{key}_at_size"] = round(other[key] * other["scale"], 2)
        other["backend_ratio"] = round(other["backend_cpu_s_at_size"] / max(mine["backend_cpu_s"], 0.01), 1)
        other["broker_ratio"] = round(mine["broker_cpu_s"] / max(other["broker_cpu_s_at_size"], 0.01), 2)
    result["delivery_ratio"] = round(delivery_ratio(result), 2)
    return result | {"runs": turns}


def delivery_ratio(result: dict[str, Any]) -> float:
    """Broker CPU of delivering a chunk to every device, against ideal broadcast of one."""
    mine, least, ideal = result["ours"], result["one_chunk"], result["broadcast"]
    extra = (mine["broker_cpu_s"] - least["broker_cpu_s"]) / (mine["chunks"] - least["chunks"])
    return extra / max(ideal["broker_cpu_s_at_size"] / ideal["chunks"], 1e-6)


def _medians(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number's median over the turns; what is no number is the first turn's."""
    return {
        key: round(statistics.median(one[key] for one in found), 2) if isinstance(value, float) else value
        for key, value in found[0].items()
    }


def table(result: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [ROW.format("way", "devices", "publishes", "backend s", "broker s", "backend x", "broker x")]
    for found in result["sizes"]:
        mine = found["ours"]
        numbers = (
            f"{mine['devices']:,}",
            f"{mine['publishes']:,}",
            mine["backend_cpu_s"],
            mine["broker_cpu_s"],
        )
        lines.append(ROW.format("ours, the whole update", *numbers, 1, 1))
        least = _numbers(found["one_chunk"])
        lines.append(ROW.format("ours, one chunk", *least, "", f"delivery {found['delivery_ratio']}"))
        for mode, name in (("broadcast", "ideal broadcast, chunks only"), ("ask", "request and response")):
            other = found[mode]
            star = "*" if other["scale"] > 1 else ""
            numbers = (
                f"{mine['devices']:,}{star}",
                f"{round(other['publishes'] * (other['scale'] if mode == 'ask' else 1)):,}",
                other["backend_cpu_s_at_size"],
                other["broker_cpu_s_at_size"],
            )
            lines.append(ROW.format(name, *numbers, other["backend_ratio"], f"1/{other['broker_ratio']}"))
    for row in result["savings"]:
        numbers = _numbers(row)
        lines.append(ROW.format(f"ours, broker saves: {row['saving']}", *numbers, f"{row['wall_s']} s", ""))
    return "\n".join(lines)


def _numbers(row: dict[str, Any]) -> tuple[Any, ...]:
    return f"{row['devices']:,}", f"{row['publishes']:,}", row["backend_cpu_s"], row["broker_cpu_s"]


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.delivery", description=__doc__)
    options.add_argument("--devices", default="1000,5000")
    options.add_argument("--kib", type=int, default=300)
    options.add_argument("--runs", type=int, default=3, help="turns of each way; the medians are shown")
    options.add_argument("--rival-devices", type=int, default=5000)
    options.add_argument("--savings", default="never,change,1 s,5 s,30 s", help=f"of {', '.join(SAVINGS)}")
    options.add_argument("--saving-devices", type=int, default=300)
    options.add_argument("--json", type=Path, default=RESULTS / "delivery.json")
    args = options.parse_args()
    result: dict[str, Any] = {"load": [round(one, 1) for one in os.getloadavg()], "sizes": [], "savings": []}
    for size in filter(None, args.devices.split(",")):
        result["sizes"].append(compare(int(size), args.kib, args.rival_devices, args.runs))
    for name in filter(None, args.savings.split(",")):
        result["savings"].append(_apart(ours, args.saving_devices, args.kib, name))
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
