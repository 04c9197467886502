"""Stop strings stop where they are in the text that is returned, whatever a tokenizer makes of its pieces."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from forethought.core.draft import ROOT, Draft
from forethought.core.scope import Call
from forethought.models.local import Local
from forethought.models.protocol import Completion, Request
from tests import tiny

pytestmark = pytest.mark.anyio

ASK = ({"role": "user", "content": "x"},)
PIECES = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
PIECES += ("\u2581", "x", "a", "b", "Q", ":", "\u2581the", "\u2581Q")
IDS = {piece: i for i, piece in enumerate(PIECES)}
FIRST, SECOND = IDS["<0xC3>"], IDS["<0xA9>"]  # of the bytes of \u00e9
THE, Q = IDS["\u2581the"], IDS["\u2581Q"]
A, B, X, COLON, BOS = (IDS[piece] for piece in ("a", "b", "x", ":", "<s>"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A model with a tokenizer like Llama 2's: a sign for spaces, bytes where there is no piece, and one space less at the
    beginning of a text.
    """
    path = tmp_path_factory.mktemp("metaspace")
    tiny.generator(path, vocab_size=len(PIECES))
    tokenizer = Tokenizer(models.BPE(vocab=IDS, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1, right=0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return Local(path)


async def forced(local: Local, ids: tuple[int, ...], stop: str, draft: Draft = ROOT) -> Completion:
    return await local.extend(Request(ASK, draft, len(ids), forced=ids, stop=(stop,)), Call((), 0))


@pytest.mark.parametrize(("draft", "ids", "stop", "text"), [
    ((), (A, THE, B), " the", "a the"),
    ((), (THE, A, B), " the", "theab"),  # the first space of a text is not in it
    ((), (THE, A, B), "the", "the"),
    ((X,), (Q, COLON, B), " Q:", " Q:"),
    ((X,), (A, Q, COLON, B), "Q:", "a Q:"),
    ((FIRST,), (SECOND, A, B), "\u00e9", "\u00e9"),
    ((X, FIRST), (SECOND, A, B), "\u00e9", "\u00e9"),
    ((), (FIRST, SECOND, A), "\u00e9", "\u00e9"),
    ((), (A, BOS, BOS, BOS, B, X), "ab", "ab"),
    ((X, BOS, BOS, BOS, BOS, BOS), (Q, COLON, B), " Q:", " Q:"),
    ((X, A), (B, X), "ab", "bx"),  # it began before this text
    ((), (A, BOS, B), "<s>", "ab"),
])  # fmt: skip
async def test_a_stop_string_in_the_text_ends_it(
    local: Local, draft: tuple[int, ...], ids: tuple[int, ...], stop: str, text: str
) -> None:
    before = (
        Draft(ROOT, local.reader.decode(draft).rstrip("\ufffd"), draft, vocabulary=local.reader.vocabulary)
        if draft
        else ROOT
    )
    done = await forced(local, ids, stop, before)
    assert done.text == text
    assert (done.finish == "stop") == (stop in text)
