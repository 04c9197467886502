"""Where the command line keeps things."""

from __future__ import annotations

import os
from pathlib import Path

from forethought.core.errors import UsageError


def default_store() -> Path:
    """The run store of those who name none: `$XDG_STATE_HOME/forethought/runs.sqlite`."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "forethought" / "runs.sqlite"


def write(file: Path, text: str) -> None:
    """Write what a command has made. Raises UsageError where that cannot be."""
    try:
        file.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error}") from None
