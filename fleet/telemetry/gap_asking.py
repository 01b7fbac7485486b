"""Which devices are asked for what they sent and nobody has: chosen, claimed and noted here, asked above.

A gap is claimed before its command is signed and counts as tried once the broker has the command, so a
worker that is killed, or a broker that is away, uses up no try.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import connection

from fleet.telemetry.gap_models import GapState
from fleet.telemetry.gaps import RETRY, TRIES

MOST: Final = 500
"""Devices asked in one turn: a thousand rings at once would meet an ingest that has work already."""


@dataclass(frozen=True)
class Question:
    """A device and the counters [first, last] of its present boot that it should send again.

    last_command: highest counter of a command that asked it before. reported_command: the highest that it
    accepted, as far as it reported.
    """

    device_id: str
    boot: int
    first: int
    last: int
    gaps: tuple[int, ...]
    last_command: int
    reported_command: int


def due(now: datetime, *, limit: int = MOST) -> list[Question]:
    """Devices that are there and have pending gaps nobody asked for within RETRY, longest waiting first.

    One question a device, over all of its gaps: a device writes flash for each command, and records in
    between that arrive once more cost nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT g.device_id, g.boot, min(g.first), max(g.last), array_agg(g.id ORDER BY g.id),"
            " (SELECT max(o.command) FROM tele_gap o WHERE o.device_id = g.device_id), d.command_counter"
            " FROM tele_gap g JOIN devices_device d ON d.id = g.device_id"
            f" WHERE g.state IN ('{GapState.OPEN}', '{GapState.ASKED}') AND g.tries < {TRIES}"
            " AND (g.asked_at IS NULL OR g.asked_at <= %s)"
            " AND d.presence = 'online' AND d.retired_at IS NULL AND d.boot <= g.boot"
            " GROUP BY g.device_id, g.boot, d.command_counter ORDER BY min(g.id) LIMIT %s",
            [now - RETRY, limit],
        )
        rows = cursor.fetchall()
    newest: dict[str, Question] = {}
    for name, boot, first, last, ids, stored, reported in rows:
        if name not in newest or newest[name].boot < boot:
            newest[name] = Question(name, boot, first, last, tuple(ids), stored, reported)
    return list(newest.values())


def claim(questions: Sequence[Question], commands: Mapping[str, int], *, now: datetime) -> list[Question]:
    """Those questions that are this caller's to ask. commands: device id -> the counter of its command.

    One conditional UPDATE decides; nobody else asks for these gaps before RETRY is over.
    """
    gaps = [(number, commands[one.device_id]) for one in questions for number in one.gaps]
    if not gaps:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tele_gap AS g SET asked_at = %(now)s, command = n.command"
            " FROM unnest(%(ids)s::bigint[], %(commands)s::bigint[]) AS n (id, command)"
            " WHERE g.id = n.id AND (g.asked_at IS NULL OR g.asked_at <= %(retry)s)"
            f" AND g.state IN ('{GapState.OPEN}', '{GapState.ASKED}') RETURNING g.id",
            {
                "now": now,
                "retry": now - RETRY,
                "ids": [number for number, _ in gaps],
                "commands": [command for _, command in gaps],
            },
        )
        mine = {number for (number,) in cursor.fetchall()}
    return [one for one in questions if mine & set(one.gaps)]


def asked(questions: Sequence[Question]) -> int:
    """Note that the broker has the commands of these questions: a try each. Returns how many gaps."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tele_gap SET tries = tries + 1, state = '{GapState.ASKED}'"
            f" WHERE id = ANY(%s) AND state IN ('{GapState.OPEN}', '{GapState.ASKED}')",
            [[number for one in questions for number in one.gaps]],
        )
        return int(cursor.rowcount)
