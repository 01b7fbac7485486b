"""Keys and trust: made once, sealed at rest, and refused with a code under another passphrase."""

import io
import stat
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from fleet.accounts.models import AuditEvent
from ota import keys
from ota.keys import KeysError
from ota.models import SigningKey, Trust
from ota.signing import KeyPair
from ota.trust import verify_trust

pytestmark = pytest.mark.django_db


def code_of(call: Any, *given: Any) -> str:
    with pytest.raises(KeysError) as caught:
        call(*given)
    return caught.value.code


def test_init_makes_every_key_and_a_trust_document_that_two_roots_signed(now: Any) -> None:
    assert keys.init(now)
    assert sorted(SigningKey.objects.values_list("role", flat=True)) == [
        "online",
        "release",
        "root",
        "root",
        "root",
    ]
    trust, message = keys.current_trust()
    anchor = keys.root_anchor()
    assert (len(anchor.roots), anchor.threshold, anchor.least_version) == (3, 2, 1)
    document = verify_trust(message, roots=anchor.roots, threshold=anchor.threshold, min_version=1)
    assert document == trust
    assert document.online == (keys.online_signer().public_key,)
    assert [signer.public_key for signer in keys.release_signers()] == list(document.release)


def test_a_second_init_changes_nothing(now: Any) -> None:
    assert keys.init(now)
    before = set(SigningKey.objects.values_list("kid", flat=True))
    assert not keys.init(now)
    assert set(SigningKey.objects.values_list("kid", flat=True)) == before
    assert AuditEvent.objects.filter(verb="keys.init").count() == 1


def test_private_halves_are_encrypted_and_roots_are_not_in_the_database(now: Any, settings: Any) -> None:
    keys.init(now)
    for row in SigningKey.objects.exclude(role="root"):
        pem = bytes(row.private_pem)
        assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        seed = KeyPair.from_pem(pem, settings.KEY_PASSPHRASE.encode()).private.private_bytes_raw()
        assert seed not in pem
    assert not SigningKey.objects.filter(role="root", private_pem__isnull=False).exists()
    files = sorted(Path(settings.RUN_DIR, "keys").iterdir())
    assert [path.name for path in files] == ["root-1.pem", "root-2.pem", "root-3.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700


def test_an_interrupted_init_goes_on_with_the_roots_it_had_written(now: Any, settings: Any) -> None:
    folder = keys.key_directory()
    passphrase = settings.KEY_PASSPHRASE.encode()
    first = KeyPair.generate()
    first.save(folder / "root-1.pem", passphrase)
    (folder / "root-2.new").write_bytes(b"half a fi")
    assert keys.init(now)
    assert keys.root_anchor().roots[0] == first.public_key
    assert KeyPair.load(folder / "root-2.pem", passphrase).public_key == keys.root_anchor().roots[1]


def test_a_wrong_or_missing_passphrase_has_a_code_and_leaves_nothing_behind(now: Any, settings: Any) -> None:
    right = settings.KEY_PASSPHRASE
    settings.KEY_PASSPHRASE = ""
    assert code_of(keys.init, now) == "passphrase_missing"
    settings.KEY_PASSPHRASE = "short"
    assert code_of(keys.init, now) == "passphrase_weak"
    assert not SigningKey.objects.exists()
    assert not Trust.objects.exists()
    settings.KEY_PASSPHRASE = right
    keys.init(now)
    settings.KEY_PASSPHRASE = "another passphrase"
    assert code_of(keys.online_signer) == "passphrase_wrong"
    assert code_of(keys.release_signers) == "passphrase_wrong"
    settings.KEY_PASSPHRASE = ""
    assert code_of(keys.online_signer) == "passphrase_missing"


def test_without_keys_every_reader_says_so(now: Any) -> None:
    assert code_of(keys.current_trust) == "keys_missing"
    assert code_of(keys.root_anchor) == "keys_missing"
    assert code_of(keys.online_signer) == "keys_missing"


def test_a_release_key_that_is_revoked_or_held_elsewhere_signs_nothing(now: Any) -> None:
    keys.init(now)
    SigningKey.objects.filter(role="release").update(private_pem=None)
    assert code_of(keys.release_signers) == "keys_missing"


def test_the_command_makes_lists_and_explains(now: Any, settings: Any) -> None:
    out = io.StringIO()
    call_command("keys", "init", stdout=out)
    call_command("keys", "init", stdout=out)
    assert "already" in out.getvalue()
    listed = io.StringIO()
    call_command("keys", "list", stdout=listed)
    for kid in SigningKey.objects.values_list("kid", flat=True):
        assert kid in listed.getvalue()
    Trust.objects.all().delete()
    SigningKey.objects.all().delete()
    settings.KEY_PASSPHRASE = "another passphrase"
    with pytest.raises(CommandError, match="passphrase_wrong"):
        call_command("keys", "init", stdout=out)


def test_the_command_revokes_a_key_and_says_who_hears_of_it(now: Any, settings: Any) -> None:
    keys.init(now)
    kid = SigningKey.objects.get(role="release").kid
    out = io.StringIO()
    call_command("keys", "revoke", kid, "--reason", "stolen", "--dry-run", stdout=out)
    assert f"release key {kid} would be revoked" in out.getvalue()
    assert SigningKey.objects.get(pk=kid).revoked_at is None
    call_command("keys", "revoke", kid, "--reason", "stolen", stdout=out)
    assert f"release key {kid} revoked\n  trust document 2 tells the devices" in out.getvalue()
    assert AuditEvent.objects.get(verb="key.revoke").actor_kind == "command"
    with pytest.raises(CommandError, match="illegal_transition"):
        call_command("keys", "revoke", kid, "--reason", "twice", stdout=out)
    for path in keys.key_directory().glob("root-*.pem"):
        path.unlink()
    other = SigningKey.objects.get(role="release", revoked_at=None).kid
    call_command("keys", "revoke", other, "--reason", "stolen", stdout=out)
    assert "the root keys are not here" in out.getvalue()
