"""What the reward model learns from, and how it begins."""

import random
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForTokenClassification

from forethought.reasoner import loop
from forethought.reasoner.drafts import OWN, REPLACED, RIGHT, WRONG, label, replaced
from forethought.reasoner.examples import IGNORED, Batch, prompt_ids
from forethought.reasoner.train import TOKENIZER, architecture, either, look_back, proofread
from forethought.reasoner.vocabulary import EOS
from forethought.tasks import GENERATED


def labelled(task: str, level: int, text: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a completion of the task's first problem."""
    problem = GENERATED[task].problem(level, 0, "train")
    ids = TOKENIZER.encode(text + EOS, add_special_tokens=False).ids
    example = label((GENERATED[task], problem), ids, TOKENIZER)
    assert example is not None
    asked = len(prompt_ids(problem, TOKENIZER))
    assert example.labels[:asked] == [IGNORED] * asked
    return ids, example.labels[asked:]


@pytest.mark.parametrize("task", GENERATED)
def test_every_token_of_a_solution_is_right(task: str) -> None:
    kind = GENERATED[task]
    ids, labels = labelled(task, 3, kind.solution(kind.problem(3, 0, "train")))
    assert labels == [RIGHT] * len(ids)


def test_a_slip_is_wrong_from_its_token_on() -> None:
    kind = GENERATED["procedure"]
    solution = kind.solution(kind.problem(3, 0, "train"))
    first, second, *rest = solution.splitlines(keepends=True)
    other = "a" if second[-3] != "a" else "b"
    slipped = "".join([first, second[:-3] + other + second[-2:], *rest])
    ids, labels = labelled("procedure", 3, slipped)
    place = next(
        i for i, pair in enumerate(zip(ids, TOKENIZER.encode(solution).ids, strict=False)) if pair[0] != pair[1]
    )
    assert labels == [RIGHT] * place + [WRONG] * (len(ids) - place)


def test_exchanged_tokens_are_labelled_for_themselves() -> None:
    rng, changed, labels = random.Random(0), 0, []
    for _ in range(50):
        example = replaced(rng, TOKENIZER)
        labels += [one for one in example.labels if one != IGNORED]
    changed = labels.count(REPLACED)
    assert changed + labels.count(OWN) == len(labels)
    assert 0.08 < changed / len(labels) < 0.15  # one in seven is drawn anew, now and then as itself


def test_either_reads_two_labels_and_no_others() -> None:
    labels = torch.tensor([IGNORED, WRONG, RIGHT, REPLACED, OWN])
    assert either(labels, WRONG).tolist() == [IGNORED, 0, 1, IGNORED, IGNORED]
    assert either(labels, REPLACED).tolist() == [IGNORED, IGNORED, IGNORED, 0, 1]


def test_tokens_of_a_draft_are_own_where_the_generator_holds_them_most_likely() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(architecture(1))  # type: ignore[no-untyped-call]
    ids = [5]
    for _ in range(5):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    ids[3] += 1
    drafted = Batch(torch.tensor([ids[:4]]), torch.tensor([[IGNORED, RIGHT, RIGHT, WRONG]]))
    assert proofread(model, drafted).tolist() == [[IGNORED, 1, 1, 0]]
    replaced = Batch(drafted.ids, torch.tensor([[IGNORED, REPLACED, OWN, OWN]]))
    assert proofread(model, replaced).tolist() == [[IGNORED, 0, 1, 1]]


def test_the_first_added_layer_looks_back() -> None:
    torch.manual_seed(0)
    config: Any = architecture(1, biased=True)
    config._attn_implementation = "eager"
    model = LlamaForTokenClassification(config)  # type: ignore[no-untyped-call]
    look_back(model.model.layers[0].self_attn)
    seen = model(input_ids=torch.randint(3, 150, (1, 300)), output_attentions=True).attentions[0][0]
    back = seen.diagonal(-1, dim1=1, dim2=2)
    assert [bool((head > 0.95).all()) for head in back] == [True, False, True, False]


def test_what_has_been_learned_moves_slowly() -> None:
    model = LlamaForTokenClassification(architecture(2, biased=True))  # type: ignore[no-untyped-call]
    below, above = model.model.layers
    slow = frozenset(below.parameters())
    stage = loop.Stage(
        "toy", model, lambda rng: iter(()), lambda m, b: torch.zeros(()), lambda m: {}, 100, 1, slow=slow
    )
    paces = {
        p: group["pace"] for opt in loop.optimizers(model, stage) for group in opt.param_groups for p in group["params"]
    }
    assert {paces[p] for p in below.parameters()} == {loop.SLOW}
    assert {paces[p] for p in above.parameters()} == {1.0}
    assert paces.keys() == set(model.parameters())
