"""Python's Ed25519, SHA-256 and HMAC give the shared known answers; the RFC's own numbers stand here."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from fleet.mqtt.codec import cose
from tests.vectors import generate
from tests.vectors.primitives import rfc8032

CONTENT = json.loads((Path(generate.__file__).parent / "primitives.json").read_text())
RFC8032_SIGNATURES = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
    "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
)
"""RFC 8032 section 7.1, tests 1, 2, 3 and SHA(abc)."""
RFC4231_TAGS = (
    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
)
"""RFC 4231 sections 4.2 and 4.3."""


SIGNATURES = [entry for entry in CONTENT["ed25519"] if "python" in entry.get("readers", ["python"])]
"""Without keys of small order, which only the firmware's library refuses."""


@pytest.mark.parametrize("entry", SIGNATURES, ids=lambda entry: entry["name"])
def test_a_signature_is_judged_as_expected(entry: dict[str, Any]) -> None:
    public, signature, message = (bytes.fromhex(entry[name]) for name in ("public", "signature", "message"))
    assert cose.verify_ed25519(public, signature, message) == (entry["expect"] == "ok")


def test_the_first_signatures_are_those_of_rfc_8032() -> None:
    made = tuple(pair.sign(message).hex() for _, pair, message in rfc8032())
    assert made == RFC8032_SIGNATURES


@pytest.mark.parametrize("entry", CONTENT["sha256"], ids=lambda entry: entry["name"])
def test_a_digest_is_the_expected_one(entry: dict[str, Any]) -> None:
    assert hashlib.sha256(bytes.fromhex(entry["message"])).hexdigest() == entry["digest"]


def test_macs_are_the_expected_ones() -> None:
    for entry in CONTENT["hmac_sha256"]:
        key, message = bytes.fromhex(entry["key"]), bytes.fromhex(entry["message"])
        assert hmac.digest(key, message, "sha256").hex() == entry["tag"]
    assert tuple(entry["tag"] for entry in CONTENT["hmac_sha256"][:2]) == RFC4231_TAGS
