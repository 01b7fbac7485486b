"""One form, one deed: a form that is sent twice does its work once, with or without JavaScript.

A form that makes something carries a number of its own, drawn when its page was made (`{% once %}`). The
first POST with it writes the number and does the work in one transaction; another waits for that, and is led
to where the first one led. What was refused leaves no number behind: it can be mended and sent again. The
number goes with a digest of what is said: a form gone back to and sent with something else is another one.

A page that answers with what is shown once (a token's text, an invitation's link) is not shown again: who
sends such a form twice and loses the first answer makes another, and ends the one before. Such an answer may
say in `Location` where the second POST is led to; without, it is led to the page that the form stood on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, Final, cast
from uuid import UUID

from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from fleet.accounts.models import User
from fleet.console.access import came_from, see
from fleet.console.models import SentForm
from fleet.form_digest import form_digest

KEPT: Final = timedelta(hours=24)
_DONE: Final = (201, 303)
_SAY_NOTHING: Final = ("once", "csrfmiddlewaretoken")
View = Callable[..., HttpResponse]


def sent_once(view: View) -> View:
    """Decorator of a view, below `page`. A POST that answers 201 or 303 has done its work, unless it leads to
    the password. One without a number, and a script's look at a part of the page, are not held back.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        number = _number(request)
        if number is None:
            return view(request, *args, **kwargs)
        now = timezone.now()
        digest = form_digest(request, without=_SAY_NOTHING)
        sent = {"owner": cast(User, request.user), "number": number, "digest": digest}
        SentForm.objects.filter(at__lt=now - KEPT).delete()
        with transaction.atomic():
            try:
                with transaction.atomic():
                    row = SentForm.objects.create(**sent, at=now)
            except IntegrityError:  # it was done, by whom this waited for
                row = SentForm.objects.get(**sent)
                messages.info(request, "This form was sent twice: it was done once.")
                return see(row.led_to or came_from(request))
            answer = view(request, *args, **kwargs)
            location = answer.get("Location", "")
            if answer.status_code in _DONE and not location.startswith(reverse("console:reauth")):
                row.led_to = location
                row.save(update_fields=["led_to"])
            else:
                row.delete()
        return answer

    return wrapped


def _number(request: HttpRequest) -> UUID | None:
    if request.method != "POST" or request.headers.get("HX-Request"):
        return None
    try:
        return UUID(request.POST.get("once", ""))
    except ValueError:
        return None
