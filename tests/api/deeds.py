"""One successful call of every operation that changes something, with what it is to leave in the audit trail.

Each is a function that brings about what its call needs and tells the call. Rows of what a verb moves beside
its own object (the jobs that an abort takes back) are named too: nothing else may be written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pytest

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM, Actor
from fleet.alerts import evaluation
from fleet.alerts.models import Alert, Delivery
from fleet.devices import enrolment
from fleet.telemetry import export_jobs
from fleet.telemetry.export import Wanted
from ota import registry
from ota.models import Job, ModelVersion, Rollout, SigningKey
from tests.alerts.planting import plant_devices, plant_events
from tests.api.conftest import Caller, clock
from tests.api.test_device_classes import BODY as CLASS
from tests.api.test_rollouts import begin, draft_of, verb
from tests.api.test_waves import halted
from tests.ota.tflite_files import classifier
from tests.ota.world import FIRST_PLAN, World


@dataclass(frozen=True)
class Deed:
    """A call, and its row. data: a body that is no JSON, with its media type. beside: verbs of other rows."""

    path: str
    verb: str
    subject: str
    body: Any = None
    data: tuple[bytes, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
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


DEEDS: dict[str, Callable[[Stage], Deed]] = {}
READS: Final = ("POST /groups:preview", "POST /rollouts:preview", "POST /telemetry:query")
WEBHOOK: Final = {"name": "ours", "url": "http://127.0.0.1:9/hook"}
GROUP: Final = {"name": "line-2", "kind": "dynamic", "q": "class==host-a"}
MATCH: Final = {"IF_MATCH": "*"}
WHY: Final = {"reason": "a good one"}
JOBS: Final = frozenset({"job.queued", "job.offered", "job.cancelling", "job.cancelled", "job.removed"})


def deed(operation: str) -> Callable[[Callable[[Stage], Deed]], None]:
    """Register the deed of an operation."""

    def add(make: Callable[[Stage], Deed]) -> None:
        DEEDS[operation] = make

    return add


def simple(operation: str, path: str, what: str, subject: str, body: Any = None, *before: Any) -> None:
    """Register one that needs only what earlier calls make. before: (method, path, body) of these."""

    def make(stage: Stage) -> Deed:
        for method, address, given in before:
            done = stage.call(method, address, given)
            assert done.status_code < 300, done.json()
        return Deed(path, what, subject, body, headers=MATCH)

    DEEDS[operation] = make


_GROUP = ("POST", "/groups", GROUP)
_RULE = ("POST", "/alert-rules", {"name": "loops", "kind": "crash_loop"})
simple("POST /groups", "/groups", "group.create", "group:line-2", GROUP)
simple("PATCH /groups/{name}", "/groups/line-2", "group.change", "group:line-2", {"q": "id==a"}, _GROUP)
simple("DELETE /groups/{name}", "/groups/line-2", "group.delete", "group:line-2", None, _GROUP)
simple("POST /device-classes", "/device-classes", "class.create", f"device_class:{CLASS['name']}", CLASS)
simple(
    "PATCH /device-classes/{name}", f"/device-classes/{CLASS['name']}", "class.change",
    f"device_class:{CLASS['name']}", {"description": "x"}, ("POST", "/device-classes", CLASS),
)  # fmt: skip
simple("POST /models", "/models", "model.create", "model:kws", {"name": "kws"})
simple("POST /alert-rules", "/alert-rules", "alert_rule.create", "alert_rule:loops", _RULE[2])
simple("PATCH /alert-rules/{name}", "/alert-rules/loops", "alert_rule.change", "alert_rule:loops",
       {"is_enabled": False}, _RULE)  # fmt: skip
simple(
    "DELETE /alert-rules/{name}", "/alert-rules/loops", "alert_rule.delete", "alert_rule:loops", None, _RULE
)
simple("POST /silences", "/silences", "silence.create", "silence:",
       {"until": (clock() + timedelta(days=9)).isoformat(), "reason": "known"})  # fmt: skip
simple("POST /webhooks", "/webhooks", "webhook.create", "webhook:", WEBHOOK)
simple("POST /tokens", "/tokens", "token.issue", "token:", {"name": "ci", "scopes": ["devices:read"]})
simple("POST /users", "/users", "invitation.make", "invitation:", {"role": "viewer"})


@deed("POST /enrol")
def _enrol(stage: Stage) -> Deed:
    stage.request.getfixturevalue("installation")
    (token,) = enrolment.create_tokens("host-a", ["dev-9"], actor=SYSTEM, now=clock())
    said = {"token": token, "device_id": "dev-9", "class": "host-a", "chip": "host", "firmware": "1.0.0"}
    return Deed("/enrol", "device.enrol", "device:dev-9", said, is_own=False)


@deed("POST /devices:config")
def _config(stage: Stage) -> Deed:
    stage.world.add(2)
    return Deed("/devices:config", "config.set", "", {"config": {"heartbeat_s": 60}})


@deed("PATCH /devices/{device_id}")
def _label(stage: Stage) -> Deed:
    stage.world.add(1)
    return Deed("/devices/dev-001", "device.label", "device:dev-001", {"tags": ["a"]}, headers=MATCH)


@deed("POST /devices:import")
def _import(stage: Stage) -> Deed:
    stage.world.add(2)
    return Deed("/devices:import", "device.import", "", data=(b"id,tags\ndev-001,a\ndev-002,b\n", "text/csv"))


@deed("POST /devices/{device_id}/quarantine")
def _quarantine(stage: Stage) -> Deed:
    stage.world.add(1)
    return Deed("/devices/dev-001/quarantine", "device.quarantine", "device:dev-001", WHY)


@deed("POST /devices/{device_id}/release")
def _release_device(stage: Stage) -> Deed:
    stage.world.add(1)
    stage.call("POST", "/devices/dev-001/quarantine", WHY)
    return Deed("/devices/dev-001/release", "device.release", "device:dev-001", {})


@deed("POST /devices/{device_id}/retire")
def _retire(stage: Stage) -> Deed:
    stage.world.add(1)
    return Deed("/devices/dev-001/retire", "device.retire", "device:dev-001", WHY)


@deed("PUT /groups/{name}/members")
def _members(stage: Stage) -> Deed:
    stage.world.add(2)
    stage.call("POST", "/groups", {"name": "line-2", "kind": "static"})
    body = {"devices": ["dev-001", "dev-002"]}
    data = (json.dumps(body).encode(), "application/json")
    return Deed("/groups/line-2/members", "group.members", "group:line-2", data=data, headers=MATCH)


@deed("POST /models/{model}/versions")
def _upload(stage: Stage) -> Deed:
    stage.call("POST", "/models", {"name": "kws"})
    parts = [b'name="meta"\r\n\r\n{"version": "1.0.0"}', b'name="file"; filename="m"\r\n\r\n' + classifier()]
    whole = b"".join(b"--cut\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
    data = (whole + b"--cut--\r\n", "multipart/form-data; boundary=cut")
    return Deed("/models/kws/versions", "version.upload", "version:", data=data)


@deed("POST /models/{model}/versions/{version}/preflight")
def _inspect(stage: Stage) -> Deed:
    return Deed(f"{stage.uploaded()}/preflight", "version.inspect", "version:")


@deed("POST /models/{model}/versions/{version}/acknowledge")
def _acknowledge(stage: Stage) -> Deed:
    body = {"class": "host-a", **WHY}
    return Deed(f"{stage.uploaded()}/acknowledge", "verdict.acknowledge", "version:", body)


@deed("POST /models/{model}/versions/{version}/release")
def _release(stage: Stage) -> Deed:
    path = stage.uploaded()
    stage.call("POST", f"{path}/acknowledge", {"class": "host-a", **WHY})
    return Deed(f"{path}/release", "version.release", "version:", {})


@deed("POST /models/{model}/versions/{version}/yank")
def _yank(stage: Stage) -> Deed:
    return Deed(f"{stage.uploaded()}/yank", "version.yank", "version:", WHY)


@deed("PUT /models/{model}/aliases/{name}")
def _alias(stage: Stage) -> Deed:
    version = stage.world.manifest().version.version
    return Deed("/models/kws/aliases/stable", "alias.set", "", {"version": version})


@deed("POST /rollouts")
def _draft(stage: Stage) -> Deed:
    stage.world.add(6)
    return Deed("/rollouts", "rollout.create", "rollout:", draft_of(stage.world.manifest()))


@deed("PATCH /rollouts/{rollout_id}")
def _edit(stage: Stage) -> Deed:
    return Deed(stage.draft(), "rollout.edit", "rollout:", {"name": "other"}, headers=MATCH)


@deed("DELETE /rollouts/{rollout_id}")
def _delete(stage: Stage) -> Deed:
    return Deed(stage.draft(), "rollout.delete", "rollout:", headers=MATCH)


@deed("POST /rollouts/{rollout_id}/submit")
def _submit(stage: Stage) -> Deed:
    beside = frozenset({"rollout.ready"})
    return Deed(f"{stage.draft()}/submit", "rollout.preflight", "rollout:", {}, beside=beside)


@deed("POST /rollouts/{rollout_id}/preflight")
def _preflight(stage: Stage) -> Deed:
    beside = frozenset({"rollout.ready"})
    return Deed(f"{stage.draft()}/preflight", "rollout.preflight", "rollout:", {}, beside=beside)


def _waiting(stage: Stage) -> tuple[str, dict[str, Any]]:
    """Path of a rollout that awaits approval of another's plan, and the digests to approve."""
    operator = stage.call.as_role("operator")
    stage.world.add(6)
    plan = FIRST_PLAN | {"requires_approval": True}
    path = f"/rollouts/{operator('POST', '/rollouts', draft_of(stage.world.manifest(), plan)).json()['id']}"
    verb(operator, path, "submit")
    about = stage.call("GET", path).json()["approval"]["submission"]
    return path, {name: about[name] for name in ("manifest_sha256", "plan_digest", "target_digest")}


@deed("POST /rollouts/{rollout_id}/approve")
def _approve(stage: Stage) -> Deed:
    path, digests = _waiting(stage)
    beside = frozenset({"rollout.ready"})
    return Deed(f"{path}/approve", "approval.approve", "rollout:", digests, beside=beside)


@deed("POST /rollouts/{rollout_id}/reject")
def _reject(stage: Stage) -> Deed:
    path, _ = _waiting(stage)
    beside = frozenset({"rollout.rejected"})
    return Deed(f"{path}/reject", "approval.reject", "rollout:", WHY, beside=beside)


@deed("POST /rollouts/{rollout_id}/start")
def _start(stage: Stage) -> Deed:
    return Deed(f"{stage.ready()}/start", "rollout.start", "rollout:", {})


@deed("POST /rollouts/{rollout_id}/cancel")
def _cancel(stage: Stage) -> Deed:
    return Deed(f"{stage.ready()}/cancel", "rollout.cancelled", "rollout:", {})


@deed("POST /rollouts/{rollout_id}/pause")
def _pause(stage: Stage) -> Deed:
    return Deed(f"{stage.running()[0]}/pause", "rollout.paused", "rollout:", WHY, beside=JOBS)


@deed("POST /rollouts/{rollout_id}/resume")
def _resume(stage: Stage) -> Deed:
    path, _ = stage.running()
    verb(stage.call, path, "pause")
    return Deed(f"{path}/resume", "rollout.running", "rollout:", WHY)


@deed("POST /rollouts/{rollout_id}/abort")
def _abort(stage: Stage) -> Deed:
    return Deed(f"{stage.running()[0]}/abort", "rollout.aborting", "rollout:", WHY, beside=JOBS)


@deed("POST /rollouts/{rollout_id}/rollback")
def _rollback(stage: Stage) -> Deed:
    return Deed(f"{stage.running()[0]}/rollback", "rollout.rolling_back", "rollout:", WHY, beside=JOBS)


@deed("POST /rollouts/{rollout_id}/retry-failed")
def _retry(stage: Stage) -> Deed:
    path, rollout = stage.running()
    ids = Job.objects.filter(rollout=rollout).values_list("pk", flat=True)[:1]
    Job.objects.filter(pk__in=list(ids)).update(state="timed_out", code="downloading", finished_at=clock())
    beside = frozenset({"job.retry", "job.queued"})
    return Deed(f"{path}/retry-failed", "rollout.retry_failed", "rollout:", WHY, beside=beside)


@deed("POST /rollouts/{rollout_id}/create-revert")
def _revert(stage: Stage) -> Deed:
    stage.world.add(6)
    old = stage.world.manifest()
    stage.world.running(old)
    new = stage.world.manifest()
    path = f"/rollouts/{stage.call('POST', '/rollouts', draft_of(new)).json()['id']}"
    verb(stage.call, path, "submit")
    begin(stage.call, path)
    rollout = Rollout.objects.get()
    stage.world.now = rollout.started_at or stage.world.now
    stage.world.run(rollout, until={"completed"})
    return Deed(f"{path}/create-revert", "rollout.create_revert", "rollout:", WHY)


@deed("POST /rollouts/{rollout_id}/waves/{n}/override")
def _override(stage: Stage) -> Deed:
    path, rollout = halted(stage.call, stage.world)
    body = {"evidence": str(rollout.halted_on_id), **WHY}
    beside = frozenset({"wave.overridden", "rollout.running", "wave.open", "approval.override"})
    return Deed(f"{path}/waves/1/override", "wave.overridden", "wave:", body, beside=beside)


@deed("POST /operations/{operation_id}/cancel")
def _cancel_export(stage: Stage) -> Deed:
    wanted = Wanted("window", "ndjson", clock() - timedelta(hours=1), clock())
    job = export_jobs.ask(wanted, actor=Actor("user", "admin"), now=clock())
    return Deed(f"/operations/{job.pk}/cancel", "export.cancel", f"export:{job.pk}", {})


@deed("POST /telemetry/labels")
def _labels(stage: Stage) -> Deed:
    stage.world.add(1)
    one = {"sample_id": "dev-001:1:7", "label": 2, "source": "person", "at": clock().isoformat()}
    return Deed("/telemetry/labels", "telemetry.label", "", {"labels": [one]})


@deed("POST /alerts/{alert_id}/ack")
def _ack(stage: Stage) -> Deed:
    path = stage.alert()
    return Deed(f"{path}/ack", "alert.acknowledged", f"alert:{path.rpartition('/')[2]}", {})


@deed("POST /alerts/{alert_id}/resolve")
def _resolve(stage: Stage) -> Deed:
    path = stage.alert()
    return Deed(f"{path}/resolve", "alert.resolved", f"alert:{path.rpartition('/')[2]}", WHY)


@deed("POST /silences/{silence_id}/end")
def _end(stage: Stage) -> Deed:
    until = (clock() + timedelta(hours=1)).isoformat()
    made = stage.call("POST", "/silences", {"until": until, "reason": "known"}).json()["id"]
    return Deed(f"/silences/{made}/end", "silence.end", f"silence:{made}", {})


@deed("PATCH /webhooks/{webhook_id}")
def _change_webhook(stage: Stage) -> Deed:
    return Deed(stage.webhook(), "webhook.change", "webhook:", {"is_enabled": False}, headers=MATCH)


@deed("DELETE /webhooks/{webhook_id}")
def _delete_webhook(stage: Stage) -> Deed:
    return Deed(stage.webhook(), "webhook.delete", "webhook:", headers=MATCH)


@deed("POST /webhooks/{webhook_id}/rotate")
def _rotate_webhook(stage: Stage) -> Deed:
    return Deed(f"{stage.webhook()}/rotate", "webhook.rotate", "webhook:", {})


@deed("POST /webhooks/{webhook_id}/test")
def _test_webhook(stage: Stage) -> Deed:
    return Deed(f"{stage.webhook()}/test", "webhook.test", "webhook:", {})


@deed("POST /webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")
def _redeliver(stage: Stage) -> Deed:
    path = stage.webhook()
    row = stage.delivery(kind="webhook", webhook_id=path.rpartition("/")[2])
    return Deed(f"{path}/deliveries/{row.pk}/redeliver", "delivery.redeliver", f"delivery:{row.pk}", {})


@deed("POST /alert-emails/deliveries/{delivery_id}/redeliver")
def _redeliver_email(stage: Stage) -> Deed:
    row = stage.delivery(kind="email", recipient="anna@example.org")
    path = f"/alert-emails/deliveries/{row.pk}/redeliver"
    return Deed(path, "delivery.redeliver", f"delivery:{row.pk}", {})


@deed("DELETE /tokens/{public_id}")
def _revoke_token(stage: Stage) -> Deed:
    one = stage.token()
    return Deed(f"/tokens/{one}", "token.revoke", f"token:{one}")


@deed("PATCH /tokens/{public_id}")
def _change_token(stage: Stage) -> Deed:
    one = stage.token()
    networks = {"networks": ["198.51.100.0/24"]}
    return Deed(f"/tokens/{one}", "token.change", f"token:{one}", networks, headers=MATCH)


@deed("POST /tokens/{public_id}/rotate")
def _rotate_token(stage: Stage) -> Deed:
    one = stage.token()
    return Deed(f"/tokens/{one}/rotate", "token.rotate", f"token:{one}", {})


@deed("PATCH /users/{name}")
def _change_user(stage: Stage) -> Deed:
    stage.call.as_role("viewer")
    return Deed("/users/viewer", "user.change", "user:viewer", {"role": "operator"}, headers=MATCH)


@deed("DELETE /invitations/{invitation_id}")
def _uninvite(stage: Stage) -> Deed:
    made = stage.call("POST", "/users", {"role": "viewer"}).json()["id"]
    return Deed(f"/invitations/{made}", "invitation.revoke", f"invitation:{made}")


@deed("POST /signing-keys/{kid}/revoke")
def _revoke_key(stage: Stage) -> Deed:
    stage.request.getfixturevalue("installation")
    kid = SigningKey.objects.get(role="release").kid
    return Deed(f"/signing-keys/{kid}/revoke", "key.revoke", f"key:{kid}", WHY)
