"""Work of `fleet.gateway` that a person asks for: shells over named verbs, safe to lose."""

import structlog
from celery import shared_task
from django.utils import timezone

from fleet.accounts.audit import Actor
from fleet.devices.installation import installation_id
from fleet.gateway import replay
from fleet.gateway.uplink import Reader

log = structlog.get_logger(__name__)


@shared_task(name="gateway.replay")  # type: ignore[untyped-decorator]
def replay_letters(code: str, device_id: str, actor: list[str]) -> None:
    """Replay the dead letters of a code. actor: kind, name, request id and address of who asked.

    One that is cut short by the time limit leaves the rest as it is: ask again.
    """
    reader = Reader(installation_id())
    done = replay.replay(reader, code, actor=Actor(*actor), now=timezone.now(), device_id=device_id)
    log.info("replayed", code=code, seen=done.seen, taken=done.taken, refused=dict(done.refused))
