"""Many viewers of one web process: what they cost, and how long a hint takes to them.

    python -m tests.bench.streams [--viewers 300] [--hints 40]

The real web server (two listeners, one process) over a private PostgreSQL and Redis; viewers are connections
of this process, each with a stream over the alerts and one device. Printed: memory, threads and connections
to the database before, with the streams, after hints to everybody, and with half of the tabs closed;
milliseconds from a commit to the hint at each viewer; seconds that a stop takes with the rest open.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import secrets
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

from tests.bench.query import database
from tests.stack.services import private_redis, wait_until

if TYPE_CHECKING:
    from tests.live.viewers import Server, Watching

PATH = "/api/v1/stream?topics=alerts,device:dev-1"


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.streams", description=__doc__)
    options.add_argument("--viewers", type=int, default=300)
    options.add_argument("--hints", type=int, default=40, help="measured one after the other")
    args = options.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * args.viewers + 256)), hard))
    with tempfile.TemporaryDirectory(prefix="streams-") as name, private_redis(Path(name) / "redis") as url:
        os.environ |= {"REDIS_URL": url, "FLEET_SECRET_KEY": secrets.token_hex(16)}
        with database(Path(name) / "postgres"):
            measure(Path(name) / "web", args.viewers, args.hints)
    return 0


def measure(folder: Path, viewers: int, hints_n: int) -> None:
    """Print the table."""
    from django.conf import settings

    from tests.live.viewers import serving

    bearer = _bearer()
    with serving(folder, secret_key=settings.SECRET_KEY) as server:
        asyncio.run(_watched(server, bearer, viewers, hints_n))


async def _watched(server: Server, bearer: str, viewers: int, hints_n: int) -> None:
    from tests.live.viewers import Watching  # Django has to be set up first

    warm = await Watching.open(server.port, PATH, authorization=bearer)
    await warm.frame()
    await asyncio.to_thread(_row, "one stream", server)
    before, begun = server.resident_bytes(), time.monotonic()
    everyone = [await Watching.open(server.port, PATH, authorization=bearer) for _ in range(viewers)]
    for one in everyone:
        await one.frame()
    took = time.monotonic() - begun
    await asyncio.to_thread(_row, f"{viewers} more, opened in {took:.1f} s", server)
    print(f"{'':30} {(server.resident_bytes() - before) / 1024 / viewers:.1f} KB a stream")
    seen = [ms for _ in range(hints_n) for ms in await _told(everyone)]
    await asyncio.to_thread(_row, f"after {hints_n} hints to each", server)
    cut = quantiles(seen, n=100)
    spread = f"p50 {cut[49]:.1f}  p95 {cut[94]:.1f}  p99 {cut[98]:.1f}  max {max(seen):.1f}"
    print(f"{'hint, ms from commit':30} {spread}")
    for one in everyone[: viewers // 2]:
        one.close()
    left = 1 + viewers - viewers // 2
    await asyncio.to_thread(wait_until, lambda: server.viewers() == left, what="closed tabs end streams")
    await asyncio.to_thread(_row, "half of the tabs closed", server)
    stopped = await asyncio.to_thread(lambda: server.stop(deadline_s=10))
    print(f"{'stop with the rest open':30} {stopped:.2f} s, exit status {server.process.returncode}")


async def _told(everyone: list[Watching]) -> list[float]:
    """Milliseconds from the commit of one change to each viewer's hint of it."""
    from fleet import hints

    async def one(viewer: Watching) -> float:
        await viewer.hint()
        return (time.monotonic() - begun) * 1e3

    waiting = [asyncio.create_task(one(viewer)) for viewer in everyone]
    await asyncio.sleep(0.55)  # an object is told twice a second at most: that wait is not measured
    begun = time.monotonic()
    await asyncio.to_thread(hints.changed, hints.device("dev-1"))
    return list(await asyncio.gather(*waiting))


def _row(what: str, server: Server) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        connections = cursor.fetchone()[0] - 1
    print(
        f"{what:30} {server.resident_bytes() / 1024**2:6.1f} MB  {server.threads():3} threads  "
        f"{connections:2} connections to PostgreSQL"
    )


def _bearer() -> str:
    from django.utils import timezone

    from fleet.accounts import tokens
    from fleet.accounts.audit import SYSTEM
    from fleet.accounts.models import User
    from fleet.accounts.scopes import READ
    from fleet.devices.classes import ensure_default_classes
    from fleet.devices.models import Device

    now = timezone.now()
    ensure_default_classes(now)
    Device.objects.create(id="dev-1", device_class_id="host-a", enrolled_at=now)
    owner = User.objects.create_user("viewer", password=secrets.token_hex(16), role="viewer")
    return f"Bearer {tokens.issue(owner, 'streams', READ, actor=SYSTEM, now=now)[1]}"


if __name__ == "__main__":
    raise SystemExit(main())
