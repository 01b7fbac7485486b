"""The private stage of a rehearsal: a stack in a folder of its own, virtual devices, the copied versions.

Everything goes through the doors people have (tickets, REST, MQTT), except the device classes: their virtual
twins are made by `manage.py rehearse --twins`, run inside the private installation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from django.utils import timezone

from device_firmware.host.control import ask
from fleet.client import ApiError, Client, wait_for
from fleet.demo import plans
from fleet.rehearsal.errors import RehearsalError
from fleet.rehearsal.subject import Subject, Version
from fleet.stack.children import ChildSpec
from fleet.stack.run import Stack, StackInfo

TWIN_ARENA = 2
"""A 64-bit host needs more arena than a board; what the board's holds is judged where it is released."""
REQUEST_S = 120
"""A stack and a fleet on a machine that has other work may be slow to answer."""
ENDED = frozenset(
    ("completed", "rolled_back", "aborted", "preflight_failed", "rollback_incomplete", "cancelled")
)
Say = Callable[[str], None]


def twin(name: str) -> str:
    """Name of the virtual twin of a device class."""
    return f"{name[:24]}-virtual"


def make_twins(classes: list[dict[str, Any]]) -> None:
    """Add the virtual twin of each class to this installation, which is a private one."""
    from fleet.devices.classes import create_class

    for given in classes:
        create_class(
            twin(given["name"]),
            chip="host",
            arena_bytes=given["arena_bytes"] * TWIN_ARENA,
            slot_bytes=given["slot_bytes"],
            operators=given["operators"],
            firmware_version=given["firmware_version"],
            description=f"virtual twin of {given['name']} for a rehearsal",
            now=timezone.now(),
        )


class Stage:
    """A started private stack with virtual devices."""

    def __init__(self, stack: Stack, info: StackInfo, *, data: Path, say: Say) -> None:
        """data: recordings that the devices sense."""
        self.stack = stack
        self.devices_dir = info.run.root / "devices"
        self._say = say
        self._root = info.run.root
        self._url = info.web_url
        spec = ChildSpec(
            "devices",
            (
                *(sys.executable, "-m", "device_firmware.host.supervisor"),
                *("--dir", str(self.devices_dir), "--data", str(data), "--ca", info.env["FLEET_WEB_CA"]),
            ),
            dict(info.env),
        )
        stack.supervisor.start(spec)
        self.api = Client(info.console_url, _token(info), timeout_s=REQUEST_S)
        wait_for("the devices' supervisor", self._is_up, deadline_s=120)

    def _is_up(self) -> tuple[bool | None, str]:
        return (True if (self.devices_dir / "control.sock").exists() else None), "no control socket"

    def enrol(self, subject: Subject, counts: Mapping[str, int]) -> list[str]:
        """Make the twin classes, enrol the devices and wait until all are online. Returns their ids.

        Raises RehearsalError `not_online`.
        """
        file = self._root / "twins.json"
        file.write_text(json.dumps([given for given, _ in subject.classes.values()]))
        if self.stack.manage("rehearse", "--twins", str(file)) != 0:
            raise RehearsalError("went_otherwise", "the virtual twins were not made", is_usage=False)
        ids: list[str] = []
        lines = []
        for name, count in counts.items():
            own = [f"reh-{len(ids) + i:04d}" for i in range(count)]
            out = self._root / "part.jsonl"
            self.stack.manage("devices", "enrol", "--class", twin(name), "--out", str(out), *own)
            lines.append(out.read_text())
            out.unlink()
            ids += own
        tickets = self._root / "tickets.jsonl"
        tickets.touch(mode=0o600)
        tickets.write_text("".join(lines))
        refused = ask(self.devices_dir, {"do": "add", "tickets": str(tickets)}, timeout_s=60 + len(ids))
        tickets.unlink()
        if refused["refused"]:
            raise RehearsalError("not_online", f"refused: {refused['refused']}", is_usage=False)
        self.api.post("/devices:config", {"config": plans.DEVICE_CONFIG})

        def online() -> tuple[bool | None, str]:
            states = Counter(device["presence"] for device in self.api.every("/devices"))
            return (True if states["online"] >= len(ids) else None), str(dict(states))

        wait_for("all devices online", online, deadline_s=120)
        return ids

    def release(self, model: str, version: Version, slot: int) -> None:
        """Upload a copied version, accept what its original had accepted, sign it with the private keys and
        stage it. Raises RehearsalError `refused` with the verdict.
        """
        evaluation = None
        if version.evaluation is not None:
            evaluation = self._root / "evaluation.npz"
            evaluation.write_bytes(version.evaluation)
        try:
            self.api.get(f"/models/{model}")
        except ApiError as error:
            if error.status != 404:
                raise
            self.api.post("/models", {"name": model})
        meta = {"version": version.version, "hints": version.hints}
        self.api.upload(model, ("model.tflite", version.data), meta, evaluation)
        where = f"/models/{model}/versions/{version.version}"

        def judged() -> tuple[dict[str, Any] | None, str]:
            seen = self.api.get(where)
            return (seen if seen["state"] not in ("uploaded", "inspecting") else None), seen["state"]

        seen = wait_for(f"verdict on {version.version}", judged, deadline_s=120)
        if seen["state"] == "refused":
            raise RehearsalError(
                "refused", f"{version.version}: {seen['code']} {seen['text']}", is_usage=False
            )
        for verdict in seen["verdicts"]:
            if verdict["kind"] == "unproven":
                reason = "rehearsal: the original was released"
                self.api.post(f"{where}/acknowledge", {"class": verdict["class"], "reason": reason})
        self.api.post(f"{where}/release", {"slot": slot})

        def staged() -> tuple[bool | None, str]:
            staging = self.api.get(where).get("staging") or {}
            return (True if staging.get("state") == "staged" else None), str(staging)

        wait_for(f"{version.version} staged", staged, deadline_s=60)
        self._say(f"{model} {version.version} is signed and staged")

    def start(self, subject: Subject, name: str, version: str, plan: dict[str, Any]) -> str:
        """Make a rollout, preflight it, start it; its id. Raises RehearsalError `refused`."""
        body = {"name": name[:80], "model": subject.model, "version": version, "slot": subject.slot}
        rollout = self.api.post("/rollouts", {**body, "plan": plan})["id"]
        self.api.post(f"/rollouts/{rollout}/preflight")

        def ready() -> tuple[str | None, str]:
            seen = self.api.get(f"/rollouts/{rollout}")
            if seen["state"] in ENDED:
                raise RehearsalError("refused", f"{seen['state']}: {seen['sentence']}", is_usage=False)
            return (seen["state"] if seen["state"] == "ready" else None), seen["sentence"]

        wait_for("preflight", ready, deadline_s=60)
        self.api.post(f"/rollouts/{rollout}/start")
        return str(rollout)

    def seen(self, rollout: str) -> dict[str, Any]:
        """The rollout's live state."""
        found: dict[str, Any] = self.api.get(f"/rollouts/{rollout}")
        return found

    def start_baseline(self, subject: Subject, baseline: Version) -> str:
        """Begin to put the baseline onto every device; the rollout's id. Raises RehearsalError `refused`."""
        plan = plans.everyone() | {"max_soak_s": 120}
        return self.start(subject, f"{subject.model} {baseline.version}, baseline", baseline.version, plan)

    def await_baseline(self, rollout: str) -> None:
        """Wait until every device runs the baseline. Raises RehearsalError `went_otherwise`."""
        said = [""]

        def done() -> tuple[dict[str, Any] | None, str]:
            seen = self.seen(rollout)
            if seen["sentence"].partition(":")[2] != said[0]:
                said[0] = seen["sentence"].partition(":")[2]
                self._say(f"baseline: {seen['sentence']}")
            return (seen if is_over(seen) else None), seen["sentence"]

        seen = wait_for("the baseline on every device", done, deadline_s=300, every_s=1.0)
        if seen["state"] != "completed":
            raise RehearsalError("went_otherwise", f"baseline: {seen['sentence']}", is_usage=False)

    def collect_history(self, seconds: float) -> None:
        """Let the devices report with what they run: gates compare each with itself."""
        self._say(f"{seconds:.0f} s of history with the present model")
        end = time.monotonic() + seconds
        self.stack.supervisor.wait(until=lambda: time.monotonic() >= end)


def is_over(seen: dict[str, Any]) -> bool:
    """True when a rollout goes on no further by itself."""
    return seen["state"] in ENDED or (seen["state"] == "halted" and seen["plan"]["on_fail"] == "halt")


def _token(info: StackInfo) -> str:
    command = [sys.executable, "manage.py", "tokens", "issue", "rehearsal", "--days", "1"]
    from fleet.stack.paths import PROJECT_ROOT

    answer = subprocess.run(
        command,
        env={**os.environ, **info.env},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if answer.returncode != 0:
        raise RehearsalError("went_otherwise", answer.stderr[-300:], is_usage=False)
    return answer.stdout.strip().splitlines()[-1]
