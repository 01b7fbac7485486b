"""Signing keys and the trust document that says what each may sign."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router
from pydantic import Field

from fleet.api.auth import Scope, actor
from fleet.api.idempotency import idempotent
from fleet.api.paging import page
from fleet.api.render import stamp
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.mqtt.codec.cose import signing_kid
from ota import key_revocation, keys
from ota.models import SigningKey, Trust

router = Router(tags=["keys"])
SORTS = Sorts(
    SigningKey,
    {name: name for name in ("kid", "role", "created_at", "revoked_at")},
    default="kid",
    key="kid",
    most=3,
)


class RevokeBody(Strict):
    """Why a key is trusted no more."""

    reason: str = Field("", max_length=key_revocation.MAX_REASON)
    dry_run: bool = False


@router.get("/signing-keys", auth=Scope("keys:admin"), response=dict[str, Any])
def list_keys(request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()) -> Any:
    """Every key the installation has had. `is_held`: its private half is in the database; those of
    roots are files.
    """
    rows, order = SigningKey.objects.all(), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=_key)


@router.post("/signing-keys/{kid}/revoke", auth=Scope("keys:admin"), response=dict[str, Any])
@idempotent(is_required=False)
def revoke_key(request: HttpRequest, kid: str, body: RevokeBody) -> Any:
    """Trust a release or online key no more, for good: rollouts that rest on it halt, and devices are told as
    soon as the roots have signed it. `dry_run`: only tell what that would mean.
    """
    found = key_revocation.revoke(kid, actor=actor(request), now=timezone.now(), **body.dict())
    return {"dry_run": body.dry_run, **found.to_json()}


@router.get("/trust", auth=Scope("keys:admin"), response=dict[str, Any])
def get_trust(request: HttpRequest) -> Any:
    """The newest trust document: which keys devices trust, by their ids."""
    document, message = keys.current_trust()
    row = Trust.objects.get(version=document.version)
    return {
        "version": document.version,
        "issued_at": stamp(row.issued_at),
        "expires_at": stamp(row.expires_at),
        "roots": _kids(document.roots),
        "root_threshold": document.root_threshold,
        "release": _kids(document.live_release()),
        "release_threshold": document.release_threshold,
        "online": _kids(document.live_online()),
        "revoked": [kid.hex() for kid in document.revoked],
        "names": [
            {"name": rule.name, "least_seq": rule.least_seq, "resets": rule.resets} for rule in document.names
        ],
        "bytes": len(message),
    }


def _kids(public_keys: tuple[bytes, ...]) -> list[str]:
    return [signing_kid(key).hex() for key in public_keys]


def _key(row: SigningKey) -> dict[str, Any]:
    return {
        "kid": row.kid,
        "role": row.role,
        "public_key": bytes(row.public_key).hex(),
        "is_held": row.private_pem is not None,
        "created_at": stamp(row.created_at),
        "revoked_at": stamp(row.revoked_at),
    }
