"""`manage.py models upload | list | release`: the registry from the command line."""

import argparse
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from fleet.accounts.audit import Actor
from ota import registry
from ota.choices import VerdictKind, VersionState
from ota.errors import OtaError
from ota.models import ModelVersion, Staging

ACTOR = Actor("command", "manage.py models")


class Command(BaseCommand):
    help = "Upload a .tflite, show what the inspection says, release it to devices."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        upload = verbs.add_parser("upload", help="store a version and inspect it")
        upload.add_argument("name", help="model, for example activity")
        upload.add_argument("file", type=Path, help="the .tflite")
        # `--version` alone belongs to manage.py itself, so argparse is told where ours goes.
        upload.add_argument("--version", dest="display_version", required=True, help="for example 1.2.0")
        upload.add_argument("--eval", type=Path, help="evaluation set: .npz with x and y")
        upload.add_argument("--declared-accuracy", type=float, help="share right on that set, 0..1")
        upload.add_argument("--no-inspect", action="store_true", help="leave the inspection to a worker")
        verbs.add_parser("list", help="all versions")
        show = verbs.add_parser("show", help="one version with its verdict per device class")
        release = verbs.add_parser("release", help="sign a version and have its chunks staged")
        for verb in (show, release):
            verb.add_argument("name")
            verb.add_argument("display_version", metavar="version")
        release.add_argument("--slot", type=int, default=0)
        release.add_argument("--floor", type=int, help="least seq devices accept once this is confirmed")
        release.add_argument("--class", dest="classes", action="append", help="only this class; repeatable")
        release.add_argument(
            "--acknowledge", metavar="REASON", help="accept for the named classes what is unproven"
        )
        release.add_argument("--wait", type=float, default=0, metavar="S", help="wait until it is staged")

    def handle(self, *args: Any, **options: Any) -> None:
        verbs = {"upload": self._upload, "list": self._list, "show": self._show, "release": self._release}
        try:
            verbs[options["verb"]](options)
        except OtaError as problem:
            fix = f"\n  {problem.fix}" if problem.fix else ""
            raise CommandError(f"{problem.code}: {problem.text}{fix}") from problem

    def _upload(self, options: dict[str, Any]) -> None:
        evaluation = options["eval"]
        row = registry.upload(
            options["name"],
            options["display_version"],
            _read(options["file"], settings.MODEL_UPLOAD_BYTES),
            evaluation=_read(evaluation, settings.EVALUATION_UPLOAD_BYTES) if evaluation else None,
            declared_accuracy=options["declared_accuracy"],
            actor=ACTOR,
            now=timezone.now(),
        )
        if not options["no_inspect"]:
            registry.inspect_version(row.pk, now=timezone.now())
        row.refresh_from_db()
        self._describe(row)

    def _list(self, options: dict[str, Any]) -> None:
        for row in ModelVersion.objects.select_related("artifact"):
            self.stdout.write(
                f"{row.model_id:<20} {row.version:<12} {row.state:<10} {row.artifact.size:>9,} B  {row.code}"
            )

    def _show(self, options: dict[str, Any]) -> None:
        self._describe(_version(options))

    def _release(self, options: dict[str, Any]) -> None:
        row, now = _version(options), timezone.now()
        if options["acknowledge"]:
            open_rows = row.verdicts.filter(kind=VerdictKind.UNPROVEN, acknowledged_by="")
            if options["classes"]:
                open_rows = open_rows.filter(device_class_id__in=options["classes"])
            for name in list(open_rows.values_list("device_class_id", flat=True)):
                registry.acknowledge(row, name, reason=options["acknowledge"], actor=ACTOR, now=now)
        made = registry.release(
            row,
            slot=options["slot"],
            floor=options["floor"],
            classes=options["classes"],
            actor=ACTOR,
            now=now,
        )
        self.stdout.write(f"signed {row}: seq {made.seq}, {made.chunks} chunks, manifest {made.id}")
        if options["wait"]:
            self._wait(made.id, options["wait"])

    def _wait(self, manifest_id: str, deadline_s: float) -> None:
        until_s = time.monotonic() + deadline_s
        while True:
            row = Staging.objects.get(manifest_id=manifest_id)
            if row.state == "staged":
                self.stdout.write(f"staged: {row.publishes} chunk publishes, read back and compared")
                return
            if time.monotonic() >= until_s:
                raise CommandError(
                    f"not staged after {deadline_s:.0f} s: {row.state}, {row.published} chunks {row.error}"
                )
            time.sleep(0.2)

    def _describe(self, row: ModelVersion) -> None:
        self.stdout.write(f"{row}: {VersionState(row.state).label.lower()}")
        for line in (f"{row.code}: {row.text}" if row.code else row.text, row.fix):
            if line:
                self.stdout.write(f"  {line}")
        for entry in registry.preflight_table(row):
            said = ", ".join(part for part in (entry["code"], entry["text"]) if part)
            if entry["acknowledged_by"]:
                said += f" (acknowledged: {entry['acknowledged_reason']})"
            self.stdout.write(f"  {entry['class']:<14} {entry['kind'] or '-':<9} {said}".rstrip())


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return registry.read_bounded(stream, limit)
    except OSError as problem:
        raise CommandError(f"validation: {path}: {problem.strerror}") from problem


def _version(options: dict[str, Any]) -> ModelVersion:
    rows = ModelVersion.objects.select_related("model", "artifact")
    row = rows.filter(model_id=options["name"], version=options["display_version"]).first()
    if row is None:
        raise CommandError(f"not_found: no version {options['display_version']} of {options['name']}")
    return row
