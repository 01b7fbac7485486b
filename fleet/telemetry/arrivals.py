"""How many messages gateways took, and how many of them were refused, by the minute.

Dead letters alone do not say what share of all messages they are, and of one device only the first hundred an
hour are kept. These are counted in the transaction of the messages, by each gateway's slot in a row of its
own, so that no gateway waits for another. Telemetry and events only, without JSON that nothing
authenticates: reports and presence are not counted.
"""

from datetime import datetime, timedelta
from typing import Final

from django.db import connection, models

KEEP: Final = timedelta(days=2)


class Arrivals(models.Model):
    """Messages of one minute and ingesting slot. refused: those that were, `rate_limited` ones included."""

    pk = models.CompositePrimaryKey("minute", "ingest_slot")
    minute = models.DateTimeField()
    ingest_slot = models.SmallIntegerField()
    messages = models.BigIntegerField()
    refused = models.BigIntegerField()

    class Meta:
        db_table = "tele_arrivals"

    def __str__(self) -> str:
        return f"{self.minute:%F %H:%M} {self.ingest_slot}: {self.refused} of {self.messages}"


def count(messages: int, refused: int, *, slot: int, now: datetime) -> None:
    """Add messages that are taken now, in the caller's transaction. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tele_arrivals AS t (minute, ingest_slot, messages, refused)"
            " VALUES (date_trunc('minute', %s::timestamptz), %s, %s, %s)"
            " ON CONFLICT (minute, ingest_slot) DO UPDATE SET"
            " messages = t.messages + EXCLUDED.messages, refused = t.refused + EXCLUDED.refused",
            [now, slot, messages, refused],
        )


def totals(start: datetime, end: datetime) -> tuple[int, int]:
    """(messages, refused) of the minutes that begin in [start, end), over all gateways."""
    found = Arrivals.objects.filter(minute__gte=start, minute__lt=end).aggregate(
        messages=models.Sum("messages"), refused=models.Sum("refused")
    )
    return int(found["messages"] or 0), int(found["refused"] or 0)


def forget(now: datetime) -> int:
    """Delete what is older than KEEP; returns how many rows."""
    return Arrivals.objects.filter(minute__lt=now - KEEP).delete()[0]
