"""From hidden states to what rows want of them: next tokens, likelihoods, a classifier's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from forethought.core.errors import ModelError, UsageError
from forethought.engine.llama import Llama, approval, project
from forethought.engine.placement import sent, told
from forethought.engine.rows import Row, Steer
from forethought.engine.sampling import LARGE, Columns, choose
from forethought.engine.steering import Steering

BROKEN = "the model gave logits that are not numbers"
BARRED = "bans, a hook or penalties left no token that could come"


class Drawing:
    """Draws tokens for rows. `stops` tells whether a row has just completed a stop string."""

    def __init__(self, model: Llama, stops: Callable[[Row], bool]) -> None:
        self.model, self.stops = model, stops
        self._rows: list[Row] = []
        self._columns, self._steering = self._prepared(torch.device("cpu"))

    def _prepared(self, device: torch.device) -> tuple[Columns, Steering]:
        """What the rows ask for, as tensors: the same rows decode for many steps."""
        columns = Columns([row.how for row in self._rows], device)
        return columns, Steering(self._rows, self.model.vocabulary, self.model.eos, device)

    def extend(self, rows: Sequence[Row], hidden: Tensor) -> None:
        """One token for each row, after its `hidden` state."""
        if list(rows) != self._rows:
            self._rows = list(rows)
            self._columns, self._steering = self._prepared(hidden.device)
        logits = project(self.model, hidden)
        steered = self._steer(logits)
        uniforms = sent([row.stream() for row in rows], torch.double, hidden.device)
        chosen = choose(steered, self._columns, uniforms)
        barred = _barred(logits, steered, chosen)
        self._force(rows, chosen)
        self._steering.took(chosen)
        logprobs = logits.log_softmax(-1)
        self._alternatives(rows, logprobs)
        likely = logprobs.gather(1, chosen[:, None]).squeeze(1)
        for row, token, logprob, lost in zip(rows, *told(chosen, likely, barred), strict=True):
            if lost and len(row.tokens) >= len(row.how.forced):
                row.error = row.error or ModelError(BARRED)
            if logprob != logprob:
                row.error = row.error or ModelError(BROKEN)
            if not row.ended:
                self._append(row, int(token), logprob)

    def _steer(self, logits: Tensor) -> Tensor:
        """Penalties, hooks and bans. Likelihoods are told of the logits as they were, so these are copied first."""
        asking = [i for i, row in enumerate(self._rows) if row.hook is not None]
        if not asking and not self._steering.asked:
            return logits
        steered = logits.clone()
        self._steering.penalise(steered)
        for i in asking:
            self._ask(self._rows[i], logits[i], steered[i])
        self._steering.bar(steered)
        return steered

    def _ask(self, row: Row, logits: Tensor, steered: Tensor) -> None:
        """Do what a hook wants. One that fails fails its own row."""
        assert row.hook is not None
        try:
            wanted = row.hook(row, logits) or Steer()
            for token, bias in wanted.bias.items():
                if not (0 <= token < len(steered) and bias <= LARGE):  # NaN is not, either
                    raise UsageError(f"a hook cannot add {bias} to the logit of token {token} of {len(steered)}")
                steered[token] += bias
        except Exception as error:  # noqa: BLE001 - raised again by the one who waits for this row
            row.error = error
            return
        if wanted.stop:
            row.finish = "hook"

    def _force(self, rows: Sequence[Row], chosen: Tensor) -> None:
        forced = {i: r.how.forced[len(r.tokens)] for i, r in enumerate(rows) if len(r.tokens) < len(r.how.forced)}
        if forced:
            chosen[list(forced)] = chosen.new_tensor(list(forced.values()))

    def _alternatives(self, rows: Sequence[Row], logprobs: Tensor) -> None:
        """The likeliest tokens for those rows that want them told."""
        asking = [i for i, row in enumerate(rows) if row.how.top and row.error is None]
        if not asking:
            return
        most = min(max(rows[i].how.top or 0 for i in asking), logprobs.shape[1])
        values, ids = logprobs[asking].topk(most)
        for i, likeliest, said in zip(asking, ids.tolist(), values.tolist(), strict=True):
            top = rows[i].how.top
            rows[i].top.append(dict(zip(likeliest[:top], said[:top], strict=True)))

    def _append(self, row: Row, token: int, logprob: float) -> None:
        row.tokens.append(token)
        row.logprobs.append(logprob)
        try:
            if token in self.model.eos:
                row.finish = "end"
            elif row.how.stop and self.stops(row):
                row.finish = "stop"
            elif len(row.tokens) >= row.how.max_tokens:
                row.finish = "length"
        except Exception as error:  # noqa: BLE001 - raised again by the one who waits for this row
            row.error = error

    def given(self, row: Row, hidden: Tensor, start: int) -> None:
        """What a classifier says of the tokens of `ids` from `start` on, or their likelihood where that is asked for."""
        if self.model.classifies:
            outputs = approval(self.model, hidden)
            row.outputs += outputs.tolist()
            healthy = bool(outputs.isfinite().all())
        elif row.graded_from is not None:
            healthy = self._grade(row, hidden, start, row.graded_from)
        else:
            return
        if not healthy:
            row.error = ModelError(BROKEN)

    def _grade(self, row: Row, hidden: Tensor, start: int, graded_from: int) -> bool:
        skip = max(0, graded_from - 1 - start)
        asked = torch.tensor(
            row.ids[start + skip + 1 : start + len(hidden) + 1], dtype=torch.long, device=hidden.device
        )
        logprobs = project(self.model, hidden[skip : skip + len(asked)]).log_softmax(-1)
        row.logprobs += logprobs.gather(1, asked[:, None]).squeeze(1).tolist()
        most = min(row.how.top or 0, logprobs.shape[1])
        for values, ids in zip(*logprobs.topk(most), strict=True) if most and len(asked) else ():
            row.top.append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
        return not logprobs.isnan().any()


def _barred(logits: Tensor, steered: Tensor, chosen: Tensor) -> Tensor:
    """Where steering left nothing to choose from, so that what was chosen says nothing."""
    if steered is logits:
        return torch.zeros_like(chosen, dtype=torch.bool)
    given, left = (part.gather(1, chosen[:, None]).squeeze(1).isfinite() for part in (logits, steered))
    return given & ~left
