"""Application configuration of `fleet.gateway`."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """MQTT in, topic to handler."""

    name = "fleet.gateway"
    label = "gateway"
    default_auto_field = "django.db.models.BigAutoField"
