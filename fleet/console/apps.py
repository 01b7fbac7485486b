"""Application configuration of `fleet.console`."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    """Web console."""

    name = "fleet.console"
    label = "console"
    default_auto_field = "django.db.models.BigAutoField"
