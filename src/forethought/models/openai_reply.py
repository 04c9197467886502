"""What a server's stream says: its text, how it ended, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from forethought.core.cost import Cost
from forethought.core.errors import ModelError
from forethought.models.openai_wire import Frame

REASONING = ("reasoning_content", "reasoning")
LENGTH = "length"
ENDS = ("stop", "eos_token", "stop_sequence")


class Reply:
    """One streamed answer as far as it has come.

    `text` is the content alone: what a server sends apart as reasoning is counted, but is no part of the draft,
    because no server takes it back as the beginning of an answer. `stopped` is the stop string that a server says ended
    the text; "" if it says that none did; None if it does not tell.
    """

    def __init__(self, prompt_guess: int, tell: Callable[[Cost], None]) -> None:
        """`tell` gets the running cost after every frame; the guess stands in until the server counts the prompt."""
        self._guess, self._tell = prompt_guess, tell
        self._pieces: list[str] = []
        self._usage: Mapping[str, Any] = {}
        self._chunks = 0
        self.finish: str | None = None
        self.stopped: str | None = None
        self.logprobs: list[float] = []
        self.top: list[dict[str, float]] = []
        self.begun = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def cost(self) -> Cost:
        """By the server's usage; where it sends none, the prompt is guessed and each chunk counts as one token."""
        usage = self._usage
        new = int(usage.get("completion_tokens", self._chunks) or 0)
        details = usage.get("prompt_tokens_details") or {}
        prompt = int(usage.get("prompt_tokens", self._guess) or 0)
        return Cost(1, prompt, int(details.get("cached_tokens") or 0), new, critical_tokens=new)

    def take(self, frame: Frame) -> None:
        self._usage = frame.get("usage") or _running(frame.get("timings")) or self._usage
        for choice in frame.get("choices") or ():
            self._take_choice(choice)
        verbose = frame.get("__verbose")  # llama.cpp
        if verbose and verbose.get("stop"):
            self.stopped = verbose.get("stopping_word", "") if verbose.get("stop_type") == "word" else ""
        if self.begun:
            self._tell(self.cost)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        content = delta.get("content") or choice.get("text") or ""
        thought = next((delta[key] for key in REASONING if delta.get(key)), "")
        if content or thought:
            self._pieces.append(content)
            self._chunks += 1
        if choice.get("logprobs"):
            self._take_logprobs(choice["logprobs"])
        if choice.get("finish_reason"):
            self.finish = choice["finish_reason"]
            self._take_stop(choice)
        self.begun = self.begun or bool(self._chunks or self.finish)

    def _take_stop(self, choice: Mapping[str, Any]) -> None:
        for key in ("stop_reason", "matched_stop"):  # vLLM, SGLang: the string, or the id of the token that ended it
            if key in choice:
                self.stopped = choice[key] if isinstance(choice[key], str) else ""

    def _take_logprobs(self, logprobs: Mapping[str, Any]) -> None:
        for entry in logprobs.get("content") or ():
            self.logprobs.append(entry["logprob"])
            self.top.append({other["token"]: other["logprob"] for other in entry.get("top_logprobs") or ()})
        self.logprobs += logprobs.get("token_logprobs") or ()  # the older shape, of /completions
        if "token_logprobs" in logprobs:
            self.top += logprobs.get("top_logprobs") or ()

    def ending(self, stops: tuple[str, ...], keeps: bool, source: str) -> tuple[str, Literal["stop", "end", "length"]]:
        """The text with the stop string that ended it, and why it ended.

        `keeps` says that the server leaves stop strings in the text. If it trims them and does not tell a stop from the
        end either, the first stop string is put back; an answer without any text is the end.
        """
        text = self.text
        if self.finish is None:
            raise ModelError(f"{source} broke off the answer before its end")
        if self.finish == LENGTH:
            return text, "length"
        if self.finish not in ENDS:
            raise ModelError(f"{source} ended the answer for another reason than its end: {self.finish}")
        if any(stop in text for stop in stops):
            return text, "stop"
        if self.stopped:
            return text + self.stopped, "stop"
        told = self.stopped is not None or self.finish == "eos_token"
        if told or keeps or not stops or not text:
            return text, "end"
        return text + stops[0], "stop"


def _running(timings: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """llama.cpp's running count, in the shape of a usage."""
    if not timings:
        return None
    cached = timings.get("cache_n", 0)
    return {
        "prompt_tokens": timings.get("prompt_n", 0) + cached,
        "completion_tokens": timings.get("predicted_n", 0),
        "prompt_tokens_details": {"cached_tokens": cached},
    }
