"""What a form says, as a digest: a repeated form is told from another one by it."""

import hashlib
import json
from collections.abc import Collection

from django.http import HttpRequest


def form_digest(request: HttpRequest, *, without: Collection[str] = ()) -> str:
    """SHA-256, hex, over method, path with its query, fields and files (name and content) of a form.

    without: names of fields that say nothing. Every file is read and set back to its beginning.
    """
    found = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    fields = sorted((name, request.POST.getlist(name)) for name in request.POST if name not in without)
    found.update(json.dumps(fields).encode())
    for name in sorted(request.FILES):
        for file in request.FILES.getlist(name):
            content = hashlib.sha256()
            for part in file.chunks():
                content.update(part)
            file.seek(0)
            found.update(json.dumps([name, file.name, content.hexdigest()]).encode())
    return found.hexdigest()
