"""Signing keys of the installation and the trust document that says which of them may sign what.

Three root keys, two of which sign trust documents, live as encrypted files below `<run dir>/keys`; a
production installation moves them to another machine. One release key and one online key live in the
database, encrypted with the installation's passphrase.
"""

from __future__ import annotations

import functools
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import connection, transaction

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.devices.trust_anchor import TrustAnchor
from fleet.mqtt.codec import cose
from ota.errors import OtaError
from ota.models import SigningKey, Trust
from ota.signing import KeyFileError, KeyPair
from ota.trust import TrustDocument, sign_trust, verify_trust

ROOT, RELEASE, ONLINE = "root", "release", "online"
ROOTS: Final = 3
ROOT_THRESHOLD: Final = 2
RELEASE_THRESHOLD: Final = 1
TRUST_LIFETIME: Final = timedelta(days=730)
LEAST_TRUST_VERSION: Final = 1
_INIT_LOCK: Final = 0x74666B01  # "tfk" 1: one init at a time, across processes


class KeysError(OtaError):
    """The installation's keys cannot be made or used.

    Codes: `keys_missing`, `passphrase_missing`, `passphrase_wrong`, `passphrase_weak`, `key_unreadable`.
    """


def init(now: datetime, *, actor: Actor = SYSTEM) -> bool:
    """Make the installation's keys and its first trust document. False when they exist already.

    Safe to call twice and from two processes, and after a crash anywhere: root files that an interrupted call
    left behind are used again, and the database rows appear all at once. Raises KeysError
    `passphrase_missing`, `passphrase_weak`, `passphrase_wrong` for root files of another passphrase,
    `key_unreadable`.
    """
    passphrase = _passphrase()
    with transaction.atomic():
        one_at_a_time()
        if Trust.objects.exists():
            return False
        roots = [_root(number, passphrase) for number in range(1, ROOTS + 1)]
        release, online = KeyPair.generate(), KeyPair.generate()
        for role, pair in [(ROOT, root) for root in roots] + [(RELEASE, release), (ONLINE, online)]:
            store(pair, role, now=now)
        document = TrustDocument(
            version=LEAST_TRUST_VERSION,
            issued=int(now.timestamp()),
            expires=int((now + TRUST_LIFETIME).timestamp()),
            roots=tuple(root.public_key for root in roots),
            root_threshold=ROOT_THRESHOLD,
            release=(release.public_key,),
            release_threshold=RELEASE_THRESHOLD,
            online=(online.public_key,),
        )
        message = sign_trust(document.encode(), roots[:ROOT_THRESHOLD])
        verify_trust(message, roots=document.roots, threshold=ROOT_THRESHOLD, min_version=LEAST_TRUST_VERSION)
        Trust.objects.create(
            version=document.version, message=message, issued_at=now, expires_at=now + TRUST_LIFETIME
        )
        audit.record(
            actor=actor,
            verb="keys.init",
            subject_kind="trust",
            subject_id=str(document.version),
            at=now,
            after={
                "root": [root.kid.hex() for root in roots],
                "release": release.kid.hex(),
                "online": online.kid.hex(),
            },
        )
    return True


def one_at_a_time() -> None:
    """Wait for whoever makes or changes keys, and keep others waiting until this transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_INIT_LOCK])


def store(pair: KeyPair, role: str, *, now: datetime) -> SigningKey:
    """Keep a key; the private half sealed with the passphrase, of a root not at all. Raises KeysError as
    `release_signers`.
    """
    return SigningKey.objects.create(
        kid=pair.kid.hex(),
        role=role,
        public_key=pair.public_key,
        private_pem=None if role == ROOT else pair.to_pem(_passphrase()),
        created_at=now,
    )


def root_anchor() -> TrustAnchor:
    """What a device gets at enrolment to judge trust documents by. Raises KeysError `keys_missing`."""
    document, _ = current_trust()
    return TrustAnchor(document.roots, document.root_threshold, LEAST_TRUST_VERSION)


def current_trust() -> tuple[TrustDocument, bytes]:
    """The newest trust document and its signed message. Raises KeysError `keys_missing`."""
    row = Trust.objects.order_by("-version").first()
    if row is None:
        raise KeysError("keys_missing", "this installation has no keys yet", "run `manage.py keys init`")
    message = bytes(row.message)
    return TrustDocument.parse(cose.parse_sign("trust", message).payload), message


def online_signer() -> KeyPair:
    """The key that signs desired documents and commands. Raises KeysError as `release_signers`."""
    trust, _ = current_trust()
    return _signers(ONLINE, trust.live_online(), 1)[0]


def release_signers() -> list[KeyPair]:
    """As many release keys as a manifest needs signatures.

    Raises KeysError `keys_missing` when the server holds fewer than the threshold (they sign on another
    machine then), `passphrase_missing`, `passphrase_wrong`, `key_unreadable`.
    """
    trust, _ = current_trust()
    return _signers(RELEASE, trust.live_release(), trust.release_threshold)


def root_signers(trust: TrustDocument) -> list[KeyPair]:
    """As many of the document's roots as sign its successor, from the files of this machine; [] when they are
    not here, as in production. Raises KeysError `passphrase_missing`, `passphrase_wrong`, `key_unreadable`.
    """
    held: list[KeyPair] = []
    for path in _root_files() if are_roots_here(trust) else ():
        try:
            pair = KeyPair.load(path, _passphrase())
        except KeyFileError as problem:
            raise KeysError(problem.code, f"{path.name}: {problem.text}") from problem
        if pair.public_key in trust.roots and pair.kid not in trust.revoked:
            held.append(pair)
    return held[: trust.root_threshold] if len(held) >= trust.root_threshold else []


def are_roots_here(trust: TrustDocument) -> bool:
    """True when this machine has as many root files as sign the next trust document; none is opened."""
    return len(_root_files()) >= trust.root_threshold


def _root_files() -> list[Path]:
    return sorted((Path(settings.RUN_DIR) / "keys").glob("root-*.pem"))


def key_directory() -> Path:
    """Where the root keys' files are; 0700."""
    folder = Path(settings.RUN_DIR) / "keys"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _signers(role: str, trusted: tuple[bytes, ...], needed: int) -> list[KeyPair]:
    """The first `needed` keys of a role that the trust document lists and whose private half is here."""
    rows = SigningKey.objects.filter(role=role, revoked_at=None, private_pem__isnull=False)
    held = [row for row in rows.order_by("created_at", "kid") if bytes(row.public_key) in trusted]
    if len(held) < needed:
        raise KeysError("keys_missing", f"{len(held)} {role} keys are held here, {needed} are needed")
    passphrase = _passphrase()
    return [_opened(bytes(row.private_pem or b""), passphrase) for row in held[:needed]]


def _root(number: int, passphrase: bytes) -> KeyPair:
    """Root key `number`, read from its file, or made and written to it in one step."""
    path = key_directory() / f"root-{number}.pem"
    try:
        if path.exists():
            return KeyPair.load(path, passphrase)
        pair, unfinished = KeyPair.generate(), path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        pair.save(unfinished, passphrase)
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except KeyFileError as problem:
        raise KeysError(problem.code, f"{path.name}: {problem.text}") from problem
    return pair


def _passphrase() -> bytes:
    given = str(settings.KEY_PASSPHRASE)
    if not given:
        raise KeysError(
            "passphrase_missing",
            "the keys are sealed and no passphrase was given",
            "set FLEET_KEY_PASSPHRASE, or FLEET_KEY_PASSPHRASE_FILE naming a file that holds it",
        )
    return given.encode()


@functools.lru_cache(maxsize=16)
def _opened(pem: bytes, passphrase: bytes) -> KeyPair:
    """A private key; opening one costs milliseconds of key derivation, and a worker signs thousands of
    documents.
    """
    try:
        return KeyPair.from_pem(pem, passphrase)
    except KeyFileError as problem:
        raise KeysError(
            problem.code, problem.text, "give the passphrase that `manage.py keys init` was run with"
        ) from problem
