"""`manage.py gateway`: takes what devices send from the broker into the database."""

import gc
import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from prometheus_client import start_http_server

from fleet.gateway import drain, pace, service
from fleet.gateway.errors import GatewayError
from fleet.gateway.source import READERS
from fleet.mqtt.client import MqttError


class Command(BaseCommand):
    help = "Take reports, telemetry, events and presence from the broker. SIGTERM ends it in good order."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--slot",
            type=int,
            default=0,
            choices=range(service.SLOTS),
            help="number of this gateway among several; slot 0 also takes reports and presence",
        )
        parser.add_argument(
            "--role",
            default=service.Role.ALL.value,
            choices=[role.value for role in service.Role],
            help="what this process takes: reports and presence (control), telemetry and events, or all",
        )
        parser.add_argument(
            "--drain",
            type=int,
            choices=range(service.SLOTS),
            metavar="N",
            help="empty the telemetry session of slot N, whose gateway will not come back, end it, and exit",
        )
        parser.add_argument(
            "--shared",
            action="store_true",
            help="share telemetry with the gateways of other slots (always so for slot 1 and above)",
        )
        parser.add_argument(
            "--reader",
            default=READERS[0],
            choices=READERS,
            help="how telemetry is read; paho for a broker without MQTT 5",
        )
        parser.add_argument(
            "--device-rate", type=float, default=pace.PER_S, help="telemetry messages a second of one device"
        )
        parser.add_argument(
            "--device-burst", type=int, default=pace.BURST, help="and at once, after a silence"
        )
        parser.add_argument("--metrics-port", type=int, help="serve Prometheus metrics on this loopback port")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["device_rate"] <= 0 or options["device_burst"] < 1:
            raise CommandError("--device-rate is above 0 and --device-burst at least 1")
        role = service.Role(options["role"])
        if role is service.Role.CONTROL and options["slot"]:
            raise CommandError("reports and presence belong to slot 0")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        gc.set_threshold(service.COLLECT_EVERY)
        if options["metrics_port"]:
            start_http_server(options["metrics_port"], addr="127.0.0.1")
        try:
            if options["drain"] is not None:
                is_empty = drain.run(slot=options["drain"], stop=stop)
                self.stdout.write("the session is empty and ended" if is_empty else "stopped before the end")
                return
            is_well = service.run(
                slot=options["slot"],
                stop=stop,
                role=role,
                reader=options["reader"],
                shared=options["shared"],
                per_s=options["device_rate"],
                burst=options["device_burst"],
            )
        except (GatewayError, MqttError) as error:
            raise CommandError(str(error)) from error
        if not is_well:
            raise CommandError("a pump failed, see the log")
