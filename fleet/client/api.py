"""The calls people make most, by name and with typed arguments.

What they answer are the API's own objects (`fleet/api/openapi.json`); `tests/client` holds every call here
against that document. Whatever is missing goes through `TinyFleet.http`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fleet.client.http import Client

Json = dict[str, Any]


class TinyFleet:
    """An installation, as somebody with a token sees it. Every call raises ApiError and Unreachable."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 30, verify: bool | str = True) -> None:
        """url: without `/api/v1`. verify: False, or a file of certificate authorities."""
        self.http = Client(url, token, timeout_s=timeout_s, verify=verify)
        self.devices = Devices(self.http)
        self.models = Models(self.http)
        self.rollouts = Rollouts(self.http)
        self.telemetry = Telemetry(self.http)
        self.tokens = Tokens(self.http)
        self.users = Users(self.http)


class _Part:
    def __init__(self, http: Client) -> None:
        self._http = http


class Devices(_Part):
    """Enrolled devices."""

    def list(
        self, *, q: str = "", device_class: str = "", presence: str = "", sort: str = ""
    ) -> Iterator[Json]:
        """Devices that a query selects, in the order of their ids, or as `sort` says."""
        given = {"q": q, "class": device_class, "presence": presence, "sort": sort}
        return self._http.every("/devices", **_said(given))

    def get(self, device_id: str) -> Json:
        """One device as last reported."""
        return _json(self._http.get(f"/devices/{_part(device_id)}"))

    def events(self, device_id: str, *, sort: str = "") -> Iterator[Json]:
        """Its timeline, newest first."""
        return self._http.every(f"/devices/{_part(device_id)}/events", **_said({"sort": sort}))

    def act(self, device_id: str, verb: str, reason: str) -> Json:
        """verb: quarantine, release or retire."""
        return _json(self._http.post(f"/devices/{_part(device_id)}/{_part(verb)}", {"reason": reason}))


class Models(_Part):
    """Model lines and their versions."""

    def list(self, *, sort: str = "") -> Iterator[Json]:
        """All lines."""
        return self._http.every("/models", **_said({"sort": sort}))

    def create(self, name: str, description: str = "") -> Json:
        """A new line."""
        return _json(self._http.post("/models", {"name": name, "description": description}))

    def versions(self, model: str, *, sort: str = "") -> Iterator[Json]:
        """Versions of a line, newest first."""
        return self._http.every(f"/models/{_part(model)}/versions", **_said({"sort": sort}))

    def get(self, model: str, version: str) -> Json:
        """A version with its verdicts and reports."""
        return _json(self._http.get(f"/models/{_part(model)}/versions/{_part(version)}"))

    def upload(
        self,
        model: str,
        version: str,
        file: Path,
        *,
        evaluation: Path | None = None,
        declared_accuracy: float | None = None,
        parent: str = "",
        notes: str = "",
        hints: Json | None = None,
    ) -> Json:
        """Upload a .tflite; inspection and preflight follow: `get` tells. declared_accuracy: 0..1."""
        meta: Json = {"version": version, "notes": notes, "hints": hints or {}}
        if declared_accuracy is not None:
            meta["declared_accuracy"] = declared_accuracy
        if parent:
            meta["parent"] = parent
        return _json(self._http.upload(_part(model), (file.name, file.read_bytes()), meta, evaluation))

    def acknowledge(self, model: str, version: str, device_class: str, reason: str) -> Json:
        """Accept what preflight could not prove for a class."""
        body = {"class": device_class, "reason": reason}
        return _json(self._http.post(f"/models/{_part(model)}/versions/{_part(version)}/acknowledge", body))

    def release(self, model: str, version: str, *, slot: int = 0, floor: int = 0) -> Json:
        """Sign a version and stage its chunks; the manifest."""
        body = {"slot": slot, "floor": floor}
        return _json(self._http.post(f"/models/{_part(model)}/versions/{_part(version)}/release", body))

    def yank(self, model: str, version: str, reason: str) -> Json:
        """Take a version out of the choice for new rollouts."""
        path = f"/models/{_part(model)}/versions/{_part(version)}/yank"
        return _json(self._http.post(path, {"reason": reason}))


class Rollouts(_Part):
    """Rollouts and their verbs."""

    def list(self, state: str = "", *, sort: str = "") -> Iterator[Json]:
        """Rollouts, newest first."""
        return self._http.every("/rollouts", **_said({"state": state, "sort": sort}))

    def get(self, rollout_id: str) -> Json:
        """Live state: sentence, waves, gates, failures, allowed verbs."""
        return _json(self._http.get(f"/rollouts/{_part(rollout_id)}"))

    def preview(
        self, name: str, model: str, version: str, plan: Json, *, slot: int = 0, target: Json | None = None
    ) -> Json:
        """What a plan would mean, without storing anything."""
        return _json(self._http.post("/rollouts:preview", _draft(name, model, version, plan, slot, target)))

    def create(
        self, name: str, model: str, version: str, plan: Json, *, slot: int = 0, target: Json | None = None
    ) -> Json:
        """A draft. target: any of classes, devices, groups, q."""
        return _json(self._http.post("/rollouts", _draft(name, model, version, plan, slot, target)))

    def act(
        self,
        rollout_id: str,
        verb: str,
        *,
        reason: str = "",
        dry_run: bool = False,
        ack_evidence: str = "",
    ) -> Json:
        """verb: submit, start, pause, resume, abort, rollback, retry-failed, cancel, reject or
        create-revert.
        """
        body: Json = {"reason": reason, "dry_run": dry_run}
        if ack_evidence:
            body["ack_evidence"] = ack_evidence
        return _json(self._http.post(f"/rollouts/{_part(rollout_id)}/{_part(verb)}", body))

    def approve(self, rollout_id: str, submission: Json, reason: str = "") -> Json:
        """Approve what was read: `submission` is the one that `get` showed under `approval`."""
        names = ("manifest_sha256", "plan_digest", "target_digest")
        body = {name: submission[name] for name in names} | {"reason": reason}
        return _json(self._http.post(f"/rollouts/{_part(rollout_id)}/approve", body))

    def explain(self, rollout_id: str, device_id: str) -> Json:
        """Why a device is where it is in a rollout."""
        return _json(self._http.get(f"/rollouts/{_part(rollout_id)}/explain/{_part(device_id)}"))

    def jobs(self, rollout_id: str, *, state: str = "", code: str = "", sort: str = "") -> Iterator[Json]:
        """Device jobs."""
        given = {"state": state, "code": code, "sort": sort}
        return self._http.every(f"/rollouts/{_part(rollout_id)}/jobs", **_said(given))


class Telemetry(_Part):
    """Questions about telemetry."""

    def metrics(self) -> Json:
        """The catalogue: metric, unit, kinds, aggregations."""
        return _json(self._http.get("/telemetry/metrics"))

    def query(
        self,
        metric: str,
        start: str,
        end: str,
        *,
        step_s: int = 3600,
        kind: str = "",
        agg: str = "",
        group_by: Sequence[str] = (),
        q: str = "",
    ) -> Json:
        """Series of [time, value, lower, upper, n_devices, n]. start, end: RFC 3339 with an offset."""
        body: Json = {"metric": metric, "from": start, "to": end, "step": step_s, "kind": kind, "agg": agg}
        return _json(self._http.post("/telemetry:query", body | {"group_by": [*group_by], "q": q}))


class Tokens(_Part):
    """API tokens of the caller's account."""

    def list(self, *, sort: str = "") -> Iterator[Json]:
        """Tokens, without their secrets."""
        return self._http.every("/tokens", **_said({"sort": sort}))

    def create(
        self, name: str, scopes: Sequence[str], days: int = 90, networks: Sequence[str] | None = None
    ) -> Json:
        """A new token; its secret is in this answer and never shown again. networks: it may be used from
        these only, None = from any; an empty list is refused.
        """
        body: Json = {"name": name, "scopes": [*scopes], "days": days, "networks": _texts(networks)}
        return _json(self._http.post("/tokens", body))

    def rotate(self, public_id: str, grace_hours: int = 0) -> Json:
        """A new secret for a token of one's own, in this answer and never shown again. grace_hours: how long
        the former one is taken too.
        """
        return _json(self._http.post(f"/tokens/{_part(public_id)}/rotate", {"grace_hours": grace_hours}))

    def revoke(self, public_id: str) -> None:
        """End a token."""
        self._http.delete(f"/tokens/{_part(public_id)}")


class Users(_Part):
    """People and their invitations."""

    def list(self, *, sort: str = "") -> Iterator[Json]:
        """People, by name of sign-in."""
        return self._http.every("/users", **_said({"sort": sort}))

    def get(self, name: str) -> Json:
        """One person; `rev` is what `change` asks for."""
        return _json(self._http.get(f"/users/{_part(name)}"))

    def invite(self, role: str, *, email: str = "", groups: Sequence[str] | None = None) -> Json:
        """An invitation; its `link`, a path of the installation, is in this answer and never shown again.
        groups: of devices, that the person is limited to; None: all devices.
        """
        return _json(self._http.post("/users", {"role": role, "email": email, "groups": _texts(groups)}))

    def change(self, name: str, rev: int, changes: Json) -> Json:
        """Change a person as of revision `rev`: any of role, is_active, groups (None: all devices)."""
        path = f"/users/{_part(name)}"
        return _json(self._http.call("PATCH", path, json=changes, headers={"If-Match": f'"{rev}"'}))

    def invitations(self, *, sort: str = "") -> Iterator[Json]:
        """Invitations, newest first, without their links."""
        return self._http.every("/invitations", **_said({"sort": sort}))

    def revoke_invitation(self, invitation_id: str) -> None:
        """End an invitation."""
        self._http.delete(f"/invitations/{_part(invitation_id)}")


def _said(given: dict[str, str]) -> dict[str, str]:
    """Parameters that say something."""
    return {name: value for name, value in given.items() if value}


def _texts(given: Sequence[str] | None) -> Any:
    return None if given is None else [*given]


def _draft(name: str, model: str, version: str, plan: Json, slot: int, target: Json | None) -> Json:
    return {
        "name": name,
        "model": model,
        "version": version,
        "slot": slot,
        "plan": plan,
        "target": target or {},
    }


def _part(text: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(text, safe="")


def _json(answer: Any) -> Json:
    return answer if isinstance(answer, dict) else {}
