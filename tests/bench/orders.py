"""Pages of long lists in each order that may be asked for, and the audit trail by kind of actor.

    python -m tests.bench.orders [--devices 100000] [--jobs 1000000] [--audit 1000000] [--rounds 15]

A private PostgreSQL, rows multiplied there by INSERT ... SELECT, and the API's own `page` and filters: timed
is one page of 50 rows in this process, from the query set to the last row (no HTTP). `behind` is the page
after a cursor that lies in the middle of the list. `reads` is what the plan of the first page walks.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.web import servers

GOAL_MS = 100.0


def multiply(model: Any, count: int, **columns: str) -> None:
    """Copies of a model's only row; columns: name -> SQL over `i`, from 1 on."""
    from django.db import connection

    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT * FROM "{table}" LIMIT 0')
        names = [one.name for one in cursor.description]
        chosen = ", ".join(f"({columns[name]})" if name in columns else f'w."{name}"' for name in names)
        cursor.execute(
            f'INSERT INTO "{table}" SELECT {chosen}'
            f' FROM (SELECT * FROM "{table}" LIMIT 1) w, generate_series(1, {count - 1}) i'
        )
        cursor.execute(f'ANALYZE "{table}"')


def fill(devices: int, jobs: int, audits: int) -> Any:
    """A fleet with a rollout of all of it, its audit trail and alerts; the rollout."""
    from django.utils import timezone

    from fleet.accounts.audit import SYSTEM, record
    from fleet.accounts.models import AuditEvent
    from fleet.alerts.models import Alert
    from fleet.devices.classes import ensure_default_classes
    from fleet.devices.models import Device
    from ota.models import Artifact, Job, Manifest, MLModel, ModelVersion, Rollout, Wave

    now = timezone.now()
    ensure_default_classes(now)
    Device.objects.create(id="dev-0", device_class_id="host-a", enrolled_at=now)
    multiply(
        Device, devices, id="'dev-' || i", enrolled_at="w.enrolled_at - i * interval '1 minute'",
        firmware_key="'1.' || (i % 7)", presence="CASE WHEN i % 10 = 0 THEN 'offline' ELSE 'online' END",
        last_seen_at="CASE WHEN i % 50 = 0 THEN NULL ELSE now() - random() * interval '1 day' END",
    )  # fmt: skip
    line = MLModel.objects.create(name="m", created_at=now, created_by="x")
    artifact = Artifact.objects.create(sha256="0" * 64, size=1, data=b"x", created_at=now)
    version = ModelVersion.objects.create(
        model=line, version="1", artifact=artifact, created_at=now, created_by="x"
    )
    given = {
        "message": b"",
        "leaves": b"",
        "blob": b"",
        "chunks": 1,
        "class_ids": [],
        "kids": [],
        "seq": 1,
        "floor": 0,
    }
    manifest = Manifest.objects.create(
        id="0" * 64, mid="0" * 16, version=version, **given, created_at=now, created_by="x"
    )
    rollout = Rollout.objects.create(
        name="r", manifest=manifest, plan={}, salt=b"", created_by="x", created_at=now
    )
    wave = Wave.objects.create(rollout=rollout, n=1, is_gated=False)
    Job.objects.create(
        rollout=rollout, wave=wave, device_id="dev-0", target="", created_at=now, state="confirmed"
    )
    multiply(
        Job, jobs, id="gen_random_uuid()", device_id=f"'dev-' || (i % {devices})", attempt="1 + i",
        state="CASE WHEN i % 1000 = 0 THEN 'failed' ELSE 'confirmed' END",
    )  # fmt: skip
    record(actor=SYSTEM, verb="job.offered", subject_kind="job", subject_id="j", at=now)
    kinds = "CASE WHEN i % 100000 = 0 THEN 'gate' WHEN i % 3 = 0 THEN 'tick' ELSE 'device' END"
    multiply(
        AuditEvent, audits, id=_uuid7_sql(), actor_kind=kinds, actor="'a' || (i % 1000)",
        at="w.at + i * interval '1 ms'",
    )  # fmt: skip
    Alert.objects.create(
        rule_name="r", rule_version=1, kind="silent", severity="info", action="none", scope_key="0",
        first_seen_at=now, last_seen_at=now, evaluated_at=now, state="resolved",
    )  # fmt: skip
    multiply(
        Alert, devices, id="gen_random_uuid()", scope_key="i::text",
        last_seen_at="now() - random() * interval '90 days'",
        severity="CASE WHEN i % 1000 = 0 THEN 'critical' WHEN i % 10 = 0 THEN 'info' ELSE 'warning' END",
    )  # fmt: skip
    return rollout


def _uuid7_sql() -> str:
    """Ids that rise with i, as those of rows written one after the other do."""
    return "(lpad(to_hex(1800000000000 + i), 12, '0') || '70008000000000000000')::uuid"


def lists(rollout: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, rows, order) of each page that is timed."""
    from fleet.accounts.audit_query import AuditQuery
    from fleet.alerts.models import Alert
    from fleet.api.routes import alerts, audit, devices, rollouts
    from fleet.devices.models import Device
    from ota.models import Job

    fleet = Device.objects.prefetch_related("slots")
    jobs = Job.objects.filter(rollout=rollout).select_related("wave")
    for name, rows, sorts in (
        ("devices", fleet, devices.SORTS),
        ("jobs of a rollout", jobs, rollouts.JOB_SORTS),
        ("alerts", Alert.objects.all(), alerts.SORTS),
        ("audit", AuditQuery().rows(), audit.SORTS),
    ):
        for field in sorts.names:
            for sign in ("", "-"):
                yield f"{name}, sort={sign}{field}", rows, sorts.order(f"{sign}{field}")
    for kind in ("tick", "gate", "user"):
        yield f"audit, actor_kind={kind}", AuditQuery(actor_kind=kind).rows(), audit.SORTS.order("")


def middle(rows: Any, order: Any) -> str:
    """A cursor in the middle of the list, as the API would have given it out."""
    from django.core import signing

    from fleet.api import paging

    ranks = {part.path: part.rank.expression() for part in order.parts if part.rank is not None}
    ordered = rows.alias(**ranks).order_by(*(part.by() for part in order.parts))
    row = ordered[ordered.count() // 2]
    bound = paging._bound(50, rows.model.__name__, order.text, {})
    return signing.dumps([bound, [part.value_of(row) for part in order.parts]], salt=paging._SALT)


def timed(ask: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median and largest of some rounds, ms."""
    ask()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        ask()
        found.append((time.perf_counter() - begun) * 1000)
    return statistics.median(found), max(found)


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("devices", 100_000), ("jobs", 1_000_000), ("audit", 1_000_000), ("rounds", 15)):
        asked.add_argument(f"--{name}", type=int, default=default)
    args = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (_, _, env):
        os.environ.update(env)
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        rollout = fill(args.devices, args.jobs, args.audit)
        print(f"{args.devices:,} devices, as many alerts, {args.jobs:,} jobs, {args.audit:,} audit rows")
        print(f"{'page of 50':<34}{'median ms':>10}{'max ms':>9}{'behind ms':>11}{'max ms':>9}  reads")
        for name, rows, order in lists(rollout):
            report(name, rows, order, args.rounds)


def report(name: str, rows: Any, order: Any, rounds: int) -> None:
    """One line of the table."""
    from fleet.api.paging import page

    def ask(cursor: str = "") -> Any:
        return page(rows, order=order, limit=50, cursor=cursor, filters={}, render=lambda row: row.pk)

    first = timed(ask, rounds)
    cursor = middle(rows, order) if rows.exists() else ""
    behind = timed(lambda: ask(cursor), rounds)
    ranks = {part.path: part.rank.expression() for part in order.parts if part.rank is not None}
    plan = rows.alias(**ranks).order_by(*(part.by() for part in order.parts))[:51].explain()
    walked = re.findall(r"(?:using|on) (\w+)|(Seq Scan|Sort)", plan)
    reads = ", ".join(dict.fromkeys(a or b for a, b in walked))
    is_slow = max(first[0], behind[0]) > GOAL_MS
    mark = "  over the goal" if is_slow else ""
    print(f"{name:<34}{first[0]:>10.1f}{first[1]:>9.1f}{behind[0]:>11.1f}{behind[1]:>9.1f}  {reads}{mark}")


if __name__ == "__main__":
    main()
