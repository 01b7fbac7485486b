"""One successful call of every operation that changes something, with what it is to leave in the audit trail.

Each is a function that brings about what its call needs and tells the call. Rows of what a verb moves beside
its own object (the jobs that an abort takes back) are counted too: nothing else may be written. Those of
rollouts are in `rollout_deeds`; what they are done on is in `stage`.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Final

from fleet.accounts.audit import SYSTEM, Actor
from fleet.devices import enrolment
from fleet.telemetry import export_jobs
from fleet.telemetry.export import Wanted
from ota.models import SigningKey
from tests.api import rollout_deeds
from tests.api.conftest import clock
from tests.api.stage import MATCH, WEBHOOK, WHY, Deed, Deeds, Stage
from tests.api.test_device_classes import BODY as CLASS
from tests.ota.tflite_files import classifier

DEEDS = Deeds(rollout_deeds.DEEDS)
READS: Final = ("POST /groups:preview", "POST /rollouts:preview", "POST /telemetry:query")
GROUP: Final = {"name": "line-2", "kind": "dynamic", "q": "class==host-a"}
deed, simple = DEEDS.of, DEEDS.simple
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
