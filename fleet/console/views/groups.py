"""Groups of devices: the list, one group with what is in it, and the forms that make and change one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from fleet.console.access import actor, page
from fleet.console.group_form import GroupForm, MembersForm
from fleet.console.once import sent_once
from fleet.console.paging import page_of
from fleet.console.query_box import EXAMPLES, ask, explained, help_of_fields
from fleet.devices import groups, records
from fleet.devices.errors import GroupError, QueryError
from fleet.devices.models import DeviceGroup, GroupKind
from fleet.devices.selection import group_where


@require_safe
@page("devices:read")
def group_list(request: HttpRequest) -> HttpResponse:
    """Groups by name."""
    found = page_of(request, DeviceGroup.objects.all())
    counts = groups.member_counts([row.pk for row in found.rows])
    return render(request, "console/groups.html", {"page": found, "counts": counts})


@require_http_methods(["GET", "HEAD", "POST"])
@page("devices:write")
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """GET: the form, filled with the query in `q`. POST: make the group and go to its page."""
    if request.method != "POST":
        q = request.GET.get("q", "")[:2_000]
        return _form_page(request, GroupForm(initial={"kind": "dynamic" if q else "static", "q": q}))
    form = GroupForm(request.POST)
    if not form.is_valid():
        return _form_page(request, form, status=422)
    try:
        said = form.cleaned_data
        row = groups.create(**said, actor=actor(request), now=timezone.now())
    except (GroupError, QueryError) as error:
        return _form_page(request, form, error=error)
    messages.success(request, f"Group {row.name} was made.")
    return _to(row)


@require_http_methods(["GET", "HEAD", "POST"])
@page("devices:write")
def edit(request: HttpRequest, name: str) -> HttpResponse:
    """Description and query of a group; a form that was opened before somebody else's change is refused."""
    row = _group(name)
    if request.method != "POST":
        initial = {"name": row.name, "kind": row.kind, "q": row.q, "description": row.description}
        return _form_page(request, GroupForm(initial={**initial, "rev": row.rev}, group=row), row=row)
    form = GroupForm({**request.POST.dict(), "name": row.name, "kind": row.kind}, group=row)
    if not form.is_valid():
        return _form_page(request, form, row=row, status=422)
    row.rev = form.rev
    said = form.cleaned_data
    try:
        q = said["q"] if row.kind == GroupKind.DYNAMIC else None
        groups.change(row, q=q, description=said["description"], actor=actor(request), now=timezone.now())
    except (GroupError, QueryError) as error:
        return _form_page(request, form, row=_group(name), error=error)
    messages.success(request, "Saved.")
    return _to(row)


@require_safe
@page("devices:read")
def group(request: HttpRequest, name: str) -> HttpResponse:
    """One group: its rule, how many devices it has by class, and which."""
    return _group_page(request, _group(name))


@require_http_methods(["POST"])
@page("devices:write")
def members(request: HttpRequest, name: str) -> HttpResponse:
    """Replace the members of a static group by a typed list or a file; one bad line changes nothing."""
    row = _group(name)
    form = MembersForm(request.POST, request.FILES)
    if not form.is_valid():
        return _group_page(request, row, form=form, status=422)
    row.rev = form.cleaned_data["rev"]
    try:
        found = records.read(*_list_of(form))
        lines = {record.device_id: record.line for record in found}
        made = groups.set_members(row, list(lines), lines=lines, actor=actor(request), now=timezone.now())
    except GroupError as error:
        form.add_error("file" if form.cleaned_data["file"] else "devices", f"{error.code}: {error.text}")
        return _group_page(request, _group(name), form=form, status=409 if error.code == "stale" else 422)
    messages.success(request, f"{made['members']} members: {made['added']} came, {made['removed']} left.")
    return _to(row)


@require_http_methods(["GET", "HEAD", "POST"])
@page("devices:write")
def delete(request: HttpRequest, name: str) -> HttpResponse:
    """GET: what would go. POST: remove the group; its devices stay."""
    row = _group(name)
    error = None
    if request.method == "POST":
        try:
            groups.delete(row, actor=actor(request), now=timezone.now())
        except GroupError as refused:
            error = refused
        else:
            messages.success(request, f"Group {name} was deleted. Its devices stay.")
            return _see(reverse("console:groups"))
    return render(
        request, "console/group_delete.html", {"group": row, "error": error}, status=409 if error else 200
    )


def _list_of(form: MembersForm) -> tuple[bytes, str]:
    """The bytes of the list and its format: a file by its name, a typed list is one id a line."""
    file: UploadedFile[Any] | None = form.cleaned_data["file"]
    if file is None:
        return "\n".join(form.cleaned_data["devices"].replace(",", "\n").split()).encode(), "csv"
    is_json = (file.name or "").endswith((".ndjson", ".jsonl"))
    return bytes(file.read(records.MAX_BYTES + 1)), "ndjson" if is_json else "csv"


def _group_page(
    request: HttpRequest, row: DeviceGroup, *, form: MembersForm | None = None, status: int = 200
) -> HttpResponse:
    context: dict[str, Any] = {"group": row, "form": form or MembersForm(initial={"rev": row.rev})}
    try:
        group_where(row, now=timezone.now())
    except GroupError as error:
        broken = ask(row.q, now=timezone.now()).error or explained(row.q, error)
        context["error"] = {**broken, "code": error.code}
        return render(request, "console/group.html", context, status=status)
    found = groups.members(row, now=timezone.now())
    told = groups.summary(found)
    context |= {
        "page": page_of(request, found, is_counted=False),
        "total": told["count"],
        "classes": told["classes"],
    }
    return render(request, "console/group.html", context, status=status)


def _form_page(
    request: HttpRequest,
    form: GroupForm,
    *,
    row: DeviceGroup | None = None,
    error: GroupError | QueryError | None = None,
    status: int = 200,
) -> HttpResponse:
    context: dict[str, Any] = {
        "form": form,
        "group": row,
        "query_fields": help_of_fields(),
        "query_examples": EXAMPLES,
    }
    if error is not None:
        status = 409 if error.code in ("stale", "duplicate") else 422
        if isinstance(error, QueryError) or error.position is not None:
            context["error"] = explained(form.cleaned_data["q"], error)
            form.add_error("q", error.code)
        else:
            field = error.field if error.field in form.fields else None
            form.add_error(field, f"{error.code}: {error.text}")
    return render(request, "console/group_form.html", context, status=status)


def _group(name: str) -> DeviceGroup:
    found = DeviceGroup.objects.filter(pk=name).first()
    if found is None:
        raise Http404(f"no group {name}")
    return found


def _to(row: DeviceGroup) -> HttpResponse:
    return _see(reverse("console:group", args=[row.pk]))


def _see(url: str) -> HttpResponse:
    answer = HttpResponseRedirect(url)
    answer.status_code = 303
    return answer
