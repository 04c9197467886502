"""Where the embedded models are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def folder(which: Literal["generator", "reward"]) -> Path:
    """The folder of an embedded model, in Hugging Face format."""
    return Path(__file__).parent / "weights" / which
