"""Where the command line keeps things."""

from __future__ import annotations

import os
from pathlib import Path


def default_store() -> Path:
    """The run store of those who name none: `$XDG_STATE_HOME/forethought/runs.sqlite`."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "forethought" / "runs.sqlite"
