"""The generator's own drafts with the truth about each step: what the reward model learns from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer

from forethought.core.problem import Problem
from forethought.reasoner.examples import IGNORED, SLIP, TASKS, Example, learned, prompt_ids
from forethought.reasoner.vocabulary import EOS, PAD
from forethought.tasks.generated import GeneratedTask

Asked = tuple[GeneratedTask, Problem]
DRAFTED = (0.2, 0.1, 0.5, 0.2)  # shares of chain, chain-checked, countdown and procedure
PROOFREAD = (0.25, 0.1, 0.25, 0.4)
EXCHANGED = 0.15  # the chance that a token is exchanged; Clark et al. take the same
WRONG, RIGHT, REPLACED, OWN = range(4)  # a draft so far; a token for itself


def sample(
    model: torch.nn.Module, asked: list[Asked], tokenizer: Tokenizer, temperature: float | None
) -> list[list[int]]:
    """One completion a problem, as token ids up to the end of the text; `temperature` None is greedy."""
    pad = tokenizer.get_vocab()[PAD]
    prompts = [prompt_ids(problem, tokenizer) for _, problem in asked]
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    how = {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature, "top_k": 0}
    longest = max(task.draft_tokens for task, _ in asked)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ne(ids, pad).long(), max_new_tokens=longest, **how)  # type: ignore[operator]
    return [[i for i in row if i != pad] for row in out[:, width:].tolist()]


def near_the_middle(rng: random.Random) -> Asked:
    """A problem of the train split that the generator solves now and then: there grades matter."""
    task = rng.choices(TASKS, DRAFTED)[0]
    difficulty = rng.choice([d for d in learned(task) if task.middle / 2 <= d <= 1.5 * task.middle])
    return task, task.problem(difficulty, rng.getrandbits(62), "train")


def label(asked: Asked, completion: list[int], tokenizer: Tokenizer) -> Example | None:
    """Every token with the truth about it: is the draft right so far? None for a draft without a whole step.

    What is read is the grade at a step's last token. In a wrong step all tokens are wrong from the first on in which the
    draft departs from the worked solution: a model that were to foretell the slip at the tokens before it would learn
    which steps are hard, and not to see what is wrong with this one.
    """
    (task, problem), prompt = asked, prompt_ids(asked[1], tokenizer)
    right = task.right_so_far(tokenizer.decode(completion, skip_special_tokens=True), problem)
    breaks = {tokenizer.token_to_id("\n"), tokenizer.token_to_id(EOS)}
    ends = [place for place, token in enumerate(completion) if token in breaks][: len(right)]
    if not ends:
        return None
    labels: list[int] = []
    for end, good in zip(ends, right, strict=False):
        labels += [RIGHT if good else WRONG] * (end + 1 - len(labels))
    solution = tokenizer.encode(task.solution(problem) + EOS, add_special_tokens=False).ids
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(completion, solution, strict=False))))
    labels[:shared] = [RIGHT] * len(labels[:shared])
    rest = [IGNORED] * (len(completion) - len(labels))
    return Example([*prompt, *completion], [IGNORED] * len(prompt) + labels + rest)


def collect(model: torch.nn.Module, tokenizer: Tokenizer, path: Path, count: int) -> list[Example]:
    """`count` labelled drafts of the train split at temperature 1, kept in `path` so that a killed run goes on."""
    model.eval()
    found = kept(path)
    rng, batch = random.Random(f"drafts/{len(found)}"), 256
    torch.manual_seed(len(found))
    with path.open("a") as file:
        for _ in track(range(len(found), count, batch * 4), "drafts of the generator"):
            asked = sorted((near_the_middle(rng) for _ in range(batch * 4)), key=lambda a: len(a[1].text))
            for start in range(0, len(asked), batch):
                part = asked[start : start + batch]
                for one, completion in zip(part, sample(model, part, tokenizer, 1.0), strict=True):
                    example = label(one, completion, tokenizer)
                    if example is not None:
                        found.append(example)
                        file.write(json.dumps([example.ids, example.labels]) + "\n")
            file.flush()
    return found


def kept(path: Path) -> list[Example]:
    """The drafts of a file, if it is there. A last line without its end was cut off by a kill, and is taken out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]))
        del lines[-1]
    return [Example(*json.loads(line)) for line in lines]


def mixed(examples: list[Example], tokenizer: Tokenizer, rng: random.Random) -> Iterator[Example]:
    """Without end: a draft of the generator, an attempt of our own, a text with exchanged tokens, in turn.

    Drafts show how the generator errs; what we write is never seen twice, so it cannot be learned by heart.
    """
    while True:
        for example in rng.sample(examples, len(examples)):
            yield example
            yield attempt(rng, tokenizer)
            yield replaced(rng, tokenizer)


def attempt(rng: random.Random, tokenizer: Tokenizer) -> Example:
    """A labelled text that goes wrong about once, of any difficulty up to half beyond the middle."""
    task = rng.choices(TASKS, DRAFTED)[0]
    difficulty = level(task, rng)
    problem = task.problem(difficulty, rng.getrandbits(62), "train")
    text = task.attempt(problem, rng, slip=1 / (1 + difficulty))
    example = label((task, problem), tokenizer.encode(text + EOS, add_special_tokens=False).ids, tokenizer)
    assert example is not None
    return example


def replaced(rng: random.Random, tokenizer: Tokenizer) -> Example:
    """A solution in which some tokens are others of the same text, each labelled for itself (Clark et al. 2020, ELECTRA)."""
    task = rng.choices(TASKS, PROOFREAD)[0]
    problem = task.problem(level(task, rng), rng.getrandbits(62), "train")
    prompt = prompt_ids(problem, tokenizer)
    solution = tokenizer.encode(task.attempt(problem, rng, SLIP) + EOS, add_special_tokens=False).ids
    came = [rng.choice(solution) if rng.random() < EXCHANGED else token for token in solution]
    labels = [OWN if one == other else REPLACED for one, other in zip(came, solution, strict=True)]
    return Example([*prompt, *came], [IGNORED] * len(prompt) + labels)


def level(task: GeneratedTask, rng: random.Random) -> int:
    """A difficulty up to half beyond the middle, the easier ones more often."""
    levels = [d for d in learned(task) if d <= 1.5 * task.middle]
    return min(rng.choice(levels), rng.choice(levels))
