"""ASGI entry point: `uvicorn fleet.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
_django = get_asgi_application()

from fleet.api.limits import BodyLimit  # noqa: E402 - settings come first
from fleet.live.hub import end_all as end_streams  # noqa: E402, F401 - the server calls it when it stops
from fleet.live.serving import Streams  # noqa: E402

application = BodyLimit(Streams(_django))
