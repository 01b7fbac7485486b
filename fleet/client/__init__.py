"""A client of the REST API: plain calls, and typed ones for what people do most. No Django in it."""

from fleet.client.api import TinyFleet
from fleet.client.errors import ApiError, NotReached, Unreachable
from fleet.client.http import Client
from fleet.client.waiting import wait_for

__all__ = ["ApiError", "Client", "NotReached", "TinyFleet", "Unreachable", "wait_for"]
