"""`tinyfleet models verify`: does a chain of signatures hold, from trusted root keys to the model's bytes.

Asks nobody: the manifest, the trust document and the model are files, and the root keys are on the command
line, so the installation that made them cannot vouch for itself. What devices check, by the same code.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from fleet.cli import output
from fleet.cli.exits import EndedBadly, UsageError

_FIELDS = (
    ("model", "model"), ("version", "version"), ("seq", "seq"), ("slot", "slot"), ("manifest", "manifest"),
    ("model sha-256", "sha256"), ("bytes", "size"), ("trust document", "trust_version"),
    ("signed by", "signed_by"), ("model file", "model_file"),
)  # fmt: skip


def add(verbs: Any) -> None:
    """Add the verb to `tinyfleet models`."""
    one = verbs.add_parser("verify", help="check a signed manifest and a model against root keys, offline")
    one.add_argument("--manifest", type=Path, required=True, help="signed manifest, as the console gives it")
    one.add_argument("--trust", type=Path, required=True, help="signed trust document")
    one.add_argument("--model", type=Path, help="the .tflite that the manifest is of")
    one.add_argument(
        "--root", action="append", required=True, metavar="HEX", help="public root key; once for each"
    )
    one.add_argument("--threshold", type=int, default=1, metavar="N", help="roots that must have signed")
    one.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> None:
    from fleet.mqtt.codec import cose
    from ota.documents import DocumentError
    from ota.signing import manifest_id, verify_manifest
    from ota.trust import verify_trust

    roots = [_key(text) for text in args.root]
    if not 1 <= args.threshold <= len(set(roots)):
        raise UsageError(f"--threshold {args.threshold}: {len(set(roots))} different root keys are named")
    message = _read(args.manifest)
    try:
        trust = verify_trust(_read(args.trust), roots=roots, threshold=args.threshold, min_version=1)
        found = verify_manifest(message, trust)
        signed = cose.valid_signers(cose.parse_sign("manifest", message), trust.live_release())
    except DocumentError as error:
        raise EndedBadly(f"not to be trusted: {error.code}: {error.text}") from error
    if args.model is not None:
        _same_bytes(_read(args.model), found.size, found.sha256)
    told = {
        "model": found.name,
        "version": found.version,
        "seq": found.seq,
        "slot": found.slot,
        "manifest": manifest_id(message).hex(),
        "sha256": found.sha256.hex(),
        "size": found.size,
        "trust_version": trust.version,
        "signed_by": sorted(cose.signing_kid(key).hex() for key in signed),
        "model_file": "not given, so not compared" if args.model is None else "has exactly these bytes",
    }
    output.one(told, args.format, _FIELDS)


def _same_bytes(data: bytes, size: int, sha256: bytes) -> None:
    if len(data) != size:
        raise EndedBadly(f"not to be trusted: the model has {len(data)} bytes, the manifest says {size}")
    if (digest := hashlib.sha256(data).digest()) != sha256:
        raise EndedBadly(
            f"not to be trusted: the model's sha-256 is {digest.hex()}, the manifest says {sha256.hex()}"
        )


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"--root {text[:16]}: a root key is 64 hexadecimal digits")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
