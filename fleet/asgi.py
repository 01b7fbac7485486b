"""ASGI entry point: `uvicorn fleet.asgi:application`."""

import gc
import os
from importlib import import_module

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
_django = get_asgi_application()

from fleet.api.limits import BodyLimit  # noqa: E402 - settings come first
from fleet.live.hub import end_all as end_streams  # noqa: E402, F401 - the server calls it when it stops
from fleet.live.serving import Streams  # noqa: E402

application = BodyLimit(Streams(_django))

# What is loaded by now stays. The collector would look through all of it again once in some hundred requests,
# and one of them would wait 0.1 s for that.
import_module("fleet.urls")
gc.collect()
gc.freeze()
