"""`manage.py doctor`: check an installation, line by line, and say what to do about what is wrong."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import django
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from fleet.mqtt.client import BackendClient, MqttError
from fleet.sealing import SealError, seal, unseal
from fleet.stack import folders, health
from fleet.stack.health import FAIL, OK, WARN, Finding
from ota import keys
from ota.errors import OtaError

BROKER_TIMEOUT_S = 5.0
TRUST_WARN_DAYS = 60
MARKS = {OK: "ok  ", WARN: "warn", FAIL: "FAIL"}


class Command(BaseCommand):
    """Print one line per check; exit status 1 when one fails."""

    help = "Check versions, programs, folders, database, Redis, broker, clock and keys, and say what to do."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--json", action="store_true", help="print a JSON array of findings")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run every check; none stops the others."""
        findings = list(examine())
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1))
        else:
            for finding in findings:
                self.stdout.write(f"{MARKS[finding.level]}  {finding.name:<14} {finding.text}")
                if finding.fix:
                    self.stdout.write(f"{'':22}-> {finding.fix}")
        if any(finding.level == FAIL for finding in findings):
            raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """All findings, in the order a person would mend them."""
    yield health.check_python()
    yield Finding("django", OK, f"Django {django.get_version()}")
    yield health.check_packages()
    yield from health.check_programs()
    yield health.check_disk(Path(settings.RUN_DIR))
    yield folders.check_exports(Path(settings.EXPORT_DIR), served_folders())
    yield from folders.check_cold(settings.COLD_DIR, served_folders())
    yield from check_debug()
    database = list(health.check_database(database_url()))
    yield from database
    is_database_up = database[0].level == OK
    if is_database_up:
        yield check_migrations()
    yield health.check_redis(settings.REDIS_URL)
    yield check_broker()
    yield health.check_broker_limits(Path(settings.MQTT["users_file"]))
    yield check_passphrase()
    if is_database_up:
        yield from check_keys()


def database_url() -> str:
    """A libpq URL of Django's database: what is tested is what the product uses."""
    given = connection.settings_dict
    user = quote(given["USER"] or "", safe="")
    password = quote(given["PASSWORD"] or "", safe="")
    account = f"{user}:{password}@" if user else ""
    return f"postgresql://{account}{given['HOST'] or 'localhost'}:{given['PORT'] or 5432}/{given['NAME']}"


def served_folders() -> list[Path]:
    """Folders whose files the web server gives to anybody."""
    places = [Path(settings.STATIC_ROOT)]
    for finder in finders.get_finders():
        stores = getattr(finder, "storages", {})
        places += [Path(store.location) for store in stores.values()]
    return places


def check_debug() -> Iterator[Finding]:
    """Nothing is on that is for the bench alone."""
    if settings.DEBUG_JSON:
        text = "FLEET_DEBUG_JSON is set: gateways take telemetry as JSON, without a MAC"
        yield Finding("debug json", WARN, text, "unset it where devices are more than boards on a bench")


def check_migrations() -> Finding:
    """Every migration of this code is in the database."""
    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        return Finding("migrations", FAIL, " ".join(str(error).split()), "run manage.py migrate")
    if plan:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan[:5])
        return Finding("migrations", FAIL, f"{len(plan)} not applied: {names}", "run manage.py migrate")
    return Finding("migrations", OK, "all applied")


def check_broker() -> Finding:
    """A backend user gets in over TLS, and a retained message comes back to it."""
    where = f"{settings.MQTT['host']}:{settings.MQTT['port']}"
    if not settings.MQTT["users_file"]:
        fix = "start the stack (manage.py dev), or set the FLEET_MQTT_* variables"
        return Finding("broker", FAIL, "FLEET_MQTT_USERS_FILE is not set", fix)
    topic, payload = f"f1/svc/doctor/{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        with BackendClient("doctor") as client:
            client.connect(BROKER_TIMEOUT_S)
            client.publish_all([(topic, payload)], deadline_s=BROKER_TIMEOUT_S)
            kept = client.read_retained(topic, expect=1, timeout_s=BROKER_TIMEOUT_S)
            client.publish_all([(topic, b"")], deadline_s=BROKER_TIMEOUT_S)
            name = client.name
    except MqttError as error:
        fix = "start the stack (manage.py dev), or compare FLEET_MQTT_* with the broker's configuration"
        return Finding("broker", FAIL, str(error), fix)
    if kept.get(topic) != payload:
        fix = f"give {name} `topic readwrite f1/#` in the broker's ACL file"
        return Finding("broker", FAIL, f"{where} did not give back a retained message", fix)
    return Finding("broker", OK, f"{name} at {where} over TLS; a retained message came back")


def check_passphrase() -> Finding:
    """The passphrase that seals keys is there and does its work."""
    fix = "set FLEET_KEY_PASSPHRASE or FLEET_KEY_PASSPHRASE_FILE (the private stack makes its own)"
    try:
        sealed = seal(b"doctor", purpose="doctor", passphrase=settings.KEY_PASSPHRASE)
        unseal(sealed, purpose="doctor", passphrase=settings.KEY_PASSPHRASE)
    except SealError as error:
        return Finding("passphrase", FAIL, str(error), fix)
    named = os.environ.get("FLEET_KEY_PASSPHRASE_FILE")
    if named and Path(named).stat().st_mode & 0o077:
        return Finding("passphrase", WARN, f"others may read {named}", f"chmod 600 {named}")
    return Finding("passphrase", OK, "set")


def check_keys() -> Iterator[Finding]:
    """The trust document holds, and the passphrase opens the keys this server is meant to have."""
    try:
        document, _ = keys.current_trust()
    except (OtaError, DatabaseError) as error:
        yield Finding("trust", FAIL, " ".join(str(error).split()), "run manage.py keys init")
        return
    yield trust_finding(document.version, datetime.fromtimestamp(document.expires, UTC), now=timezone.now())
    readers: tuple[tuple[str, Callable[[], object]], ...] = (
        ("online key", keys.online_signer),
        ("release keys", keys.release_signers),
    )
    for name, read in readers:
        try:
            read()
        except OtaError as error:
            # A server in production may hold fewer release keys than a signature needs: they sign elsewhere.
            is_meant = name == "release keys" and error.code == "keys_missing"
            fix = "sign on the machine that holds them" if is_meant else "check FLEET_KEY_PASSPHRASE_FILE"
            yield Finding(name, WARN if is_meant else FAIL, " ".join(str(error).split()), fix)
        else:
            yield Finding(name, OK, "opened with the passphrase")


def trust_finding(version: int, expires_at: datetime, *, now: datetime) -> Finding:
    """The verdict on the trust document: an expired one blocks new manifests, not what devices run."""
    text = f"trust document {version}, valid until {expires_at:%Y-%m-%d}"
    left_days = (expires_at - now).days
    if left_days < TRUST_WARN_DAYS:
        return Finding(
            "trust", FAIL if left_days < 0 else WARN, text, "sign the next trust version with the root keys"
        )
    return Finding("trust", OK, text)
