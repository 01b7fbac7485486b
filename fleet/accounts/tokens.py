"""API tokens `tfk_<id>_<secret>`: issued once, kept as a keyed digest, checked in constant time.

The digest is keyed with the installation's secret key, so a copied database alone neither holds a token nor
lets anyone guess one.
"""

import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django.utils.crypto import constant_time_compare, salted_hmac

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.accounts.models import ApiToken, User
from fleet.accounts.scopes import ALL_SCOPES, scopes_of

LAST_USED_STEP = timedelta(minutes=1)
"""`last_used_at` moves at most this often: reading a list must not write a row per request."""
_FORM = re.compile(r"tfk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)


class TokenError(Exception):
    """A token was refused. `code`: `token_invalid`, `token_expired`, `scope_missing` or `validation`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


def issue(
    owner: User,
    name: str,
    scopes: Iterable[str],
    *,
    actor: Actor,
    now: datetime,
    ttl: timedelta | None = None,
    group_limit: Collection[str] | None = None,
) -> tuple[ApiToken, str]:
    """Make a token for `owner`. The text of the pair is shown once and can never be read again.

    scopes: at most what the owner's role allows. ttl: None lets it live until it is revoked. group_limit:
    names of the device groups it is limited to, of those its owner is limited to; None: as its owner.
    Raises TokenError `validation` for an empty name, an unknown scope or a ttl that is not positive, and
    `scope_missing` for a scope that the owner does not have.
    """
    wanted = frozenset(scopes)
    if not 1 <= len(name) <= 64:
        raise TokenError("validation", "a token needs a name of 1 to 64 characters")
    if unknown := wanted - ALL_SCOPES:
        raise TokenError("validation", f"unknown scope {sorted(unknown)[0]!r}")
    if beyond := wanted - scopes_of(owner):
        raise TokenError("scope_missing", f"{owner.username} does not have the scope {sorted(beyond)[0]}")
    if ttl is not None and ttl <= timedelta(0):
        raise TokenError("validation", "the time to live is not positive")
    limit = None if group_limit is None else sorted(set(group_limit))
    if limit is not None and owner.group_limit is not None and set(limit) - set(owner.group_limit):
        raise TokenError("scope_missing", f"{owner.username} is limited to other groups of devices")
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    with transaction.atomic():
        token = ApiToken.objects.create(
            public_id=public_id,
            digest=_digest(public_id, secret),
            name=name,
            owner=owner,
            scopes=sorted(wanted),
            group_limit=limit,
            created_at=now,
            expires_at=None if ttl is None else now + ttl,
        )
        audit.record(
            actor=actor,
            verb="token.issue",
            subject_kind="token",
            subject_id=public_id,
            at=now,
            after={
                "name": name,
                "owner": owner.username,
                "scopes": sorted(wanted),
                "group_limit": limit,
            },
        )
    return token, f"tfk_{public_id}_{secret}"


def authenticate(bearer: str, *, now: datetime) -> ApiToken:
    """The live token that `bearer` names; its `owner` is loaded.

    Raises TokenError `token_invalid` for anything malformed, unknown, revoked or of a disabled owner, and
    `token_expired`.
    """
    match = _FORM.fullmatch(bearer) if len(bearer) <= 128 else None
    if match is None:
        raise TokenError("token_invalid", "not a token of this installation")
    public_id, secret = match[1], match[2]
    token = ApiToken.objects.select_related("owner").filter(public_id=public_id).first()
    # An unknown id costs the same comparison as a known one, so the time taken tells nothing about which ids
    # exist.
    kept = bytes(token.digest) if token else bytes(32)
    is_right = constant_time_compare(kept, _digest(public_id, secret))
    if token is None or not is_right or token.revoked_at is not None or not token.owner.is_active:
        raise TokenError("token_invalid", "unknown, revoked or of a disabled owner")
    if token.expires_at is not None and token.expires_at <= now:
        raise TokenError("token_expired", f"the token expired at {token.expires_at.isoformat()}")
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - LAST_USED_STEP)
    if ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now):
        token.last_used_at = now
    return token


def effective_scopes(token: ApiToken) -> frozenset[str]:
    """What the token may do now: its own scopes, never more than its owner's role still allows."""
    return frozenset(token.scopes) & scopes_of(token.owner)


def effective_limit(token: ApiToken) -> frozenset[str] | None:
    """The groups of devices the token sees now: its own, of those its owner still has; None: no limit."""
    own, owners = token.group_limit, token.owner.group_limit
    if own is None:
        return None if owners is None else frozenset(owners)
    return frozenset(own) if owners is None else frozenset(own) & frozenset(owners)


def revoke(token: ApiToken, *, actor: Actor, now: datetime) -> bool:
    """End a token for good. True for the call that ended it."""
    with transaction.atomic():
        if not ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
            return False
        audit.record(
            actor=actor, verb="token.revoke", subject_kind="token", subject_id=token.public_id, at=now
        )
    return True


def _digest(public_id: str, secret: str) -> bytes:
    return salted_hmac("fleet.accounts.tokens", f"{public_id}:{secret}", algorithm="sha256").digest()
