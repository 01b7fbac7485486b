"""What every example starts from: an installation, thirty enrolled devices, four signed models, no past.

Made once for a test module, because enrolment and signing cost more than an example; `Scene.clear` forgets
what an example did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import connection
from django.test import override_settings

from fleet.devices.keys import Keyring
from fleet.devices.models import Device, DeviceClass
from ota.models import ClassVerdict, Manifest, Staging
from ota.trust import TrustDocument
from tests.devices.makers import Board, make_board

DEVICES = 30
PASSPHRASE = "a passphrase of the tests"
_CLEARED = (
    "ota_evidence", "ota_job", "ota_membership", "ota_wave", "ota_targetsnapshot", "ota_rollout",
    "ota_desiredstate", "accounts_auditevent", "devices_deviceevent", "devices_deviceslot",
)  # fmt: skip
_MEASURED = (
    "tele_window", "tele_inference", "tele_minute", "tele_device_last", "tele_sketch", "tele_dead",
    "tele_hour", "tele_hist", "tele_hist_live", "tele_accuracy", "tele_device_day", "tele_dirty",
    "tele_boot", "tele_gap",
)  # fmt: skip


@dataclass
class Scene:
    """What is there before anything happens. manifests: the first one is what devices run at the start."""

    boards: list[Board]
    manifests: list[Manifest]
    trust: TrustDocument
    keyring: Keyring
    class_id: bytes

    def clear(self, now: datetime) -> None:
        """Forget every rollout, document, report and measurement."""
        self.keyring.clear()
        with connection.cursor() as cursor:
            have = set(connection.introspection.table_names(cursor))
            names = ", ".join(f'"{name}"' for name in (*_CLEARED, *_MEASURED) if name in have)
            cursor.execute(f"TRUNCATE {names} CASCADE")
        Device.objects.update(
            presence="online", last_seen_at=now, boot=0, report_n=0, reported_at=None, retired_at=None,
            desired_counter=0, quarantined_at=None, quarantine_reason="", refusal_code="",
        )  # fmt: skip


@contextmanager
def made(now: datetime, folder: Path, make_manifest: Callable[..., Manifest]) -> Iterator[Scene]:
    """The scene, and an emptied database afterwards. make_manifest: signs a manifest, as the fixture does."""
    from django.core.management import call_command

    from fleet.devices.classes import ensure_default_classes
    from fleet.devices.installation import ensure_installation
    from ota import keys

    with override_settings(KEY_PASSPHRASE=PASSPHRASE, RUN_DIR=folder, MQTT={**_NO_BROKER}):
        keys.init(now)
        ensure_default_classes(now)
        ensure_installation(now)
        boards = [make_board(f"dev-{n:03d}", now) for n in range(1, DEVICES + 1)]
        described = DeviceClass.objects.get(pk="host-a")
        manifests = [
            _fitting(make_manifest(size=8 * 4096 - 100, vectors=1), described, now) for _ in range(4)
        ]
        trust, _ = keys.current_trust()
    yield Scene(boards, manifests, trust, Keyring(), bytes.fromhex(described.class_id))
    call_command("flush", verbosity=0, interactive=False)


_NO_BROKER: dict[str, Any] = {"ca": "", "users_file": "", "password_file": "", "pid_file": ""}


def _fitting(manifest: Manifest, described: DeviceClass, now: datetime) -> Manifest:
    """Let the manifest be for this class, judged and staged."""
    Manifest.objects.filter(pk=manifest.pk).update(class_ids=[described.class_id])
    ClassVerdict.objects.create(
        version=manifest.version, device_class=described, class_id=described.class_id, kind="pass", at=now
    )
    Staging.objects.create(manifest=manifest, state="staged", published=manifest.chunks)
    manifest.refresh_from_db()
    return manifest
