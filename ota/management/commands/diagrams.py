"""manage.py diagrams [--write]: state diagrams of rollout, wave and job, from the tables that make them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from ota import diagrams


class Command(BaseCommand):
    help = "State diagrams of rollout, wave and device job as Markdown with Mermaid."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true", help=f"into {diagrams.GUIDE.name} of the guides")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["write"]:
            diagrams.GUIDE.write_text(diagrams.guide())
            self.stdout.write(f"{diagrams.GUIDE.name} written")
        else:
            self.stdout.write(diagrams.guide(), ending="")
