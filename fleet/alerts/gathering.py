"""Things that happen by the thousand, told in few messages: jobs that fail, devices that enrol.

Each is a row of its own, written in the transaction of what happened: for the cost of one INSERT it is as
sure to be told as an announcement is. The beat takes the rows of one object together once the oldest has
waited for WAIT, and puts one message into the outbox of each receiver, in the transaction that deletes them.
So a rollout or a class makes at most one message in WAIT, plus one for each MOST rows that came meanwhile,
and nothing is counted twice. The messages of an object add up: none replaces another, whatever its `rev`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Min

from fleet.alerts import outbox
from fleet.alerts.models import GatheredFact
from fleet.announcing import Fact

WAIT: Final = timedelta(seconds=15)
MOST: Final = 10_000
"""Most rows of one message: what is read and deleted in one transaction."""
LISTED: Final = 100
"""Most of them that the message lists; the others are counted."""
MOST_KEYS: Final = 20
"""Most different keys that are counted apart: firmware names itself, so there may be any number."""
OTHERS: Final = "(other)"
_OBJECTS: Final = 50


def keep(facts: Sequence[Fact]) -> int:
    """Store facts for the next message; returns how many. Call it in their own transaction."""
    rows = [
        GatheredFact(
            event=fact.event, kind=fact.kind, object_id=fact.id, at=fact.at, key=fact.key,
            item=dict(fact.item), about=dict(fact.about), page=fact.page, api=fact.api,
        )
        for fact in facts
    ]  # fmt: skip
    return len(GatheredFact.objects.bulk_create(rows, batch_size=1_000))


def tell_due(now: datetime) -> int:
    """Put the messages that are due into the outbox, of at most 50 objects; returns how many facts they tell.

    Safe from many workers: each takes the rows that no other holds.
    """
    first = GatheredFact.objects.order_by().values("event", "kind", "object_id").annotate(first=Min("at"))
    due = first.filter(first__lte=now - WAIT).order_by("first")[:_OBJECTS]
    return sum(_tell(one["event"], one["kind"], one["object_id"], now=now) for one in due)


def _tell(event: str, kind: str, object_id: str, *, now: datetime) -> int:
    with transaction.atomic():
        found = GatheredFact.objects.filter(event=event, kind=kind, object_id=object_id)
        rows = list(found.order_by("id").select_for_update(skip_locked=True)[:MOST])
        if not rows:
            return 0
        outbox.put(event, _message(rows, now=now), now=now)
        GatheredFact.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return len(rows)


def _message(rows: Sequence[GatheredFact], *, now: datetime) -> dict[str, Any]:
    last = rows[-1]
    keys = Counter(row.key for row in rows)
    counts = dict(keys.most_common(MOST_KEYS))
    if len(keys) > MOST_KEYS:
        counts[OTHERS] = len(rows) - sum(counts.values())
    data = {
        **last.about,
        "count": len(rows),
        "counts": counts,
        "items": [row.item for row in rows[:LISTED]],
        "left_off": max(0, len(rows) - LISTED),
        "first_at": min(row.at for row in rows).isoformat(),
        "last_at": max(row.at for row in rows).isoformat(),
        **outbox.links(last.page, last.api),
    }
    return outbox.body(event=last.event, kind=last.kind, id=last.object_id, rev=_rev(now), at=now, data=data)


def _rev(now: datetime) -> int:
    """Rises from message to message, as a revision does: milliseconds since 1970."""
    return int(now.timestamp() * 1000)
