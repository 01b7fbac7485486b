"""Scheduled work of `fleet.accounts`."""

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from fleet.accounts import audit_chain, audit_checks, audit_retention


@shared_task(name="accounts.seal_audit")  # type: ignore[untyped-decorator]
def seal_audit() -> None:
    """Seal the audit rows that are old enough. A killed worker's seal is made by the next."""
    audit_chain.seal(timezone.now())


@shared_task(name="accounts.check_audit")  # type: ignore[untyped-decorator]
def check_audit() -> None:
    """A slice of the check of the audit chain that is under way or due. A killed worker's is done again."""
    audit_checks.tick(now=timezone.now())


@shared_task(name="accounts.prune_audit")  # type: ignore[untyped-decorator]
def prune_audit() -> None:
    """Let audit rows leave that are past retention. What a killed worker was at stays for the next."""
    audit_retention.prune(timezone.now(), days=settings.AUDIT_DAYS)
