"""Texts and token ids of a local model: its tokenizer and its chat template."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
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
        messages = [{"role": role, "content": content} for role, content in chat]
        text = self._template.render(messages=messages, add_generation_prompt=True, **self._specials)
        return self.encode(text)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _piece(self, token: int) -> str:
        return self.decode([token])

    def added(self, before: Sequence[int], new: Sequence[int]) -> str:
        """The text that `new` adds after `before`: decoded together, since pieces depend on what precedes them."""
        head, whole = self.decode(before), self.decode([*before, *new])
        return whole[len(head) :] if whole.startswith(head) else self.decode(new)


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
    return tokenizer, _compiled(template), {name: _token(config[name]) for name in names if config.get(name)}


def _token(entry: Any) -> str:
    return str(entry["content"] if isinstance(entry, dict) else entry)


def _from_gguf(path: Path) -> tuple[Any, Any, dict[str, str]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return tokenizer.backend_tokenizer, _compiled(tokenizer.chat_template), specials


PLAIN = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"  # for base models, which have no template


def _compiled(template: str | None) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template or PLAIN)
