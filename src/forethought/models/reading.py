"""Texts and token ids of a local model: its tokenizer and its chat template."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from forethought.core.errors import UsageError
from forethought.core.problem import Message


class Reader:
    """Encodes chats and texts, and decodes token ids, as a model's own tokenizer does."""

    def __init__(self, path: Path) -> None:
        self._tokenizer, self._template, self._specials = (
            _from_gguf(path) if path.suffix == ".gguf" else _from_folder(path)
        )
        self.prompt_ids = functools.lru_cache(maxsize=4096)(self._prompt_ids)
        self.piece = functools.cache(self._piece)

    def _prompt_ids(self, chat: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        from jinja2 import TemplateError

        messages = [{"role": role, "content": content} for role, content in chat]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True, **self._specials)
        except TemplateError as error:  # also what a template raises itself
            raise UsageError(f"the model's chat template refuses this chat: {first_line(error)}") from None
        return self.encode(text)

    @functools.cached_property
    def vocabulary(self) -> str:
        """Which token each id stands for, as a short hash: ids mean the same to all readers of one vocabulary."""
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        return hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest()[:16]

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _piece(self, token: int) -> str:
        return self.decode([token])

    def back(self, ids: Sequence[int], many: int) -> int:
        """Where the last `many` tokens begin that show any text: special ones between them do not."""
        place = len(ids)
        while place and many:
            place -= 1
            many -= bool(self.piece(ids[place]))
        return place


def as_chat(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((m["role"], m["content"]) for m in messages)


def _from_folder(path: Path) -> tuple[Any, Any, dict[str, str]]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        config = json.loads((path / "tokenizer_config.json").read_text())
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for a file that is not there
        raise UsageError(f"{path} is no model folder: cannot read its tokenizer ({error})") from None
    separate = path / "chat_template.jinja"
    template = separate.read_text() if separate.exists() else config.get("chat_template")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    specials = {name: _token(config[name]) for name in names if config.get(name)}
    specials["begin"] = _begin(tokenizer, specials.get("bos_token", ""), bool(config.get("add_bos_token")))
    return tokenizer, _compiled(template), specials


def _token(entry: Any) -> str:
    return str(entry["content"] if isinstance(entry, dict) else entry)


def _from_gguf(path: Path) -> tuple[Any, Any, dict[str, str]]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError:  # the extra `local` is missing
        raise
    except Exception as error:  # noqa: BLE001 - the reader of GGUF files raises what it likes
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{path} is no model file: cannot read its tokenizer ({reason})") from None
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    added = bool(getattr(tokenizer, "add_bos_token", False))
    specials["begin"] = _begin(tokenizer.backend_tokenizer, specials.get("bos_token", ""), added)
    return tokenizer.backend_tokenizer, _compiled(tokenizer.chat_template), specials


def _begin(tokenizer: Any, bos: str, added: bool) -> str:
    """What a plain text begins with: the first token of all texts, where the tokenizer sets one before them."""
    return bos if added or tokenizer.token_to_id(bos) in tokenizer.encode("", add_special_tokens=True).ids else ""


PLAIN = "{{ begin }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"  # for base models, which have no template


def _compiled(template: str | list[dict[str, str]] | None) -> Any:
    """With what templates expect of transformers. Of several named templates, the one called `default`."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda how: datetime.now().strftime(how)
    try:
        return environment.from_string(template or PLAIN)
    except TemplateError as error:
        raise UsageError(f"the model's chat template cannot be read: {first_line(error)}") from None


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def first_line(error: Exception) -> str:
    """What an error says, or its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
