"""The product's own processes: web, worker, beat and gateway, as children of the stack."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from fleet.stack.children import Child, ChildSpec
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.tls import TlsFiles

WORKER_CONCURRENCY = 2
READY_DEADLINE_S = 60.0
SIMULATED = "simulate/console"
"""Below the run folder: the virtual devices that the console starts."""
MANAGE = (sys.executable, str(PROJECT_ROOT / "manage.py"))
_CELERY = (sys.executable, "-m", "celery", "-A", "fleet.celery")
_SERVE = (sys.executable, "-m", "fleet.stack.serve")


def specs(
    run: RunDir, env: Mapping[str, str], tls: TlsFiles, *, environ: Mapping[str, str] = os.environ
) -> tuple[ChildSpec, ...]:
    """Describe the four services. env: the values of `stack.env`, which name the ports of the web server.

    environ: `FLEET_DB_POOL=0` in it has the web server make a connection to the database for each request.
    """
    pooled = {**env, "FLEET_DB_POOL": environ.get("FLEET_DB_POOL") or "1"}
    return (
        service("web", _web(env, tls), pooled, ready=lambda _child: answers(env["FLEET_WEB_URL"], ca=tls.ca)),
        service("worker", _worker(), env, ready=partial(has_logged, words=" ready.")),
        service("beat", _beat(run), env, ready=partial(has_logged, words="beat: Starting")),
        service("gateway", (*MANAGE, "gateway"), env, ready=partial(has_logged, words="gateway is ready")),
    )


def attendant(run: RunDir, env: Mapping[str, str]) -> ChildSpec:
    """Who runs virtual devices that are asked for in the console; nothing but a waiting process until then.
    Started after the services, which it needs and which do not need it.
    """
    argv = (
        *(sys.executable, "-m", "device_firmware.host.attendant"),
        *("--dir", str(run.root / SIMULATED), "--data", str(run.root / "data" / "watch")),
        *("--ca", env["FLEET_WEB_CA"]),
    )
    return ChildSpec("simulated", argv, child_env(env), is_restarted=True, stop_grace_s=15.0)


def service(
    name: str, argv: tuple[str, ...], env: Mapping[str, str], *, ready: Callable[[Child], bool] | None
) -> ChildSpec:
    """A child that is started again when it ends unasked."""
    return ChildSpec(
        name, argv, child_env(env), is_restarted=True, ready=ready, ready_deadline_s=READY_DEADLINE_S
    )


def child_env(env: Mapping[str, str]) -> dict[str, str]:
    """Environment of the stack's Python processes, on top of the one they inherit. A pool of connections is
    for the threads of the web server alone.
    """
    fixed = {"PYTHONUNBUFFERED": "1", "DJANGO_SETTINGS_MODULE": "fleet.settings", "FLEET_DB_POOL": "0"}
    return {**fixed, **env}


def _web(env: Mapping[str, str], tls: TlsFiles) -> tuple[str, ...]:
    https_port = env["FLEET_WEB_URL"].rpartition(":")[2]
    http_port = env["FLEET_CONSOLE_URL"].rpartition(":")[2]
    certificate = ("--certificate", str(tls.certificate), "--key", str(tls.key))
    return (*_SERVE, "--https-port", https_port, "--http-port", http_port, *certificate)


def _worker() -> tuple[str, ...]:
    """A Celery worker.

    No queue list: it serves every queue that fleet.celery declares, and none that it does not.
    """
    options = ("--concurrency", str(WORKER_CONCURRENCY), "--hostname", "tinyfleet@%h", "--loglevel", "INFO")
    return (*_CELERY, "worker", *options, "--without-gossip", "--without-mingle")


def _beat(run: RunDir) -> tuple[str, ...]:
    schedule = run.root / "beat-schedule"
    return (*_CELERY, "beat", "--schedule", str(schedule), "--pidfile", "", "--loglevel", "INFO")


def has_logged(child: Child, *, words: str) -> bool:
    """True when the child has written `words` since it was started."""
    return words in child.log_since_start()


def answers(url: str, *, ca: Path) -> bool:
    """True when the HTTPS server at `url`, whom our authority vouches for, answers /healthz below 500."""
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=3, context=context):  # noqa: S310 - our own URL
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
