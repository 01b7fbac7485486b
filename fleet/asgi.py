"""ASGI entry point: `uvicorn fleet.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
_django = get_asgi_application()

from fleet.api.limits import BodyLimit  # noqa: E402 - settings come first

application = BodyLimit(_django)
