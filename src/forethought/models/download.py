"""A file of the user's package index by HTTP, taken up where an earlier try was cut off: what older pips cannot do."""

from __future__ import annotations

import html
import re
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2

DEFAULT_INDEX = re.compile(r"\(default\s+(https?://[^\s)]+)\)")  # in the help of pip's --index-url
PARTIAL = 206


def fetched(package: str, name: str, file: Path, tell: Callable[[int], object]) -> bool:
    """Get the file `name` of a package, behind what `file` has of it. False where that cannot be done: pip may know how.

    `tell` takes the bytes done so far. The content is the caller's to check.
    """
    told = settings()
    if {"no-index", "proxy"} & told.keys():
        return False
    cert = Path(told.get("cert", ""))
    index = told.get("index-url") or default_index()
    if not index:
        return False
    try:
        tls = ssl.create_default_context(cafile=cert if cert.is_file() else None)
        with httpx2.Client(verify=tls, follow_redirects=True, timeout=30) as client:
            url = address(client, index, package, name)
            return url is not None and whole(client, url, file, tell)
    except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError):
        return False


def settings() -> dict[str, str]:
    """What pip is told. It lists the environment first, then its files; what comes first counts."""
    lines = (line.partition("=") for line in reversed(pip("config", "list").splitlines()))
    return {name.rpartition(".")[2]: value.strip("'\"") for name, _, value in lines}


def default_index() -> str:
    """The index that pip takes if it is told of none; empty if its help does not say."""
    found = DEFAULT_INDEX.search(pip("download", "--help"))
    return found[1] if found else ""


def pip(*words: str) -> str:
    return subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False).stdout


def address(client: httpx2.Client, index: str, package: str, name: str) -> httpx2.URL | None:
    """Where the index says that the file is."""
    reply = client.get(f"{index.rstrip('/')}/{package}/", headers={"Accept": "text/html"}).raise_for_status()
    links = map(html.unescape, re.findall(r"""href=["']([^"']+)["']""", reply.text))
    found = next((link for link in links if link.partition("#")[0].endswith(f"/{name}")), None)
    return None if found is None else reply.url.join(found)


def whole(client: httpx2.Client, url: httpx2.URL, file: Path, tell: Callable[[int], object]) -> bool:
    """Go on until the file is complete. Raises httpx2.HTTPError where a connection brings nothing more."""
    while True:
        before = size(file)
        try:
            rest(client, url, file, tell)
        except httpx2.TransportError:
            if size(file) <= before:
                raise
        else:
            return True


def rest(client: httpx2.Client, url: httpx2.URL, file: Path, tell: Callable[[int], object]) -> None:
    """Append what is missing; from a server that knows no ranges, take all again. Raises httpx2.HTTPError."""
    have = size(file)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as reply:
        reply.raise_for_status()
        if reply.status_code == PARTIAL and not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise httpx2.RemoteProtocolError("the server sent another part than the one that was asked for")
        with file.open("ab" if reply.status_code == PARTIAL else "wb") as target:
            for block in reply.iter_raw():
                target.write(block)
                tell(target.tell())


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
