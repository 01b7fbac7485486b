"""Random verbs, ticks, reports, losses, lies, clocks and deaths against PostgreSQL.

Everything between the device doubles and the database is the product: documents are signed and published,
uplinks come as bytes through the gateway's handler. Only the broker is a dictionary that may lose things.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.db import transaction
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from fleet.devices.installation import installation_id
from fleet.gateway.handlers import Control, Measurements
from fleet.gateway.uplink import Reader
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from fleet.mqtt.codec.reported import BankReport
from ota import publishing, rollouts
from ota.choices import ROLLOUT_TERMINAL
from ota.errors import OtaError
from ota.models import Rollout
from tests.ota.machines.deaths import dying, rehearse
from tests.ota.machines.double import Double, Fault
from tests.ota.machines.driver import Driver
from tests.ota.machines.explaining import Explained
from tests.ota.machines.invariants import INVARIANTS
from tests.ota.machines.scene import DEVICES
from tests.ota.machines.store import Retained
from tests.ota.machines.verbs import APPROVED_BY_SECOND, AUTHOR, CALLS, EDITOR, STALE
from tests.ota.machines.watching import Facts, Watcher
from tests.telemetry.batches import make_batch

START = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
FAULTS: tuple[Fault, ...] = (
    (UpdateState.REFUSED, RefusalCode.DIGEST),
    (UpdateState.REFUSED, RefusalCode.OP_MISSING),
    (UpdateState.REFUSED, RefusalCode.EXPIRED),
    (UpdateState.REFUSED, RefusalCode.FLASH_IO),
    (UpdateState.REFUSED, RefusalCode.SIGNATURE),
    (UpdateState.REVERTED, RefusalCode.CRASH_LOOP),
    (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH),
    (UpdateState.DEFERRED, RefusalCode.LOW_POWER),
)
SIZES = (8, 11, 13) if "FLEET_MACHINE_EXAMPLES" not in os.environ else (6, 11, 14, 20, DEVICES)
WINDOW_S = 10
MOST_WINDOWS = 6
devices = st.integers(0, DEVICES - 1)
choices = st.integers(0, 5)


class Machine(Driver):
    """Up to two rollouts at a time over six to thirty devices."""

    reached: ClassVar[set[tuple[str, str]]] = set()

    @initialize(count=st.sampled_from(SIZES), plan=st.sampled_from([0, 0, 1, 2, 2, 3]))
    def begin(self, count: int, plan: int) -> None:
        self.now = START
        self.scene.clear(START)
        self.fleet = [Double(board, self.scene.class_id, self.scene.trust) for board in self.scene.boards]
        for double in self.fleet[count:]:
            self._retire(double)
        self.fleet = self.fleet[:count]
        self.ids = [row.pk for row in self.scene.manifests]
        for double in self.fleet[: count - 1]:  # the last one is new and runs nothing
            double.run = double.target = bytes.fromhex(self.ids[0])[:16]
            double.state = UpdateState.CONFIRMED
        reader = Reader(installation_id(), self.scene.keyring)
        self.control, self.measure = Control(reader, slot=0), Measurements(reader, slot=1)
        self.broker = Retained(self.scene.trust, installation_id())
        self.watcher = Watcher()
        self.explained = Explained()
        self.sent: list[Arrived] = []
        self.telemetry_at = START
        self._deliver([double.says() for double in self.fleet])
        self.wait(15)
        self._new_rollout(1, plan, starts=True)

    # --- workers and people ------------------------------------------------------------

    @rule()
    def tick(self) -> None:
        for pk in rollouts.due(now=self.now):
            rollouts.tick(pk, self.now)
        self._publish()

    @rule()
    def tick_until_nothing_is_left_and_once_more(self) -> None:
        """I14: a tick with nothing to do does nothing, not even an audit row."""
        if self._settle():
            before = Facts.read()
            for pk in rollouts.due(now=self.now):
                rollouts.tick(pk, self.now)
            after = Facts.read()
            assert after.outcome() == before.outcome()
            assert after.desired == before.desired

    @rule(data=st.data(), verb=st.sampled_from(sorted(CALLS)), choice=choices)
    def person(self, data: st.DataObject, verb: str, choice: int) -> None:
        live = list(Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL).order_by("created_at", "name"))
        every = live or list(Rollout.objects.order_by("created_at", "name"))
        self._ask(data.draw(st.sampled_from(every)), verb, choice)

    def a_pause(self, choice: int) -> None:
        """`person` pauses now and then; no rule of its own but where a seeded fault is looked for."""
        live = Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL).order_by("created_at", "name").first()
        if live is not None:
            self._ask(live, "pause", choice)

    @precondition(lambda self: Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL).count() < 2)
    @rule(manifest=st.integers(1, 3), plan=choices, starts=st.booleans())
    def another_rollout(self, manifest: int, plan: int, starts: bool) -> None:
        self._new_rollout(manifest, plan, starts=starts)

    @precondition(lambda self: Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL).count() < 2)
    @rule(manifest=st.integers(1, 3), approver=st.sampled_from([0, AUTHOR, STALE, EDITOR]))
    def a_plan_of_two_authors_is_approved(self, manifest: int, approver: int) -> None:
        """I10: neither of them is the second person, through whichever token."""
        row = self._new_rollout(manifest, 0, starts=False)
        asked = (("edit", APPROVED_BY_SECOND), ("preflight", 0), ("approve", approver), ("start", 0))
        for verb, choice in asked:
            self._ask(row, verb, choice)

    @rule(at=st.integers(1, 120))
    def worker_dies_in_a_tick(self, at: int) -> None:
        """I14: killed at any statement, the next worker comes to the end that an undisturbed one comes to."""
        for pk in rollouts.due(now=self.now):
            self._dies(at, lambda pk=pk: rollouts.tick(pk, self.now), is_tick=True)

    @rule(data=st.data(), verb=st.sampled_from(sorted(CALLS)), choice=choices, at=st.integers(1, 60))
    def server_dies_in_a_verb(self, data: st.DataObject, verb: str, choice: int, at: int) -> None:
        every = list(Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL).order_by("created_at", "name"))
        if not every:
            return
        pk = data.draw(st.sampled_from(every)).pk

        def ask() -> None:
            try:
                with transaction.atomic():
                    CALLS[verb](Rollout.objects.get(pk=pk), self.now, choice)
            except OtaError:
                pass

        self._dies(at, ask)

    # --- devices -----------------------------------------------------------------------

    @rule(steps=st.integers(1, 4))
    def everyone_goes_on(self, steps: int) -> None:
        self._publish()
        said = []
        for double in self.fleet:
            said += self._go_on(double, steps)
        self._deliver(said)

    @rule(index=devices, steps=st.integers(1, 7))
    def one_goes_on(self, index: int, steps: int) -> None:
        self._publish()
        self._deliver(self._go_on(self._at(index), steps))

    @rule(index=devices, steps=st.integers(1, 7))
    def reports_are_lost(self, index: int, steps: int) -> None:
        self._publish()
        self._go_on(self._at(index), steps)

    @rule(index=devices, steps=st.integers(2, 7), seed=st.randoms(use_true_random=False))
    def reports_come_twice_and_in_any_order(self, index: int, steps: int, seed: Any) -> None:
        said = self._go_on(self._at(index), steps) * 2
        seed.shuffle(said)
        for message in said:
            self._deliver([message])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_old_report_comes_again(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.sent))
        before = Facts.read()
        self.control.handle([message], now=self.now)
        assert Facts.read().outcome() == before.outcome()

    @rule(index=devices, at=st.integers(1, 40))
    def gateway_dies_in_a_report(self, index: int, at: int) -> None:
        double = self._at(index)
        said = self._go_on(double, 2) or [double.says()]
        before = Facts.read().outcome()
        undisturbed = rehearse(
            lambda: self.control.handle(said, now=self.now), lambda: Facts.read().outcome()
        )
        with dying(at) as seen:
            self.control.handle(said, now=self.now)
        if seen[0] > at:
            assert Facts.read().outcome() == before
        self._deliver(said)
        assert Facts.read().outcome() == undisturbed

    @rule(index=devices)
    def heartbeat(self, index: int) -> None:
        self._deliver([self._at(index).says()])

    @rule(index=devices, is_online=st.booleans())
    def connection(self, index: int, is_online: bool) -> None:
        double = self._at(index)
        double.is_online = is_online
        self.control.handle([double.board.online(is_online)], now=self.now)

    @rule(index=devices)
    def power_cut(self, index: int) -> None:
        double = self._at(index)
        double.reboot()
        self._deliver([double.says()])

    @rule(index=devices, fault=st.sampled_from(FAULTS))
    def device_will_fail(self, index: int, fault: Fault) -> None:
        for name in self.ids[1:]:
            self._at(index).faults[bytes.fromhex(name)[:16]] = fault

    @rule(index=devices)
    def device_recovers(self, index: int) -> None:
        double = self._at(index)
        double.faults.clear()
        double.recover()

    @rule(index=devices)
    def confirmed_model_crashes(self, index: int) -> None:
        double = self._at(index)
        if double.crash_after_confirm():
            self._deliver([double.says()])

    @precondition(lambda self: len(self.fleet) > 6)
    @rule(index=devices)
    def device_is_deleted(self, index: int) -> None:
        double = self._at(index)
        self.fleet.remove(double)
        self._retire(double)

    # --- lies and noise ----------------------------------------------------------------

    @rule(
        index=devices,
        state=st.sampled_from(UpdateState),
        code=st.sampled_from(RefusalCode),
        attempt=st.integers(0, 4),
        about=st.integers(0, 4),
        runs=st.integers(0, 4),
        ahead=st.sampled_from([None, None, -(2**50), -1, 1, 1000]),
    )
    def device_lies(
        self, index: int, state: UpdateState, code: RefusalCode, attempt: int, about: int, runs: int,
        ahead: int | None,
    ) -> None:  # fmt: skip
        """An authentic report of anything: unknown targets, attempts and counters, states out of order."""
        double = self._at(index)
        double.is_liar = True
        bank = BankReport(self._any_id(runs), 1, 0)
        slot = double.slot(state=state, code=code, attempt=attempt, target=self._any_id(about), run_bank=bank)
        more = {} if ahead is None else {"desired_counter": max(0, double.counter + ahead)}
        self._deliver([double.says(slots={0: slot}, **more)])

    @rule(index=devices, state=st.sampled_from(UpdateState), slot=st.integers(1, 3))
    def report_of_an_unknown_slot_or_target_moves_nothing(
        self, index: int, state: UpdateState, slot: int
    ) -> None:
        double = self._at(index)
        strange = double.slot(state=state, target=b"\xee" * 16, attempt=9)
        before = Facts.read()
        self._deliver([double.says(slots={0: double.slot(), slot: strange})])
        mine = {pk for pk, job in before.jobs.items() if job.device == double.id}
        after = Facts.read()
        assert after.jobs.keys() == before.jobs.keys()
        moved = {pk for pk, job in after.jobs.items() if job != before.jobs[pk]}
        assert moved <= mine
        if not double.is_liar and double.state == UpdateState.OFFERED:
            assert all(after.jobs[pk].state in ("accepted", before.jobs[pk].state) for pk in moved)

    @rule(index=devices, kind=st.sampled_from(["mac", "other", "cut", "junk", "large"]))
    def noise_changes_nothing(self, index: int, kind: str) -> None:
        double, other = self._at(index), self._at(index + 1)
        double.n += 50
        real = double.says()
        double.n -= 51
        payload = {
            "mac": real.payload[:-1] + bytes([real.payload[-1] ^ 1]),
            "other": other.board.reported(double.report()).payload,
            "cut": real.payload[:-9],
            "junk": b"\xa0" * 40,
            "large": bytes(3000),
        }[kind]
        double.n -= kind == "other"
        before = Facts.read()
        self.control.handle([Arrived(real.topic, payload, False, 0, 1)], now=self.now)
        assert Facts.read().outcome() == before.outcome()

    # --- time and broker ---------------------------------------------------------------

    @rule(seconds=st.sampled_from([15, 15, 61, 200]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        count = min(MOST_WINDOWS, int((self.now - self.telemetry_at).total_seconds()) // WINDOW_S)
        if count <= 0:
            return
        said = []
        for double in self.fleet:
            if double.is_online and double.run and not double.is_stopped:
                first, double.telemetry_seq = double.telemetry_seq, double.telemetry_seq + count
                start = self.now - timedelta(seconds=WINDOW_S * count)
                batch = make_batch(
                    start, count, boot=1, first=first, mid=double.run.hex()[:16], dt_ms=WINDOW_S * 1000,
                    n=40, lab_n=40, lab_ok=36,
                )  # fmt: skip
                said.append(double.board.telemetry(batch))
        self.telemetry_at = self.now
        self.measure.handle(said, now=self.now)

    @rule(seconds=st.sampled_from([-300, -1, 3_600, 86_400 * 4]))
    def server_clock_jumps(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.telemetry_at = self.now

    @rule(through=st.integers(0, 3))
    def broker_goes_away_while_documents_are_published(self, through: int) -> None:
        self.broker.left = through
        self._publish()
        self.broker.left = None

    @rule()
    def broker_forgets_everything(self) -> None:
        self.broker.store.clear()
        publishing.publish_everything_again()

    # --- after every step --------------------------------------------------------------

    @invariant()
    def whatever_happened(self) -> None:
        if not hasattr(self, "watcher"):
            return
        seen = self.watcher.look(self.broker.take())
        for check in INVARIANTS:
            check(seen)
        self.reached.update((move.kind, f"{move.before} to {move.after}") for move in seen.moves)
        for double in self.fleet:
            if not double.is_liar:  # I15 on the device: no new-old-new under one counter
                assert all(n <= 1 for n in double.changes.values()), (double.id, double.changes)
        self.explained.check(seen, [double.id for double in self.fleet], now=self.now)

    def teardown(self) -> None:
        """Left alone, with every device online, well and honest, every rollout ends and nothing is stuck."""
        if not hasattr(self, "watcher"):
            return
        for double in self.fleet:
            double.faults.clear()
            double.recover()
            double.is_online = True
        self.control.handle([double.board.online(True) for double in self.fleet], now=self.now)
        for _ in range(60):
            live = list(Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL).order_by("created_at"))
            if not live:
                return
            for rollout in live:
                self._lead_to_an_end(rollout)
            self.tick()
            said = []
            for double in self.fleet:
                said += self._go_on(double, 7) or [double.says()]
            self._deliver(said)
            self.whatever_happened()
            self.wait(61)
        left = [rollouts.state(row, now=self.now)["sentence"] for row in live]
        raise AssertionError(f"stuck: {left}, {Facts.read().outcome()['jobs']}")
