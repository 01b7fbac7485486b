"""Static files as browsers get them: named by their content, and compressed once instead of each time.

`manage.py setup` (collectstatic) copies every file under a name with its digest, which a browser keeps for
good, beside a gzip that WhiteNoise sends to whoever takes one. A first load of a page is a third of the bytes
(`tests.bench.web` prints it), and further ones ask for no file at all.

What was not collected, or has changed since, is served under its plain name from where it lies: tests and a
checkout that is edited need no collecting, and a page never comes with the style sheet of an older release.
"""

from __future__ import annotations

import filecmp
import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.contrib.staticfiles import finders
from whitenoise.compress import Compressor  # type: ignore[import-untyped]
from whitenoise.storage import CompressedManifestStaticFilesStorage  # type: ignore[import-untyped]


class _WholeFiles(Compressor):  # type: ignore[misc]
    def write_data(self, path: str, data: bytes, suffix: str, stat_result: os.stat_result) -> str:
        """As WhiteNoise does it, under another name first: no half of a file is ever served."""
        goal, part = path + suffix, f"{suffix}.{os.getpid()}.part"
        try:
            os.replace(super().write_data(path, data, part, stat_result), goal)
        except BaseException:
            Path(path + part).unlink(missing_ok=True)
            raise
        return goal


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

    def create_compressor(self, **kwargs: Any) -> Compressor:
        """For gzip alone, which is what `compress_files` looks at."""
        return _WholeFiles(use_brotli=False, **kwargs)

    def compress_files(self, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Compress files with a digest in their name. One that lies there compressed stays if it is the same
        still; else it is made anew, or goes where compressing is not worth it.
        """
        named = set(self.hashed_files.values())
        wanted = [path for path in paths if path in named and not self._is_packed(path)]
        made = set()
        for path, packed in super().compress_files(wanted):
            made.add(path)
            yield path, packed
        for path in set(wanted) - made:
            self.delete(f"{path}.gz")

    def _is_packed(self, path: str) -> bool:
        whole = Path(self.path(path))
        try:
            return gzip.decompress(Path(f"{whole}.gz").read_bytes()) == whole.read_bytes()
        except (OSError, EOFError, zlib.error):
            return False

    def _is_current(self, name: str) -> bool:
        path = urlsplit(unquote(name)).path
        source = finders.find(path)
        if self.hash_key(path) not in self.hashed_files or not isinstance(source, str):
            return False
        try:
            return filecmp.cmp(source, self.path(path), shallow=False)
        except OSError:
            return False
