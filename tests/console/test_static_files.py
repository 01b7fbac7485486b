"""Static files: collected under names of their content and sent compressed; else as they lie in the code."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.management import call_command
from django.test import Client, override_settings

CSS = "console/console.css"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that everything is collected in, once for all tests here."""
    folder = tmp_path_factory.mktemp("static")
    with override_settings(STATIC_ROOT=folder):
        call_command("collectstatic", interactive=False, verbosity=0)
    return folder


@pytest.fixture
def collected(root: Path, settings: Any) -> Path:
    """The folder, as the one that is served."""
    settings.STATIC_ROOT = root
    return root


def linked(client: Client) -> list[str]:
    html = client.get("/login").content.decode()
    return re.findall(r'(?:src|href)="(/static/[^"#]+)', html)


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


def test_what_a_page_links_is_kept_for_good_and_sent_compressed(db: None, collected: Path) -> None:
    client = Client()
    links = linked(client)
    assert links
    for link in links:
        name = re.sub(r"\.[0-9a-f]{12}(\.\w+)$", r"\1", link.removeprefix("/static/"))
        assert f"/static/{name}" != link, f"{link} has no digest"
        source = Path(str(finders.find(name))).read_bytes()
        plain = client.get(link)
        assert body(plain) == source
        assert "immutable" in plain["Cache-Control"]
        packed = client.get(link, headers={"Accept-Encoding": "gzip"})
        if len(source) > 1000:
            assert packed["Content-Encoding"] == "gzip"
            assert "Accept-Encoding" in packed["Vary"]
            assert int(packed["Content-Length"]) < 0.5 * len(source)
            assert gzip.decompress(body(packed)) == source


def test_all_that_a_page_of_the_console_loads_is_a_third_of_itself_compressed(collected: Path) -> None:
    template = (Path(__file__).parents[2] / "fleet/console/templates/console/base.html").read_text()
    names = [*re.findall(r"{% static '([^']+)'", template), "console/icons.svg"]
    assert len(set(names)) >= 5
    paths = [collected / staticfiles_storage.url(name).removeprefix("/static/") for name in set(names)]
    plain = sum(path.stat().st_size for path in paths)
    packed = [path.with_name(path.name + ".gz") for path in paths]
    sent = sum((gz if gz.exists() else path).stat().st_size for gz, path in zip(packed, paths, strict=True))
    assert sent < plain / 2.8, f"{sent:,} of {plain:,} bytes"


def test_what_is_another_file_by_now_is_served_as_it_is(collected: Path, db: None) -> None:
    assert re.fullmatch(r"/static/console/console\.[0-9a-f]{12}\.css", staticfiles_storage.url(CSS))
    (collected / CSS).write_text("of an older release")
    try:
        staticfiles_storage._wrapped.__dict__["_names"].clear()  # as in a new process
        assert staticfiles_storage.url(CSS) == f"/static/{CSS}"
        assert body(Client().get(f"/static/{CSS}")) == Path(str(finders.find(CSS))).read_bytes()
    finally:
        (collected / CSS).write_bytes(Path(str(finders.find(CSS))).read_bytes())


def test_what_was_never_collected_is_served_from_the_code(db: None, settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    assert staticfiles_storage.url("console/none.css") == "/static/console/none.css"
    client = Client()
    assert f"/static/{CSS}" in linked(client)
    assert body(client.get(f"/static/{CSS}")) == Path(str(finders.find(CSS))).read_bytes()


def test_collecting_again_compresses_only_what_is_new(root: Path, settings: Any) -> None:
    settings.STATIC_ROOT = root
    gone = next(path for path in root.rglob("*.gz") if path.name.startswith("console."))
    kept = gone.read_bytes()
    gone.unlink()
    written = {path: path.stat().st_ctime_ns for path in root.rglob("*.gz")}
    call_command("collectstatic", interactive=False, verbosity=0)
    assert gone.read_bytes() == kept
    assert {path: path.stat().st_ctime_ns for path in root.rglob("*.gz") if path != gone} == written
    assert not list(root.rglob("*.map.gz")), "source maps are megabytes that nobody asks for"


@pytest.mark.parametrize("harm", ["cut short", "of another file", "no gzip", "empty"])
def test_a_compressed_file_that_is_not_its_source_is_made_anew(
    root: Path, settings: Any, db: None, harm: str
) -> None:
    """As a run that was killed left it, or one with other files."""
    settings.STATIC_ROOT = root
    name = staticfiles_storage.url(CSS).removeprefix("/static/")
    packed = root / f"{name}.gz"
    good = packed.read_bytes()
    bad = {"cut short": good[: len(good) // 2], "of another file": gzip.compress(b"a{}"), "empty": b""}
    packed.write_bytes(bad.get(harm, b"a{}"))
    call_command("collectstatic", interactive=False, verbosity=0)
    assert packed.read_bytes() == good
    answer = Client().get(f"/static/{name}", headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(body(answer)) == (root / name).read_bytes()


def test_a_compressed_file_beside_one_that_is_not_worth_it_goes(root: Path, settings: Any) -> None:
    settings.STATIC_ROOT = root
    names = [staticfiles_storage.stored_name(name) for name in staticfiles_storage.hashed_files]
    name = next(name for name in names if not (root / f"{name}.gz").exists())
    wrong = root / f"{name}.gz"
    wrong.write_bytes(gzip.compress(b"of another file"))
    call_command("collectstatic", interactive=False, verbosity=0)
    assert not wrong.exists()


def test_a_run_that_is_interrupted_leaves_no_half_of_a_file(
    root: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has the name of a compressed file is whole: it gets that name last."""
    settings.STATIC_ROOT = root
    packed = root / (staticfiles_storage.url(CSS).removeprefix("/static/") + ".gz")
    good = packed.read_bytes()
    packed.unlink()
    seen: list[bytes] = []

    def killed(source: str, target: str) -> None:
        assert Path(target) == packed
        seen.append(Path(source).read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            call_command("collectstatic", interactive=False, verbosity=0)
    assert seen == [good]
    assert [path.name for path in packed.parent.iterdir() if packed.stem in path.name] == [packed.stem]
    call_command("collectstatic", interactive=False, verbosity=0)
    assert packed.read_bytes() == good
