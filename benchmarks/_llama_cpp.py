"""llama.cpp in this process as a contender of `engine.py`, and a file that it can read of a model that lies in a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _contenders import TEMPERATURE, Ask, Ids, Waited, one_each, read


class LlamaCpp:
    """llama.cpp's server, `slots` requests at a time over one cache of keys and values; the others wait in its queue.

    With several slots it remembers prompts from call to call; alone it reads each, as the others do.
    """

    def __init__(self, file: Path, slots: int, length: int, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_parallel, params.kv_unified, params.n_ctx, params.port = slots, True, slots * (length + 8), 0
        params.warmup, params.verbosity = False, -1
        for pool in (params.cpuparams, params.cpuparams_batch):
            pool.n_threads = threads
        self._server, self.slots = xllamacpp.Server(params), slots
        self._known = set[Ids]()

    def _complete(self, ids: Ids, new: int, seed: int) -> Ids:
        body = {"prompt": list(ids), "n_predict": new, "temperature": TEMPERATURE, "seed": seed, "ignore_eos": True}
        body |= {"cache_prompt": self.slots > 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        body |= {"verbose": True, "return_tokens": True}
        told: Any = self._server.handle_completions(body)
        if "__verbose" not in told:
            raise RuntimeError(f"llama.cpp refused {len(ids)} tokens and {new} new ones: {told}")
        return tuple(told["__verbose"]["tokens"])

    def answer(self, asks: Sequence[Ask]) -> list[float]:
        """Each request is sent when it comes."""
        waited = Waited()

        def one(ask: Ask, seed: int) -> None:
            time.sleep(max(0.0, ask.at - waited.now()))
            assert len(self._complete(ask.ids, ask.new, seed)) == ask.new
            waited.done(ask)

        every = one_each(asks)
        with ThreadPoolExecutor(len(every)) as pool:
            list(pool.map(one, every, range(len(every))))
        return waited.seconds

    def know(self, ids: Ids) -> None:
        """Read a prompt in all slots, once."""
        if ids not in self._known:
            self.answer([Ask(ids, self.slots, 1)])
            self._known.add(ids)

    def extend(self, texts: Sequence[Ids], new: int, seed: int) -> list[Ids]:
        """The texts, each with so many tokens more."""
        with ThreadPoolExecutor(len(texts)) as pool:
            more = pool.map(self._complete, texts, [new] * len(texts), range(seed, seed + len(texts)))
            return [(*text, *tokens) for text, tokens in zip(texts, more, strict=True)]


def halved(path: Path, where: Path) -> Path:
    """The model's weights in half precision as a GGUF file in the folder `where`."""
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

    model = read(path)
    c: Any = model.config
    where.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(where / "generator.f16.gguf", "llama")
    _describe(writer, c)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(name.split(".")[-2])
        known = names.get_name(name, (".weight",))
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        if heads:  # the partners of rotary embedding lie side by side in files of this family
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(known, (tensor.half() if tensor.ndim == 2 else tensor.float()).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return where / "generator.f16.gguf"


def _describe(writer: Any, config: Any) -> None:
    """Its sizes, and pieces that stand for its tokens: all that is asked and answered are ids."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>" for i in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types([1] * config.vocab_size)
    writer.add_eos_token_id(config.eos_token_id)
