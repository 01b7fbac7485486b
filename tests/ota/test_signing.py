"""Key files at rest, thresholds, and that no bit of a signed manifest can change."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey

from ota.errors import OtaError
from ota.manifest import ManifestError
from ota.signing import KeyFileError, KeyPair, manifest_id, mid, sign_manifest, verify_manifest
from tests.mqtt.strategies import outcome
from tests.vectors.keys import KEYS, NOW, SIGNED_MANIFEST, base_manifest, base_trust

PASSPHRASE = b"correct horse"
TRUST = base_trust()


def test_a_key_file_is_encrypted_private_and_never_overwritten(tmp_path: Path) -> None:
    path, pair = tmp_path / "release.pem", KeyPair.generate()
    pair.save(path, PASSPHRASE)
    raw = path.read_bytes()
    assert raw.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = KeyPair.load(path, PASSPHRASE)
    assert (loaded.public_key, loaded.sign(b"x")) == (pair.public_key, pair.sign(b"x"))
    with pytest.raises(KeyFileError) as refused:
        KeyPair.generate().save(path, PASSPHRASE)
    assert refused.value.code == "key_exists"
    assert path.read_bytes() == raw


@pytest.mark.parametrize(
    ("damage", "passphrase", "code"),
    [
        ("missing", PASSPHRASE, "key_unreadable"),
        ("empty", PASSPHRASE, "key_unreadable"),
        ("text", PASSPHRASE, "key_unreadable"),
        ("cut", PASSPHRASE, "key_unreadable"),
        ("none", b"another one", "passphrase_wrong"),
        ("none", b"", "passphrase_wrong"),
    ],
)
def test_a_key_file_that_cannot_be_used_has_a_code(
    tmp_path: Path, damage: str, passphrase: bytes, code: str
) -> None:
    path = tmp_path / "key.pem"
    pem = KEYS["release"].to_pem(PASSPHRASE)
    contents = {"empty": b"", "text": b"not a key", "cut": pem[:100], "none": pem}
    if damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(KeyFileError) as refused:
        KeyPair.load(path, passphrase)
    assert refused.value.code == code
    assert isinstance(refused.value, OtaError)


def test_a_key_of_another_kind_or_without_a_passphrase_is_refused() -> None:
    other = Ed448PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE),
    )
    plain = KEYS["release"].private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (other, plain):
        with pytest.raises(KeyFileError) as refused:
            KeyPair.from_pem(pem, PASSPHRASE)
        assert refused.value.code == "key_unreadable"
    with pytest.raises(KeyFileError) as refused:
        KeyPair.generate().to_pem(b"short")
    assert refused.value.code == "passphrase_weak"


def test_a_key_pair_never_shows_its_private_half() -> None:
    pair = KeyPair.from_seed(b"\x07" * 32)
    assert repr(pair) == f"KeyPair(kid={pair.kid.hex()})"


def test_each_flipped_bit_of_a_signed_manifest_is_refused() -> None:
    assert verify_manifest(SIGNED_MANIFEST, TRUST, now_s=NOW) == base_manifest()
    for index in range(len(SIGNED_MANIFEST)):
        for bit in range(8):
            flipped = bytes((SIGNED_MANIFEST[index] ^ 1 << bit,))
            bad = SIGNED_MANIFEST[:index] + flipped + SIGNED_MANIFEST[index + 1 :]
            _, code = outcome(lambda bad=bad: verify_manifest(bad, TRUST, now_s=NOW))
            assert code in {"schema", "signature"}, (index, bit)


def test_each_truncation_of_a_signed_manifest_is_refused() -> None:
    for size in range(len(SIGNED_MANIFEST)):
        _, code = outcome(lambda size=size: verify_manifest(SIGNED_MANIFEST[:size], TRUST))
        assert code == "schema", size


def test_a_threshold_counts_keys_and_not_signatures() -> None:
    payload = base_manifest().encode()
    strict = base_trust(release_threshold=2)
    both = sign_manifest(payload, [KEYS["release"], KEYS["release2"]])
    assert verify_manifest(both, strict).seq == 5
    for signers in (["release"], ["release"] * 8, ["release", "stranger", "online", "root"]):
        with pytest.raises(ManifestError) as refused:
            verify_manifest(sign_manifest(payload, [KEYS[name] for name in signers]), strict)
        assert refused.value.code == "signature"


def test_firmware_and_models_have_keys_of_their_own() -> None:
    image = base_manifest(kind=1, slot=255)
    assert verify_manifest(sign_manifest(image.encode(), [KEYS["firmware"]]), TRUST).kind == 1
    for document, signer in ((image, "release"), (base_manifest(), "firmware")):
        with pytest.raises(ManifestError) as refused:
            verify_manifest(sign_manifest(document.encode(), [KEYS[signer]]), TRUST)
        assert refused.value.code == "signature"


def test_nobody_signs_without_signers_or_what_devices_refuse() -> None:
    payload = base_manifest().encode()
    for signers in ([], [KEYS["release"]] * 9):
        with pytest.raises(ManifestError) as refused:
            sign_manifest(payload, signers)
        assert refused.value.code == "signature"
    with pytest.raises(ManifestError) as refused:
        sign_manifest(payload + b"\0", [KEYS["release"]])
    assert refused.value.code == "schema"


def test_a_message_that_grows_over_the_limit_by_its_signatures_is_not_signed() -> None:
    payload = base_manifest(operators=tuple(f"{i:064}" for i in range(22))).encode()
    assert len(payload) < 2048
    with pytest.raises(ManifestError) as refused:
        sign_manifest(payload, [KEYS["release"], KEYS["release2"], KEYS["stranger"], KEYS["root"]])
    assert refused.value.code == "too_large"


def test_the_mid_is_the_beginning_of_the_manifest_id() -> None:
    assert mid(SIGNED_MANIFEST) == manifest_id(SIGNED_MANIFEST).hex()[:16]
