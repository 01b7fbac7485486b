"""Application configuration of `fleet.accounts`."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users, roles, API tokens, audit trail."""

    name = "fleet.accounts"
    label = "accounts"
    default_auto_field = "django.db.models.BigAutoField"
