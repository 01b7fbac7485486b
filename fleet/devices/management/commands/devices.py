"""`manage.py devices`: enrol in bulk, list, and retire."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from fleet.accounts.audit import Actor
from fleet.devices import enrolment, retirement
from fleet.devices.errors import EnrolmentError, RetirementError
from fleet.devices.models import Device, EnrolmentToken


class Command(BaseCommand):
    help = "Make one-time enrolment tickets, list the devices, or take some out of service for good."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        enrol = verbs.add_parser("enrol", help="one JSON line {device_id, token, class, url} per device")
        enrol.add_argument("--class", dest="device_class", required=True, help="device class of the boards")
        enrol.add_argument("--count", type=int, default=0, help="how many new ids to make up")
        enrol.add_argument("--prefix", default="dev-", help="what the made-up ids start with")
        enrol.add_argument("--ttl", type=int, default=enrolment.TOKEN_TTL_S, help="seconds the tokens live")
        enrol.add_argument("--out", type=Path, help="file for the tickets (0600); default: standard output")
        enrol.add_argument("--url", default=settings.PUBLIC_URL, help="where the devices enrol")
        enrol.add_argument("ids", nargs="*", help="device ids to make tickets for")
        listing = verbs.add_parser("list", help="id, class, presence and what runs")
        listing.add_argument("--class", dest="device_class", default="", help="only this class")
        listing.add_argument("--json", action="store_true", help="one JSON line per device")

        retire = verbs.add_parser("retire", help="out of service for good: keys and broker access go")
        retire.add_argument("ids", nargs="+", help="device ids")
        retire.add_argument("--reason", required=True, help="for people and the audit trail")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "enrol":
            self._enrol(options)
        elif options["verb"] == "retire":
            self._retire(options)
        else:
            self._list(options)

    def _enrol(self, options: dict[str, Any]) -> None:
        ids = [*options["ids"], *free_ids(options["prefix"], options["count"])]
        if not ids:
            raise CommandError("name devices, or say how many with --count")
        name = options["device_class"]
        now = timezone.now()
        try:
            tokens = enrolment.create_tokens(name, ids, actor=_actor(), now=now, ttl_s=options["ttl"])
        except EnrolmentError as error:
            raise CommandError(str(error)) from error
        tickets = [
            {"device_id": device_id, "token": token, "class": name, "url": options["url"]}
            for device_id, token in zip(ids, tokens, strict=True)
        ]
        text = "".join(json.dumps(ticket) + "\n" for ticket in tickets)
        if options["out"] is None:
            self.stdout.write(text, ending="")
            return
        with os.fdopen(os.open(options["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        self.stderr.write(f"{len(ids)} tickets for class {name} in {options['out']}")

    def _retire(self, options: dict[str, Any]) -> None:
        """Each by itself: what is refused does not keep the others, and is told at the end."""
        refused = []
        for device_id in options["ids"]:
            try:
                retirement.retire(device_id, reason=options["reason"], actor=_actor(), now=timezone.now())
                self.stdout.write(f"{device_id} is retired")
            except RetirementError as error:
                refused.append(str(error))
        if refused:
            raise CommandError("; ".join(refused))

    def _list(self, options: dict[str, Any]) -> None:
        devices = Device.objects.prefetch_related("slots")
        if options["device_class"]:
            devices = devices.filter(device_class_id=options["device_class"])
        count = 0
        for device in devices.iterator(chunk_size=500):
            running = {str(slot.slot): slot.run for slot in device.slots.all()}
            count += 1
            if options["json"]:
                self.stdout.write(
                    json.dumps(
                        {
                            "device_id": device.pk,
                            "class": device.device_class_id,
                            "presence": device.presence,
                            "last_seen_at": device.last_seen_at and device.last_seen_at.isoformat(),
                            "running": running,
                        }
                    )
                )
            else:
                runs = " ".join(f"{slot}:{run[:16] or '-'}" for slot, run in sorted(running.items())) or "-"
                self.stdout.write(
                    f"{device.pk:<32} {device.device_class_id:<16} {device.presence:<10} {runs}"
                )
        if not options["json"]:
            print(f"{count} devices", file=sys.stderr)


def _actor() -> Actor:
    return Actor("command", os.environ.get("USER", "manage.py"))


def free_ids(prefix: str, count: int) -> list[str]:
    """`count` ids `<prefix><number>` above every number that a device or a ticket with this prefix has."""
    if count <= 0:
        return []
    taken = re.compile(rf"{re.escape(prefix)}(\d+)")
    names = [
        *Device.objects.filter(pk__startswith=prefix).values_list("pk", flat=True),
        *EnrolmentToken.objects.filter(device_id__startswith=prefix).values_list("device_id", flat=True),
    ]
    numbers = [int(match[1]) for name in names if (match := taken.fullmatch(name))]
    first = max(numbers, default=-1) + 1
    return [f"{prefix}{number:04d}" for number in range(first, first + count)]
