"""Static files as browsers get them: named by their content, and compressed once instead of each time.

`manage.py setup` (collectstatic) copies every file under a name with its digest, which a browser keeps for
good, beside a gzip that WhiteNoise sends to whoever takes one. A first load of a page is a third of the bytes
(`tests.bench.web` prints it), and further ones ask for no file at all.

What was not collected, or has changed since, is served under its plain name from where it lies: tests and a
checkout that is edited need no collecting, and a page never comes with the style sheet of an older release.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from django.contrib.staticfiles import finders
from whitenoise.storage import CompressedManifestStaticFilesStorage  # type: ignore[import-untyped]


class CollectedFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """The storage behind `{% static %}`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._names: dict[str, str] = {}
        super().__init__(*args, **kwargs)

    def stored_name(self, name: str) -> str:
        """The name with the digest, where the file that was collected is the one that the code has."""
        if name not in self._names:
            self._names[name] = super().stored_name(name) if self._is_current(name) else name
        return self._names[name]

    def post_process(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Hash and compress what was copied."""
        yield from super().post_process(*args, **kwargs)
        self._names.clear()

    def compress_files(self, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Compress files with a digest in their name; one that lies there compressed is the same still."""
        named = set(self.hashed_files.values())
        wanted = [path for path in paths if path in named and not self.exists(f"{path}.gz")]
        yield from super().compress_files(wanted)

    def _is_current(self, name: str) -> bool:
        path = urlsplit(unquote(name)).path
        source = finders.find(path)
        if self.hash_key(path) not in self.hashed_files or not isinstance(source, str):
            return False
        try:
            return filecmp.cmp(source, self.path(path), shallow=False)
        except OSError:
            return False
