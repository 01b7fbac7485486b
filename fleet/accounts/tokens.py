"""API tokens `tfk_<id>_<secret>`: issued once, kept as a keyed digest, checked in constant time.

The digest is keyed with the installation's secret key, so a copied database alone neither holds a token nor
lets anyone guess one. A token that is used from outside its networks gets the answer of one that does not
exist: whoever stole it learns nothing. The log says which it was, for its owner.
"""

import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.utils.crypto import constant_time_compare, salted_hmac

from fleet.accounts import audit, networks
from fleet.accounts.audit import Actor
from fleet.accounts.models import ApiToken, User
from fleet.accounts.scopes import ALL_SCOPES, scopes_of

log = structlog.get_logger(__name__)
LONGEST_GRACE = timedelta(days=7)
LAST_USED_STEP = timedelta(minutes=1)
"""`last_used_at` moves at most this often: reading a list must not write a row per request."""
_FORM = re.compile(r"tfk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)


class TokenError(Exception):
    """A token was refused. `code`: `token_invalid`, `token_expired`, `scope_missing`, `validation`, `stale`
    (changed since it was read) or `illegal_transition` (of one that is over). field: the input it is about.
    state: of a token that is over; nothing is allowed then.
    """

    def __init__(self, code: str, text: str, *, field: str = "", state: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.field = field
        self.state = state
        if state:
            self.allowed: list[str] = []


def issue(
    owner: User,
    name: str,
    scopes: Iterable[str],
    *,
    actor: Actor,
    now: datetime,
    ttl: timedelta | None = None,
    group_limit: Collection[str] | None = None,
    allowed_from: Collection[str] | None = None,
    within: Collection[str] | None = None,
) -> tuple[ApiToken, str]:
    """Make a token for `owner`. The text of the pair is shown once and can never be read again.

    scopes: at most what the owner's role allows. ttl: None lets it live until it is revoked. group_limit:
    names of the device groups it is limited to, of those its owner is limited to; None: as its owner.
    allowed_from: networks it may be used from (`fleet.accounts.networks`); None: any, an empty list is
    refused. within: networks of the token that asks, which the new one must stay in; None: any. Raises
    TokenError `validation` for an empty name, an unknown scope, networks that are none or a ttl that is not
    positive, and `scope_missing` for a scope that the owner does not have or networks beyond `within`.
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
    places = _networks(allowed_from, within)
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    with transaction.atomic():
        token = ApiToken.objects.create(
            public_id=public_id,
            digest=_digest(public_id, secret),
            name=name,
            owner=owner,
            scopes=sorted(wanted),
            group_limit=limit,
            networks=places,
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
                "networks": places,
            },
        )
    return token, f"tfk_{public_id}_{secret}"


def authenticate(bearer: str, *, now: datetime, address: str = "") -> ApiToken:
    """The live token that `bearer` names; its `owner` is loaded, and `shown` is set.

    address: of the peer, "" when it is not known. Raises TokenError `token_invalid` for anything malformed,
    unknown, revoked, of a disabled owner or used from outside its networks, and `token_expired`.
    """
    match = _FORM.fullmatch(bearer) if len(bearer) <= 128 else None
    if match is None:
        raise TokenError("token_invalid", "not a token of this installation")
    public_id, secret = match[1], match[2]
    token = ApiToken.objects.select_related("owner").filter(public_id=public_id).first()
    # An unknown id costs the same comparisons as a known one, so the time taken tells nothing about which ids
    # exist, or which of them have a former secret.
    given = _digest(public_id, secret)
    is_right = constant_time_compare(bytes(token.digest) if token else bytes(32), given)
    former = token.former_digest if token and _is_former_taken(token, now) else None
    is_former = constant_time_compare(bytes(former or bytes(32)), given)
    is_live = token is not None and token.revoked_at is None and token.owner.is_active
    if token is None or not (is_right or is_former) or not is_live or not is_from_inside(token, address):
        raise TokenError(
            "token_invalid", "unknown, revoked, of a disabled owner, or not to be used from here"
        )
    if token.expires_at is not None and token.expires_at <= now:
        raise TokenError("token_expired", f"the token expired at {token.expires_at.isoformat()}")
    token.shown = given
    _note_use(token, now, "last_used_at")
    if not is_right:
        _note_use(token, now, "former_used_at")
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


def rotate(
    token: ApiToken,
    *,
    actor: Actor,
    now: datetime,
    grace: timedelta = timedelta(0),
    within: Collection[str] | None = None,
) -> str:
    """Give a token another secret; the text of the pair is returned, and can never be read again. Its id,
    scopes, limits and end stay.

    grace: how long the secret of now is taken as well; 0 (the default) ends it at once. There are never more
    than two: rotating again within that time ends the one before. within: as of `issue`. Who may ask is the
    caller's business: the text acts in the owner's name. Raises TokenError `validation` for a grace outside
    0..7 days, `scope_missing` for a token that works beyond `within`, `stale` when somebody changed the token
    since `token` was read, `illegal_transition` when it is revoked or has expired.
    """
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise TokenError("validation", "a former secret is taken for 0 hours to 7 days", field="grace_hours")
    _check_within(token.networks, within)
    _check_live(token, now, "rotate")
    secret, until = secrets.token_hex(32), now + grace if grace else None
    values = {
        "digest": _digest(token.public_id, secret),
        "former_digest": bytes(token.digest) if grace else None,
        "former_until": until,
        "former_used_at": None,
    }
    with transaction.atomic():
        _update(token, values)
        about = {"name": token.name, "former_until": until.isoformat() if until else None}
        _record(token, "token.rotate", actor, now, after=about)
    token.refresh_from_db()
    return f"tfk_{token.public_id}_{secret}"


def change(
    token: ApiToken,
    *,
    allowed_from: Collection[str] | None,
    actor: Actor,
    now: datetime,
    within: Collection[str] | None = None,
) -> ApiToken:
    """Say from which networks a token may be used; None: from any.

    within: as of `issue`. Raises TokenError `validation` and `scope_missing` as `issue`, `stale` when
    somebody changed it since `token` was read, and `illegal_transition` when it is revoked or has expired.
    """
    places, before = _networks(allowed_from, within), token.networks
    _check_live(token, now, "change")
    with transaction.atomic():
        _update(token, {"networks": places})
        _record(token, "token.change", actor, now, before={"networks": before}, after={"networks": places})
    token.refresh_from_db()
    return token


def is_taken(token: ApiToken, shown: bytes, *, now: datetime) -> bool:
    """True while the secret with this digest is the token's, or its former one within its grace."""
    former = token.former_digest if _is_former_taken(token, now) else None
    known = [bytes(one) for one in (token.digest, former) if one is not None]
    return any(constant_time_compare(one, shown) for one in known)


def is_from_inside(token: ApiToken, address: str) -> bool:
    """True when a token may be used from this address. One that may not is logged with its id."""
    if token.networks is None or networks.hold(token.networks, address):
        return True
    log.warning("token_outside_networks", token=token.public_id, address=address, networks=token.networks)
    return False


def revoke(token: ApiToken, *, actor: Actor, now: datetime) -> bool:
    """End a token for good. True for the call that ended it."""
    with transaction.atomic():
        if not ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
            return False
        audit.record(
            actor=actor, verb="token.revoke", subject_kind="token", subject_id=token.public_id, at=now
        )
    return True


def _note_use(token: ApiToken, now: datetime, field: str) -> None:
    stale = Q(**{field: None}) | Q(**{f"{field}__lt": now - LAST_USED_STEP})
    if ApiToken.objects.filter(stale, pk=token.pk).update(**{field: now}):
        setattr(token, field, now)


def _networks(allowed_from: Collection[str] | None, within: Collection[str] | None) -> list[str] | None:
    try:
        places = None if allowed_from is None else networks.parsed(allowed_from)
    except ValueError as error:
        raise TokenError("validation", str(error), field="networks") from None
    _check_within(places, within)
    return places


def _check_within(places: Collection[str] | None, within: Collection[str] | None) -> None:
    """Whoever stole a token that works from some networks only must not make one of it that works elsewhere.
    Raises TokenError `scope_missing`.
    """
    if within is not None and (places is None or not networks.cover(within, places)):
        text = f"the asking token is bound to networks: so must this one be, within {', '.join(within)}"
        raise TokenError("scope_missing", text, field="networks")


def _check_live(token: ApiToken, now: datetime, asked: str) -> None:
    over = token.expires_at is not None and token.expires_at <= now
    state = "revoked" if token.revoked_at is not None else "expired" if over else ""
    if state:
        text = f"{asked} is not possible: tfk_{token.public_id} is {state}, make another one"
        raise TokenError("illegal_transition", text, state=state)


def _is_former_taken(token: ApiToken, now: datetime) -> bool:
    return token.former_until is not None and now < token.former_until


def _update(token: ApiToken, values: dict[str, Any]) -> None:
    """Change a token as it was read. Raises TokenError `stale`."""
    found = ApiToken.objects.filter(pk=token.pk, rev=token.rev, revoked_at=None)
    if found.update(rev=F("rev") + 1, **values) != 1:
        raise TokenError("stale", f"tfk_{token.public_id} was changed meanwhile: read it again")


def _record(
    token: ApiToken,
    verb: str,
    actor: Actor,
    now: datetime,
    *,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> None:
    audit.record(
        actor=actor, verb=verb, subject_kind="token", subject_id=token.public_id, at=now, before=before,
        after=after,
    )  # fmt: skip


def _digest(public_id: str, secret: str) -> bytes:
    return salted_hmac("fleet.accounts.tokens", f"{public_id}:{secret}", algorithm="sha256").digest()
