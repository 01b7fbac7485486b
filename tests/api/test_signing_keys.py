"""Signing keys over REST: listed, revoked once, and what a revocation tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ota.models import Manifest, Rollout, SigningKey
from tests.api.conftest import Caller
from tests.api.test_rollouts import begin, draft_of, verb
from tests.api.test_rollouts import candidate as candidate
from tests.ota.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("installation")]


def path_of(role: str) -> str:
    return f"/signing-keys/{SigningKey.objects.filter(role=role, revoked_at=None)[0].kid}/revoke"


def test_keys_are_listed_without_their_private_halves(call: Caller) -> None:
    answer = call("GET", "/signing-keys")
    items = answer.json()["items"]
    assert sorted(item["role"] for item in items) == ["online", "release", "root", "root", "root"]
    assert {item["role"]: item["is_held"] for item in items} == {
        "online": True, "release": True, "root": False,
    }  # fmt: skip
    assert all(len(item["public_key"]) == 64 and item["revoked_at"] is None for item in items)
    assert b"PRIVATE" not in answer.content
    trust = call("GET", "/trust").json()
    (release,) = (item["kid"] for item in items if item["role"] == "release")
    assert (trust["version"], trust["release"], trust["revoked"]) == (1, [release], [])
    assert (trust["root_threshold"], len(trust["roots"])) == (2, 3)


def test_a_release_key_is_revoked_once_and_what_rests_on_it_halts(
    call: Caller, world: World, candidate: Manifest
) -> None:
    path = path_of("release")
    kid = path.split("/")[2]
    Manifest.objects.filter(pk=candidate.pk).update(kids=[kid])
    rollout = f"/rollouts/{call('POST', '/rollouts', draft_of(candidate)).json()['id']}"
    verb(call, rollout, "submit")
    begin(call, rollout)
    resting = [{"id": rollout.rpartition("/")[2], "name": "walk"}]
    refused = call("POST", path, {"reason": " "})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")
    assert refused.json()["errors"][0]["pointer"] == "/reason"
    would = call("POST", path, {"reason": "stolen", "dry_run": True})
    assert (would.status_code, would.json()["rollouts"], would.json()["dry_run"]) == (200, resting, True)
    assert SigningKey.objects.get(pk=kid).revoked_at is None
    first = call("POST", path, {"reason": "stolen"}, IDEMPOTENCY_KEY="k")
    told: dict[str, Any] = first.json()
    assert (told["kid"], told["trust_version"], told["are_devices_told"]) == (kid, 2, True)
    assert told["rollouts"] == resting
    again = call("POST", path, {"reason": "stolen"}, IDEMPOTENCY_KEY="k")
    assert (again.content, again["Idempotent-Replayed"]) == (first.content, "true")
    twice = call("POST", path, {"reason": "stolen"})
    assert (twice.status_code, twice.json()["code"]) == (409, "illegal_transition")
    assert (twice.json()["state"], twice.json()["allowed"]) == ("revoked", [])
    trust = call("GET", "/trust").json()
    assert (trust["version"], trust["release"], trust["revoked"]) == (2, [told["successor"]], [kid])
    world.tick(Rollout.objects.get())
    halted = call("GET", rollout).json()
    assert (halted["state"], halted["allowed"]) == ("halted", ["abort", "rollback"])


def test_what_cannot_be_revoked_is_refused_with_its_code(call: Caller, settings: Any) -> None:
    root = call("POST", path_of("root"), {"reason": "x"})
    assert (root.status_code, root.json()["code"], root.json()["state"]) == (
        409,
        "illegal_transition",
        "root",
    )
    gone = call("POST", "/signing-keys/none/revoke", {"reason": "x"})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    for path in (Path(settings.RUN_DIR) / "keys").glob("root-*.pem"):
        path.unlink()
    online = call("POST", path_of("online"), {"reason": "x"})
    assert (online.status_code, online.json()["code"]) == (503, "keys_missing")
    release = call("POST", path_of("release"), {"reason": "x"})
    assert (release.status_code, release.json()["are_devices_told"]) == (200, False)
