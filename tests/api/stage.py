"""What every deed of the API is told with, and what it is done on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pytest

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation
from fleet.alerts.models import Alert, Delivery
from ota import registry
from ota.models import ModelVersion, Rollout
from tests.alerts.planting import plant_devices, plant_events
from tests.api.conftest import Caller, clock
from tests.api.test_rollouts import begin, draft_of, verb
from tests.ota.tflite_files import classifier
from tests.ota.world import World

WEBHOOK: Final = {"name": "ours", "url": "http://127.0.0.1:9/hook"}
MATCH: Final = {"IF_MATCH": "*"}
WHY: Final = {"reason": "a good one"}


@dataclass(frozen=True)
class Deed:
    """A call, and its row. data: a body that is no JSON, with its media type. beside: how many rows of other
    verbs it leaves: of what it moves beside its own object.
    """

    path: str
    verb: str
    subject: str
    body: Any = None
    data: tuple[bytes, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)
    is_own: bool = True
    """False: the caller has no token; a device acts."""


@dataclass
class Stage:
    """What deeds are done on."""

    call: Caller
    request: pytest.FixtureRequest

    @property
    def world(self) -> World:
        """Devices and signed versions."""
        return self.request.getfixturevalue("world")

    def draft(self, plan: Any = None) -> str:
        """Path of a new draft over six devices."""
        self.world.add(6)
        made = self.call("POST", "/rollouts", draft_of(self.world.manifest(), plan))
        return f"/rollouts/{made.json()['id']}"

    def ready(self, plan: Any = None) -> str:
        """Path of one that may start."""
        path = self.draft(plan)
        verb(self.call, path, "submit")
        return path

    def running(self) -> tuple[str, Rollout]:
        """Path of one whose six devices have offers, and the rollout."""
        path = self.ready()
        begin(self.call, path)
        rollout = Rollout.objects.get()
        self.world.now = rollout.started_at or self.world.now
        self.world.tick(rollout)
        return path, rollout

    def uploaded(self) -> str:
        """Path of a version without an evaluation set that was inspected."""
        self.request.getfixturevalue("installation")
        self.call("POST", "/models", {"name": "kws"})
        made = self.call.upload("kws", classifier(), {"version": "1.0.0"})
        assert registry.inspect_version(ModelVersion.objects.get(pk=made.json()["id"]).pk, now=clock())
        return "/models/kws/versions/1.0.0"

    def alert(self) -> str:
        """Path of an open alert."""
        self.call("POST", "/alert-rules", {"name": "loops", "kind": "crash_loop"})
        (one,) = plant_devices(1, clock())
        plant_events(one, clock() - timedelta(minutes=1), "boot", 3, "panic")
        evaluation.evaluate(clock())
        return f"/alerts/{Alert.objects.get().pk}"

    def token(self) -> str:
        """Public id of another token of the caller."""
        owner = self.call.token.owner
        return tokens.issue(owner, "old", ["devices:read"], actor=SYSTEM, now=clock())[0].public_id

    def webhook(self) -> str:
        """Path of a webhook."""
        made = self.call("POST", "/webhooks", WEBHOOK)
        return f"/webhooks/{made.json()['id']}"

    def delivery(self, **given: Any) -> Delivery:
        """A delivery that failed."""
        said = {"event": "alert.opened", "body": {}, "next_at": clock(), "created_at": clock()}
        return Delivery.objects.create(**said, **given, state="failed", attempts=8)


class Deeds(dict[str, Callable[[Stage], Deed]]):
    """Deeds by their operations."""

    def of(self, operation: str) -> Callable[[Callable[[Stage], Deed]], None]:
        """Decorator of the deed of an operation."""

        def add(make: Callable[[Stage], Deed]) -> None:
            self[operation] = make

        return add

    def simple(
        self, operation: str, path: str, what: str, subject: str, body: Any = None, *before: Any
    ) -> None:
        """One that needs only what earlier calls make. before: (method, path, body) of these."""

        def make(stage: Stage) -> Deed:
            for method, address, given in before:
                done = stage.call(method, address, given)
                assert done.status_code < 300, done.json()
            return Deed(path, what, subject, body, headers=MATCH)

        self[operation] = make
