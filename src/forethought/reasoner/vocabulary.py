"""The reasoner's tokenizer: one token a character, one a number below 100, one a word of the tasks' forms."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SOLUTION = "solution:\n"  # ends every prompt
WORDS = [
    *("chain ", "countdown ", "procedure ", "answer: ", " = ", " | "),
    *("swap", "next", "reverse", "rotate", "drop", "copy", "sort"),
    *(f"{number}) " for number in range(1, 23)),
    *(str(number) for number in range(10, 100)),
    *("chain-checked ", "check ", SOLUTION),
]
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-*/=:|()\n ,."
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    f"{{% if message['role'] == 'user' %}}{{{{ {SOLUTION!r} }}}}{{% endif %}}{{% endfor %}}"
)


def build() -> Tokenizer:
    """A tokenizer whose ids are fixed by the lists above: specials, characters, words."""
    specials = [PAD, BOS, EOS, UNKNOWN]
    vocabulary = {token: i for i, token in enumerate([*specials, *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return tokenizer


def save(folder: Path) -> None:
    build().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNKNOWN,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
