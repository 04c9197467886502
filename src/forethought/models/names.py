"""Models by name: `reasoner`, `smollm2`, `local:PATH`, `openai:MODEL@http://host:port/v1`; `+int8` after one that runs here."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from forethought.core.errors import UsageError
from forethought.core.registry import unknown
from forethought.models.price import Price
from forethought.models.protocol import Model

KINDS = {
    "reasoner": "the embedded model; solves the tasks chain, chain-checked, countdown and procedure",
    "smollm2": "SmolLM2-135M-Instruct, after `forethought pull smollm2`",
    "local:PATH": "a folder in Hugging Face format or a GGUF file, of the Llama family",
    "MODEL+int8": "one of those above with its matrices in eight bits: faster where a stream is alone, a little worse",
    "openai:MODEL@URL": "an OpenAI-compatible endpoint such as http://host:8000/v1; key from OPENAI_API_KEY, or none",
}

INT8 = "+int8"


def default_model(price: Price | None = None, kv_bytes: int | None = None) -> Model:
    """The model that FORETHOUGHT_MODEL names, else the embedded one. Raises UsageError as `model_named`."""
    name = os.environ.get("FORETHOUGHT_MODEL")
    try:
        return model_named(name or "reasoner", price, kv_bytes)
    except UsageError as error:
        raise UsageError(f"FORETHOUGHT_MODEL={name}: {error}" if name else str(error)) from None


@functools.cache
def model_named(name: str, price: Price | None = None, kv_bytes: int | None = None) -> Model:
    """The model of this name; an endpoint's tokens may have a price, a local model's keys and values a limit.

    Loads nothing yet. Raises UsageError if the name is unknown or its files are not there.
    """
    plain = name.removesuffix(INT8)
    kind, _, rest = plain.partition(":")
    if price is not None and kind != "openai":
        raise UsageError(f"{name} runs here and has no price; endpoints (openai:MODEL@URL) do")
    if kv_bytes is not None and kind == "openai":
        raise UsageError(f"{name} does not run here: the memory of its keys and values is its server's")
    if plain != name and kind == "openai":
        raise UsageError(f"{plain} does not run here: how its matrices are stored is its server's")
    if path := _path(plain):
        from forethought.models.local import Local

        return Local(path, name, kv_bytes, plain != name)
    if kind == "openai" and rest:
        from forethought.models.openai import OpenAI

        return OpenAI.parse(name, price)
    raise UsageError(unknown("model", name, KINDS))


def is_reasoner(model: Model) -> bool:
    """Whether it is the embedded model, which solves nothing but its own tasks and follows no instructions."""
    return model.name.removesuffix(INT8) == "reasoner"


def bytes_of(text: str) -> int:
    """Read an amount of memory: `512M`, `2G`, or a number of bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    try:
        found = int(float(number) * unit)
    except (ValueError, OverflowError):
        found = 0
    if not 0 < found < 1 << 63:
        raise UsageError(f"cannot read the amount of memory '{text}': write 512M or 2G")
    return found


def _path(plain: str) -> Path | None:
    """Where the files of a model that runs here lie."""
    kind, _, rest = plain.partition(":")
    if plain == "reasoner":
        from forethought.reasoner.loader import folder

        return folder("generator")
    if plain == "smollm2":
        return _smollm2()
    return Path(rest).expanduser() if kind == "local" and rest else None


def _smollm2() -> Path:
    from forethought.models.pull import path as pulled

    path = pulled()
    if path is None:
        raise UsageError("smollm2 is not here yet: run `forethought pull smollm2`")
    return path
