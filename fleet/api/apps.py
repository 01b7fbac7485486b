"""Application configuration of `fleet.api`."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """REST API."""

    name = "fleet.api"
    label = "api"
    default_auto_field = "django.db.models.BigAutoField"
