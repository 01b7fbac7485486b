"""Pages and lists over 100,000 devices and 1,000,000 jobs: time of an answer, its weight, its queries.

    python -m tests.bench.web [--devices 100000] [--jobs 1000000] [--rounds 40] [--explain 30] [--json FILE]
        [--keep FOLDER] [--only TEXT] [--pool]

A private PostgreSQL and Redis, rows by COPY (`tests.bench.web_rows`), and the product's own web server
(uvicorn, plain HTTP on loopback) in a process of its own with one client that asks one page after the other:
what is timed is one request on an open connection, from its first byte sent to its last received. Goal of the
design: p95 below 100 ms for list and live pages and the main REST lists. The first answer of a page has a
column of its own: it loads templates, and where figures take long (`fleet.recent`) it counts them.
`--explain` prints the plan of every statement of a page above so many milliseconds.

`--keep` leaves the filled database in a folder; the next run with that folder migrates it and begins at once.
`--only` asks just the pages whose title has that text. `--pool` has the server keep its connections to the
database (FLEET_DB_POOL), as the stack does: without it each request makes one, some 25 ms.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from fleet.stack import postgres, redis
from fleet.stack.children import ChildSpec
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import free_port
from fleet.stack.processes import Supervisor
from tests.bench.web_pages import WEIGHED, everything

GOAL_MS = 100.0
FIRST_LOAD_BYTES = 150_000
_SETUP = (
    "import json, sys, django; django.setup()\n"
    "from tests.bench import web\n"
    "print(json.dumps(web.prepare({devices}, {jobs}, {seed})))\n"
)
_FORGET = "import django; django.setup()\nfrom django.core.cache import cache\ncache.clear()\nprint(0)\n"
_AGAIN = "import django; django.setup()\nfrom tests.bench import web\nweb.again()\nprint(0)\n"
_QUERIES = (
    "import json, sys, django; django.setup()\n"
    "from tests.bench import web\n"
    "print(json.dumps(web.queries(json.loads(sys.argv[1]), {explain}, {only!r})))\n"
)


@contextmanager
def servers(folder: Path) -> Iterator[tuple[Supervisor, RunDir, dict[str, str]]]:
    """PostgreSQL and Redis of the stack; yields supervisor, run folder and environment."""
    run = RunDir(folder).ensure()
    database_port, cache_port = free_port(), free_port()
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(postgres.spec(run, database_port, is_durable=False), redis.spec(run, cache_port))
        postgres.ensure_database(run, database_port)
        yield (
            supervisor,
            run,
            {
                "DJANGO_SETTINGS_MODULE": "fleet.settings",
                "FLEET_RUN_DIR": str(folder),
                "FLEET_KEY_PASSPHRASE": run.secret("passphrase"),
                "FLEET_SECRET_KEY": run.secret("django"),
                "DATABASE_URL": postgres.url(run, database_port),
                "REDIS_URL": redis.url(run, cache_port),
            },
        )


def prepare(devices: int, jobs: int, seed: int) -> dict[str, str]:
    """In the filling process: migrate, fill, sign a person in. Names of pages, session key and API token."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.utils import timezone

    from fleet.accounts import tokens
    from fleet.accounts.audit import Actor
    from fleet.accounts.models import User
    from fleet.accounts.scopes import scopes_of
    from tests.bench import web_rows

    again()
    now = timezone.now()
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    names = web_rows.fill(devices, jobs, now=now, seed=seed, told=say)
    user = User.objects.create_user("bench", role="admin")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.set_expiry(30 * 86_400)
    session.create()
    actor = Actor("command", "bench")
    _, token = tokens.issue(user, "bench", scopes_of(user), actor=actor, now=now)
    rows = {name: str(n) for name, n in web_rows.count().items()}
    return {**names, "session": str(session.session_key), "token": token, **rows}


def again() -> None:
    """In a process of its own: bring the tables and the static files to what the code is now."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)


def queries(names: dict[str, str], explain_ms: float, only: str = "") -> dict[str, list[float]]:
    """In a process of its own: queries of each page and their time in the database, [n, ms, longest ms].

    explain_ms: print the plan of slower statements; 0 for none. only: as `web_pages.everything`.
    """
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client(SERVER_NAME="127.0.0.1")
    client.cookies["sessionid"] = names["session"]
    found = {}
    for title, path in everything(names, only).items():
        headers = {"HTTP_AUTHORIZATION": f"Bearer {names['token']}"} if title.startswith("GET ") else {}
        client.get(path, **headers)  # type: ignore[arg-type]
        with CaptureQueriesContext(connection) as seen:
            client.get(path, **headers)  # type: ignore[arg-type]
        times = [float(one["time"]) * 1000 for one in seen.captured_queries]
        found[title] = [len(times), sum(times), max(times, default=0.0)]
        for one in seen.captured_queries:
            if explain_ms and float(one["time"]) * 1000 > explain_ms and one["sql"].startswith("SELECT"):
                with connection.cursor() as cursor:
                    cursor.execute("EXPLAIN (ANALYZE, BUFFERS) " + one["sql"].replace("%", "%%"))
                    plan = "\n  ".join(row[0] for row in cursor.fetchall())
                print(f"-- {title}: {one['time']} s\n{one['sql'][:1500]}\n  {plan}", file=sys.stderr)
    return found


def measure(client: httpx.Client, path: str, rounds: int, **headers: str) -> dict[str, Any]:
    """Times of `rounds` answers in ms after a first one, that one's, and bytes of a body on the wire."""
    times = []
    first_ms = 0.0
    for index in range(rounds + 1):
        started = time.perf_counter()
        answer = client.get(path, headers=headers)
        taken = (time.perf_counter() - started) * 1000
        if answer.status_code != 200:
            raise SystemExit(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        if index:
            times.append(taken)
        else:
            first_ms = taken
    times.sort()
    return {
        "first_ms": first_ms,
        "p50_ms": statistics.median(times),
        "p95_ms": times[min(len(times) - 1, int(0.95 * len(times)))],
        "bytes": answer.num_bytes_downloaded,
    }


def first_load(client: httpx.Client, path: str) -> dict[str, int]:
    """Bytes of a page with everything it links, as a browser without a cache gets them: `sent` to one that
    takes gzip, and `plain` to one that does not.
    """
    page = client.get(path)
    linked = sorted({path, *re.findall(r'(?:src|href)="(/static/[^"#]+)', page.text)})
    forms = {"sent": "gzip, deflate", "plain": "identity"}
    return {
        name: sum(
            client.get(one, headers={"Accept-Encoding": form}).num_bytes_downloaded for one in linked
        )
        for name, form in forms.items()
    }  # fmt: skip


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """The folder that is kept, or one that is removed in the end."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="web-") as made:
        yield Path(made)


def _filled(folder: Path, args: argparse.Namespace, env: dict[str, str]) -> dict[str, str]:
    """Names of pages: of the database that the folder has, or of one that is filled now."""
    asked = {"devices": args.devices, "jobs": args.jobs, "seed": args.seed}
    known = folder / "names.json"
    if known.is_file():
        found = json.loads(known.read_text())
        if found["asked"] != asked:
            raise SystemExit(f"{folder} was filled with {found['asked']}, not with {asked}")
        _python(_AGAIN, env)
        return dict(found["names"])
    names = _python(_SETUP.format(**asked), env)
    known.write_text(json.dumps({"asked": asked, "names": names}, indent=1) + "\n")
    return dict(names)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fill, serve, ask."""
    with _folder(args.keep) as folder, servers(folder) as (supervisor, _, env):
        whole = {**os.environ, **env}
        started = time.perf_counter()
        names = _filled(folder, args, whole)
        filled_s = time.perf_counter() - started
        counts = _python(
            _QUERIES.format(explain=args.explain, only=args.only),
            {**whole, "FLEET_NO_DB_POOL": "1"},
            json.dumps(names),
        )
        _python(_FORGET, whole)  # what was counted for the queries
        port = free_port()
        argv = (sys.executable, "-m", "uvicorn", "fleet.asgi:application", "--port", str(port))
        argv += ("--no-access-log",)
        address = f"http://127.0.0.1:{port}"
        ready = functools.partial(_answers, address)
        # more than a token may read in a minute, else pages that are fast enough are refused
        served = env | {"FLEET_RATE_READS": "1000000"} | ({"FLEET_DB_POOL": "1"} if args.pool else {})
        supervisor.start(ChildSpec("web", argv, served, ready=ready, ready_deadline_s=60))
        results: dict[str, Any] = {}
        with httpx.Client(base_url=address, cookies={"sessionid": names["session"]}, timeout=60) as client:
            for title, path in everything(names, args.only).items():
                is_rest = title.startswith("GET ")
                headers = {"Authorization": f"Bearer {names['token']}"} if is_rest else {}
                rounds = measure(client, path, args.rounds, **headers)
                n, all_ms, longest_ms = counts[title]
                results[title] = rounds | {"queries": n, "sql_ms": all_ms, "longest_sql_ms": longest_ms}
            weights = {path: first_load(client, path.format(**names)) for path in WEIGHED}
        return {
            "rows": {name: int(names[name]) for name in ("devices", "jobs", "audit rows")},
            "filled_s": round(filled_s, 1),
            "answers": results,
            "first_load_bytes": weights,
        }


def _answers(address: str, _child: object) -> bool:
    try:
        return httpx.get(f"{address}/healthz", timeout=3).status_code < 500
    except httpx.HTTPError:
        return False


def _python(code: str, env: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], env=env, cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, Any]) -> str:
    """What a person reads."""
    rows = ", ".join(f"{n:,} {name}" for name, n in found["rows"].items())
    lines = [f"{rows}; filled in {found['filled_s']:.0f} s", ""]
    lines.append(f"{'':<32}{'first ms':>9}{'p50 ms':>9}{'p95 ms':>9}{'bytes':>9}{'queries':>9}{'SQL ms':>9}")
    for title, one in found["answers"].items():
        mark = "" if one["p95_ms"] < GOAL_MS else f"  above {GOAL_MS:.0f} ms"
        lines.append(
            f"{title:<32}{one['first_ms']:>9.1f}{one['p50_ms']:>9.1f}{one['p95_ms']:>9.1f}{one['bytes']:>9,}"
            f"{one['queries']:>9}{one['sql_ms']:>9.1f}{mark}"
        )
    lines.append("")
    for path, size in found["first_load_bytes"].items():
        words = "" if size["sent"] < FIRST_LOAD_BYTES else f"  above {FIRST_LOAD_BYTES:,}"
        lines.append(
            f"first load of {path:<20}{size['sent']:>10,} bytes, {size['plain']:>8,} uncompressed{words}"
        )
    return "\n".join(lines)


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.web", description=__doc__)
    options.add_argument("--devices", type=int, default=100_000)
    options.add_argument("--jobs", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=40, help="answers timed of each page")
    options.add_argument("--explain", type=float, default=0, metavar="MS", help="plans of slower statements")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the filled database, or use it")
    options.add_argument("--pool", action="store_true", help="the server keeps its database connections")
    options.add_argument("--only", default="", metavar="TEXT", help="pages whose title has this text")
    options.add_argument("--json", type=Path, help="write the figures here")
    args = options.parse_args()
    found = run(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
