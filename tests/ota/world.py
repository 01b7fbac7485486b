"""A small fleet for rollout tests: devices that follow their desired documents and report, without a broker.

A `FakeDevice` is a model of a device's update machine, step by step, so that tests can stop it anywhere. What
the backend does with it is the real code: desired rows, inventory, reports, telemetry ingest, ticks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from fleet.accounts.audit import Actor
from fleet.devices import inventory
from fleet.devices.models import Device, DeviceClass
from fleet.mqtt.codec.names import BankFlag, Chip, ConfigKey, RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SlotReport
from fleet.telemetry import ingest
from ota import approval, delivery, reports, rollouts
from ota.models import ClassVerdict, DesiredState, Job, Manifest, Rollout, Staging
from tests.telemetry.batches import make_batch

ACTOR = Actor("user", "olga")
SECOND = Actor("user", "dana")
"""An approver who wrote none of the plans."""
CHUNKS = 8
TELEMETRY_S = 10
S = UpdateState
_WAY = (S.OFFERED, S.MANIFEST_OK, S.DOWNLOADING, S.DOWNLOADED, S.VERIFIED, S.TRIAL, S.CONFIRMED)
FIRST_PLAN: dict[str, Any] = {"waves": [{"percent": 100}], "soak_s": 0, "max_in_flight": 500}
GATED_PLAN: dict[str, Any] = {
    "waves": [{"count": 12}, {"percent": 100}],
    "control": {"count": 12},
    "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1}],
    "accept_proxy": True,
    "min_pairs": 8,
    "max_in_flight": 50,
    "soak_s": 10,
    "max_soak_s": 150,
    "settle_s": 5,
    "window_s": 60,
    "retry_base_s": 5,
}


@dataclass
class FakeDevice:
    """One device. run, other: manifest ids in its banks. faults: target id -> (state, code) it ends in."""

    id: str
    class_id: str
    run: str = ""
    other: str = ""
    boot: int = 1
    n: int = 0
    counter: int = 0
    state: UpdateState = S.IDLE
    code: RefusalCode = RefusalCode.NONE
    have: int = 0
    attempt: int = 0
    target: str = ""
    action: int = 0
    is_stopped: bool = False
    online: bool = True
    faults: dict[str, tuple[UpdateState, RefusalCode]] = field(default_factory=dict)
    confirmed_changes: int = 0
    seq: int = 0

    def accept(self, row: DesiredState) -> bool:
        """Take a newer desired document, unless a trial is under way: that ends first."""
        entry = row.entries.get("0")
        if row.counter <= self.counter or entry is None or self.state == S.TRIAL:
            return False
        self.counter = row.counter
        action, target, _, _, attempt = entry
        if (target, attempt, action) == (self.target, self.attempt, self.action):
            return True
        self.action, self.target, self.attempt, self.have = action, target, attempt, 0
        self.code = RefusalCode.NONE
        if action == 2:
            self.is_stopped, self.state = True, S.IDLE
        elif target == self.run and not self.is_stopped:
            self.state = S.CONFIRMED
        elif action == 1 and target != self.other:
            self.state, self.code = S.REFUSED, RefusalCode.NOT_IN_BANK
        elif action == 1 or target == self.other:
            self.state = S.VERIFIED
        else:
            self.state = S.OFFERED
        return True

    def step(self) -> bool:
        """Go one state on; False when there is nothing left to do."""
        if self.state not in _WAY[:-1]:
            return False
        self.state = _WAY[_WAY.index(self.state) + 1]
        if self.state == S.DOWNLOADING:
            self.have = CHUNKS // 2
        elif self.state == S.DOWNLOADED:
            self.have = CHUNKS
        elif self.state == S.CONFIRMED:
            fault = self.faults.get(self.target)
            if fault is not None:
                self.state, self.code = fault
            else:
                self.run, self.other, self.is_stopped = self.target, self.run, False
                self.confirmed_changes += 1
        fault = self.faults.get(self.target)
        if fault is not None and fault[0] != S.REVERTED and self.state == S.DOWNLOADING:
            self.state, self.code = fault
        return True

    def report(self) -> Reported:
        """The next reported document."""
        self.n += 1
        flags = BankFlag.STOPPED if self.is_stopped else BankFlag(0)
        slot = SlotReport(
            state=self.state,
            code=self.code,
            have=self.have,
            total=CHUNKS,
            attempt=self.attempt,
            target=bytes.fromhex(self.target[:32]),
            run_bank=BankReport(bytes.fromhex(self.run[:32]), 1, 0, flags) if self.run else None,
            other_bank=(
                BankReport(bytes.fromhex(self.other[:32]), 1, 1, BankFlag.USABLE_FOR_REVERT)
                if self.other
                else None
            ),
        )
        return Reported(
            boot=self.boot,
            n=self.n,
            unix_s=1,
            class_id=bytes.fromhex(self.class_id),
            firmware=(1, 0, 0),  # type: ignore[arg-type]
            chip=Chip.HOST,
            trust_version=1,
            desired_counter=self.counter,
            command_counter=0,
            is_stale=False,
            reset_reason=ResetReason.POWER,
            reset_raw=0,
            free_heap_bytes=100_000,
            slots={0: slot},
            config_invalid=(),
            operators=(),
            firmware_text="1.0.0",
            esp_nn="",
        )


class World:
    """Devices, manifests, a clock. accuracy: manifest id -> share of correct labels, "" for all others."""

    def __init__(self, now: datetime, make_manifest: Callable[..., Manifest]) -> None:
        self.now = now
        self._make_manifest = make_manifest
        self.devices: dict[str, FakeDevice] = {}
        self.accuracy: dict[str, float] = {"": 0.9}
        self.us_mean: dict[str, int] = {}
        self.silent: set[str] = set()
        self.random = random.Random(7)
        self._telemetry_at = now
        self.actor = ACTOR

    def add(self, count: int, class_name: str = "host-a", prefix: str = "dev") -> list[FakeDevice]:
        """Enrol devices that are online and run nothing."""
        device_class = DeviceClass.objects.get(pk=class_name)
        new = []
        for number in range(1, count + 1):
            name = f"{prefix}-{number:03d}"
            Device.objects.create(
                id=name,
                device_class=device_class,
                enrolled_at=self.now,
                presence="online",
                last_seen_at=self.now,
            )
            new.append(FakeDevice(name, device_class.class_id))
        self.devices |= {device.id: device for device in new}
        delivery.set_config(
            [device.id for device in new], {int(ConfigKey.WINDOW_S): TELEMETRY_S}, now=self.now
        )
        return new

    def manifest(
        self,
        classes: Iterable[str] = ("host-a",),
        *,
        accuracy: float | None = None,
        us_mean: int | None = None,
        hints: Any = None,
    ) -> Manifest:
        """A signed, staged manifest that fits these classes. us_mean: time of an inference with it, µs."""
        manifest = self._make_manifest(size=CHUNKS * 4096 - 100, vectors=1, hints=hints)
        if us_mean is not None:
            self.us_mean[manifest.pk] = us_mean
        rows = list(DeviceClass.objects.filter(pk__in=classes))
        Manifest.objects.filter(pk=manifest.pk).update(class_ids=[row.class_id for row in rows])
        manifest.refresh_from_db()
        for row in rows:
            ClassVerdict.objects.create(
                version=manifest.version, device_class=row, class_id=row.class_id, kind="pass", at=self.now
            )
        Staging.objects.create(manifest=manifest, state="staged", published=manifest.chunks)
        if accuracy is not None:
            self.accuracy[manifest.pk] = accuracy
        return manifest

    def running(self, manifest: Manifest, devices: Iterable[FakeDevice] | None = None) -> None:
        """Let devices run a manifest already, as an earlier rollout left them."""
        for device in list(devices if devices is not None else self.devices.values()):
            device.run, device.target, device.state = manifest.pk, manifest.pk, S.CONFIRMED
            self.send(device)

    def create(self, manifest: Manifest, plan: dict[str, Any], **target: Any) -> Rollout:
        """A draft."""
        return rollouts.create("walk", manifest, plan=plan, actor=ACTOR, now=self.now, target=target or None)

    def ready(self, manifest: Manifest, plan: dict[str, Any], **target: Any) -> Rollout:
        """A rollout that may start, approved where it has to be."""
        rollout = rollouts.run_preflight(self.create(manifest, plan, **target), actor=ACTOR, now=self.now)
        if rollout.state == "awaiting_approval":
            read = approval.facts(rollout)["submission"]
            digests = {name: read[name] for name in ("manifest_sha256", "plan_digest", "target_digest")}
            rollouts.approve(rollout, actor=SECOND, now=self.now, **digests)
        assert rollout.state == "ready", rollout.reason
        return rollout

    def started(self, manifest: Manifest, plan: dict[str, Any], **target: Any) -> Rollout:
        """A running rollout."""
        return self.begin(self.ready(manifest, plan, **target))

    def begin(self, rollout: Rollout) -> Rollout:
        """Start a rollout and do the work that a start leaves to a worker."""
        rollouts.start(rollout, actor=ACTOR, now=self.now)
        assert rollouts.carry_on(rollout.pk, now=self.now)
        rollout.refresh_from_db()
        return rollout

    def send(self, device: FakeDevice, reported: Reported | None = None) -> list[Job]:
        """Deliver a report as the gateway does: inventory and jobs in one transaction."""
        reported = reported or device.report()
        with transaction.atomic():
            inventory.apply_report(device.id, reported, now=self.now)
            return reports.apply(device.id, reported, now=self.now)

    def sync(self, device: FakeDevice) -> bool:
        """Deliver the newest desired document; True when the device took it."""
        row = DesiredState.objects.filter(pk=device.id).first()
        return row is not None and device.online and device.accept(row)

    def step(self) -> None:
        """Every online device takes its newest document, goes one state on and reports."""
        for device in self.devices.values():
            if device.online:
                took = self.sync(device)
                if device.step() or took:
                    self.send(device)

    def set_online(self, device: FakeDevice, online: bool) -> None:
        """Connect or disconnect a device."""
        device.online = online
        inventory.set_presence(device.id, online, self.now)
        if online:
            self.sync(device)
            self.send(device)

    def pass_time(self, seconds: float) -> None:
        """Move the clock on, and let every online device send telemetry of what it runs."""
        until = self.now + timedelta(seconds=seconds)
        deliveries = []
        while self._telemetry_at + timedelta(seconds=TELEMETRY_S) <= until:
            for device in self.devices.values():
                if device.online and device.run and not device.is_stopped and device.id not in self.silent:
                    deliveries.append(self._window(device))
            self._telemetry_at += timedelta(seconds=TELEMETRY_S)
        self.now = until
        for start in range(0, len(deliveries), 500):
            ingest.store(deliveries[start : start + 500], slot=0, now=self.now)

    def tick(self, rollout: Rollout) -> Rollout:
        """One tick; the rollout is read again."""
        rollouts.tick(rollout.pk, self.now)
        rollout.refresh_from_db()
        return rollout

    def run(
        self, rollout: Rollout, *, until: Iterable[str], rounds: int = 200, seconds: float = 5
    ) -> Rollout:
        """Ticks, device steps and time, until the rollout is in one of the states."""
        wanted = set(until)
        for _ in range(rounds):
            if self.tick(rollout).state in wanted:
                return rollout
            for _ in range(3):
                self.step()
            self.pass_time(seconds)
        raise AssertionError(f"{rollout.state}: {rollouts.state(rollout, now=self.now)['sentence']}")

    def _window(self, device: FakeDevice) -> ingest.Delivery:
        share = self.accuracy.get(device.run, self.accuracy[""])
        labels = 40
        right = sum(self.random.random() < share for _ in range(labels))
        device.seq += 1
        batch = make_batch(
            self._telemetry_at,
            first=device.seq,
            mid=device.run[:16],
            dt_ms=TELEMETRY_S * 1000,
            n=labels,
            us_mean=self.us_mean.get(device.run, 1_500),
            us_max=self.us_mean.get(device.run, 1_500) + 1_000,
            lab_n=labels,
            lab_ok=right,
        )
        return ingest.Delivery(device.id, batch)
