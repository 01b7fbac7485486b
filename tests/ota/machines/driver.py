"""How the machine's rules act: verbs and what must follow, deaths and what comes after, devices, bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

from hypothesis import currently_in_test_context, note
from hypothesis.stateful import RuleBasedStateMachine

from fleet.devices.models import Device
from fleet.gateway.handlers import Control
from fleet.mqtt.client import Arrived, MqttError
from ota import publishing, rollouts
from ota.errors import OtaError
from ota.models import Rollout
from ota.permits import ImmutableError
from ota.transitions import IllegalTransition
from ota.verbs import verbs
from tests.ota.machines import plans
from tests.ota.machines.deaths import dying, rehearse
from tests.ota.machines.double import Double
from tests.ota.machines.scene import Scene
from tests.ota.machines.store import Retained
from tests.ota.machines.verbs import CALLS, PERSON, check_after
from tests.ota.machines.watching import Facts

REFUSALS = (
    "target_changed", "evidence_not_current", "empty_target", "validation", "approver_is_author",
    "approval_stale",
)  # fmt: skip
"""What a verb that the state allows may still say: the fleet changed, or there is no evidence."""


class Driver(RuleBasedStateMachine):
    """What rules are made of. `scene` is bound by the test; `Machine.begin` sets the rest."""

    scene: ClassVar[Scene]
    now: datetime
    fleet: list[Double]
    ids: list[str]
    control: Control
    broker: Retained
    sent: list[Arrived]

    def whatever_happened(self) -> None:
        """Judge by every invariant what the step did: `Machine` does, what is here only makes steps."""
        raise NotImplementedError

    def _lead_to_an_end(self, rollout: Rollout) -> None:
        before_start = ("draft", "preflight_failed", "awaiting_approval", "ready")
        asked = dict.fromkeys(before_start, "cancel") | {"paused": "resume"}
        verb = asked.get(rollout.state, "rollback" if rollout.state == "halted" else "")
        if not verb and "override" in verbs(rollout):
            verb = "override"
        if verb:
            self._ask(rollout, verb, 0)

    def _new_rollout(self, manifest: int, plan: int, *, starts: bool) -> Rollout:
        row = rollouts.create(
            "walk", self.scene.manifests[manifest], plan=plans.PLANS[plan % len(plans.PLANS)], actor=PERSON,
            now=self.now,
        )  # fmt: skip
        Rollout.objects.filter(pk=row.pk).update(salt=bytes(16), name=f"walk {Rollout.objects.count()}")
        if starts:
            self._ask(row, "preflight", 0)
            row.refresh_from_db()
            if row.state == "awaiting_approval":
                self._ask(row, "approve", 0)
            if row.state == "ready":
                self._ask(row, "start", 0)
        return row

    def _ask(self, rollout: Rollout, verb: str, choice: int) -> None:
        rollout.refresh_from_db()
        before, allowed = rollout.state, verbs(rollout)
        refused: OtaError | None = None
        try:
            CALLS[verb](rollout, self.now, choice)
        except OtaError as problem:
            refused = problem
        if isinstance(refused, IllegalTransition | ImmutableError):
            assert verb not in allowed
            assert refused.allowed == sorted(allowed)
            rollout.refresh_from_db()
            assert rollout.state == before
        elif refused is not None:  # coded, and nothing done
            assert verb in allowed
            rollout.refresh_from_db()
            assert refused.code in REFUSALS, refused
            assert rollout.state == ("draft" if refused.code == "target_changed" else before), refused
        else:
            assert verb in allowed, f"{verb} was possible in {before}"
            check_after(verb, rollout, choice)
        if currently_in_test_context():  # a sequence of rules played by hand tells nobody
            note(f"{verb}: {before} to {Rollout.objects.values_list('state', flat=True).get(pk=rollout.pk)}")

    def _dies(self, at: int, work: Callable[[], Any], *, is_tick: bool = False) -> None:
        def whole() -> None:
            work()
            self._settle()

        undisturbed = rehearse(whole, lambda: Facts.read().outcome())
        with dying(at) as seen:
            work()
        if seen[0] > at:
            self.whatever_happened()
            held = Rollout.objects.filter(lease_until__gt=self.now)
            for pk in held.values_list("pk", flat=True):
                assert is_tick
                assert not rollouts.tick(pk, self.now), "two workers hold one rollout"
            held.update(lease_until=None)  # as its end would do, without the ten seconds
            work()
        self._settle()
        found = Facts.read().outcome()
        assert found == undisturbed, f"not what an undisturbed worker leaves: {found} {undisturbed}"

    def _settle(self) -> bool:
        """Ticks at this moment until they change nothing; False when eight do not get there."""
        last: dict[str, Any] = {}
        for _ in range(8):
            for pk in rollouts.due(now=self.now):
                rollouts.tick(pk, self.now)
            found = Facts.read().outcome()
            if found == last:
                return True
            last = found
        return False

    def _go_on(self, double: Double, steps: int) -> list[Arrived]:
        """Take the newest document, go on, and say so; nothing when offline."""
        said: list[Arrived] = []
        if not double.is_online:
            return said
        message = self.broker.store.get(double.id)
        if message is not None and double.hear(message):
            said.append(double.says())
        for _ in range(steps):
            if double.step():
                said.append(double.says())
        if said and message is not None and double.hear(message):  # what waited for the trial's end
            said.append(double.says())
        return said

    def _deliver(self, messages: list[Arrived]) -> None:
        self.control.handle(messages, now=self.now)
        self.sent = [*self.sent[-40:], *messages][-60:]

    def _publish(self) -> None:
        with contextlib.suppress(MqttError):
            publishing.publish_pending(client=self.broker)

    def _retire(self, double: Double) -> None:
        Device.objects.filter(pk=double.id).update(retired_at=self.now, presence="offline")
        self.scene.keyring.clear()

    def _at(self, index: int) -> Double:
        return self.fleet[index % len(self.fleet)]

    def _any_id(self, number: int) -> bytes:
        return bytes.fromhex(self.ids[number])[:16] if number < len(self.ids) else b"\xdd" * 16
