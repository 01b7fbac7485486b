"""The identity of this installation: 16 random bytes that bind every MAC and every signature to it."""

import secrets
from datetime import datetime

from django.db import transaction

from fleet.devices.errors import DeviceError
from fleet.devices.models import Installation

INSTALLATION_BYTES = 16


def ensure_installation(now: datetime) -> bytes:
    """The installation id; made on the first call. Two callers at once get the same one."""
    with transaction.atomic():
        row, _ = Installation.objects.get_or_create(
            pk=1,
            defaults={"installation_id": secrets.token_bytes(INSTALLATION_BYTES), "created_at": now},
        )
    return bytes(row.installation_id)


def installation_id() -> bytes:
    """The installation id. Raises DeviceError `not_set_up` before the first `ensure_installation`."""
    row = Installation.objects.order_by("pk").first()
    if row is None:
        raise DeviceError("not_set_up", "this installation has no identity yet: run `manage.py setup`")
    return bytes(row.installation_id)
