"""Models by name: `reasoner`, `smollm2`, `local:PATH`, `openai:MODEL@URL`; `+fp32` or `+int8` after one that runs here."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from forethought.core.errors import UsageError
from forethought.core.registry import unknown
from forethought.models.price import Price
from forethought.models.protocol import Model

if TYPE_CHECKING:
    from forethought.engine.placement import Precision

KINDS = {
    "reasoner": "the embedded model; solves the tasks chain, chain-checked, countdown and procedure",
    "smollm2": "SmolLM2-135M-Instruct, after `forethought pull smollm2`",
    "local:PATH": "a folder in Hugging Face format or a GGUF file, of the Llama family",
    "MODEL+fp32": "one of those above all in fp32, also where bfloat16 is faster: a seed gives the same text in any company",
    "MODEL+int8": "one of those above with its matrices in eight bits: faster where a stream is alone, a little worse",
    "openai:MODEL@URL": "an OpenAI-compatible endpoint such as http://host:8000/v1; key from OPENAI_API_KEY, or none",
}

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


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
    plain, precision = parted(name)
    kind, _, rest = plain.partition(":")
    if price is not None and kind != "openai":
        raise UsageError(f"{name} runs here and has no price; endpoints (openai:MODEL@URL) do")
    if kv_bytes is not None and kind == "openai":
        raise UsageError(f"{name} does not run here: the memory of its keys and values is its server's")
    if precision is not None and kind == "openai":
        raise UsageError(f"{plain} does not run here: its precision is its server's")
    if parted(plain)[1] is not None:
        raise UsageError(f"{name} names two precisions: a model has one")
    if path := _path(plain):
        from forethought.models.local import Local

        return Local(path, name, kv_bytes, precision)
    if kind == "openai" and rest:
        from forethought.models.openai import OpenAI

        return OpenAI.parse(name, price)
    raise UsageError(unknown("model", name, KINDS))


def parted(name: str) -> tuple[str, Precision | None]:
    """A name without the precision that it ends in, and this."""
    for precision in PRECISIONS:
        if name.endswith(f"+{precision}"):
            return name.removesuffix(f"+{precision}"), precision
    return name, None


def is_reasoner(model: Model) -> bool:
    """Whether it is the embedded model, which solves nothing but its own tasks and follows no instructions."""
    return parted(model.name)[0] == "reasoner"


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
