"""Application configuration of `fleet.devices`."""

from django.apps import AppConfig


class DevicesConfig(AppConfig):
    """Devices, classes, credentials, enrolment, presence."""

    name = "fleet.devices"
    label = "devices"
    default_auto_field = "django.db.models.BigAutoField"
