"""What each gateway last said of itself: since when it holds something that is not acknowledged.

A gateway says so every few seconds over a connection of its own, so that a table its batches wait for does
not keep it from saying it. One that is killed says nothing more, and its silence counts as well: what comes
for it waits at the broker. One that ends as asked takes its row with it.

What the broker has queued beyond what a gateway has taken is not counted here: Mosquitto tells the messages
of all sessions in one number, staged chunks among them, and never their age.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import models


class Ingester(models.Model):
    """One session of a gateway. `unacked_since`: when the oldest message it holds was taken, None without."""

    name = models.CharField(max_length=32, primary_key=True)  # telemetry-0: what it takes, and its slot
    told_at = models.DateTimeField()
    unacked_since = models.DateTimeField(null=True)
    messages = models.IntegerField()  # in hand, un-acknowledged

    class Meta:
        db_table = "tele_ingester"

    def __str__(self) -> str:
        return f"{self.name} {self.told_at:%F %H:%M:%S}"


@dataclass(frozen=True)
class Told:
    """What a session says of itself. unacked_since: None when everything it took is acknowledged."""

    name: str
    unacked_since: datetime | None
    messages: int


@dataclass(frozen=True)
class Lag:
    """How far a session is behind. told_s: seconds since it said anything."""

    name: str
    lag: timedelta
    told: timedelta
    messages: int


def tell(told: list[Told], *, now: datetime) -> None:
    """Store what sessions say; one statement. Raises django.db.Error."""
    Ingester.objects.bulk_create(
        [
            Ingester(name=one.name, told_at=now, unacked_since=one.unacked_since, messages=one.messages)
            for one in told
        ],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["told_at", "unacked_since", "messages"],
    )


def forget(names: list[str]) -> None:
    """These sessions ended as asked: nobody waits for them. Raises django.db.Error."""
    Ingester.objects.filter(name__in=names).delete()


def lags(*, now: datetime) -> list[Lag]:
    """Every session that has not ended as asked, by name.

    Behind since its oldest un-acknowledged message, or since it last said anything, whichever is earlier: a
    healthy one is never further behind than the seconds between two of its words.
    """
    return [
        Lag(
            row.name,
            max(timedelta(0), now - min(row.unacked_since or row.told_at, row.told_at)),
            max(timedelta(0), now - row.told_at),
            row.messages,
        )
        for row in Ingester.objects.order_by("name")
    ]
