"""Tiny models with random weights, made on the spot: real files, a real tokenizer, the real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from forethought.reasoner import vocabulary

TOKENIZER = vocabulary.build()
VOCABULARY = TOKENIZER.get_vocab_size()
EOS = TOKENIZER.token_to_id(vocabulary.EOS)


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "eos_token_id": EOS,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None, "head_dim": 8}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
}


def config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**SIZES | changes)


def generator(folder: Path, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A language model that says anything."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(**changes)).eval()
    save(model, folder)
    return model


def classifier(folder: Path, seed: int = 0, **changes: Any) -> LlamaForTokenClassification:
    """A reward model that likes anything."""
    torch.manual_seed(seed)
    model = LlamaForTokenClassification(config(num_labels=2, **changes)).eval()
    torch.nn.init.normal_(model.score.bias)
    save(model, folder)
    return model


def of_family(family: str, folder: Path) -> Any:
    """A language model of this family, whose biases and norms are not what they begin as."""
    make_config, make_model, changes = FAMILIES[family]
    torch.manual_seed(3)
    model = make_model(make_config(**SIZES | changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    save(model, folder)
    return model


def guesser(folder: Path) -> LlamaForCausalLM:
    """A language model that soon ends its texts, many of them in an answer: `answer: ` and a number.

    The first entry of every embedding is large, so the first column of the head is a bias.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(initializer_range=0.1)).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(std=0.5)[:, 0] = 2.0
        bias = torch.zeros(VOCABULARY)
        bias[EOS], bias[TOKENIZER.token_to_id("answer: ")], bias[TOKENIZER.token_to_id("\n")] = 4.0, 4.5, 3.0
        bias[[TOKENIZER.token_to_id(str(number)) for number in range(10, 100)]] = 1.0
        model.lm_head.weight[:, 0] = bias / 3.3
    save(model, folder)
    return model


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    vocabulary.save(folder)
