"""What cannot work is refused before anything is spent, by one line that names a way on."""

from __future__ import annotations

from collections.abc import Iterator

from forethought.core.budget import ENTRIES, Account, amount
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.registry import brief
from forethought.methods.sample import Sample
from forethought.models.names import is_reasoner
from forethought.models.price import Price
from forethought.models.protocol import Request, price_of
from forethought.parts import Parts
from forethought.selection import wants_grades
from forethought.tasks import GENERATED
from forethought.verifiers import Comparer, Verifier
from forethought.verifiers.around import Around
from forethought.verifiers.process import Process

NO_ABILITIES = frozenset(
    {"grades", "process", "instructions", "self-evaluation", "comparisons", "texts"}
)  # needs that no model declares
# entries that are limited even where no model counts them: others do, or there is nothing to count
NOT_COUNTED = frozenset({"cached_tokens", "verifier_calls", "verifier_tokens", "seconds", "usd"})
WAYS_ON = "pull a general model with `forethought pull smollm2` and pass --model smollm2, or name an endpoint with --model openai:MODEL@http://host:port/v1"


def check(problem: Problem, parts: Parts) -> None:
    """Raise UsageError with the first complaint there is."""
    for refused in REFUSALS:
        for complaint in refused(problem, parts):
            raise UsageError(complaint)
    if isinstance(parts.method, Sample):
        parts.method.check(problem, parts.by, Account(None, parts.budget.limits))


def another_task(problem: Problem, parts: Parts) -> Iterator[str]:
    if is_reasoner(parts.by.model) and parts.by.task.name not in GENERATED:
        yield f"the embedded reasoner solves only the tasks {', '.join(GENERATED)}: {WAYS_ON}"


def lacking_model(problem: Problem, parts: Parts) -> Iterator[str]:
    model = parts.by.model
    for part in (parts.method, parts.selection):
        for missing in sorted(part.needs - NO_ABILITIES - model.abilities):
            able = "the local models (reasoner, smollm2, local:PATH) have it"
            yield f"{part.name} needs a model with the ability '{missing}', which {model.name} lacks; {able}"
        if "instructions" in part.needs and is_reasoner(model):
            yield f"{brief(part)} needs a model that reads instructions; the embedded reasoner reads problems only"


def ungraded_steps(problem: Problem, parts: Parts) -> Iterator[str]:
    method, verifier = parts.method, parts.by.verifier
    judged = verifier is not None and verifier.process
    if "process" in method.needs and not judged:
        have = "none was given" if verifier is None else f"{verifier.name} grades whole drafts only"
        yield f"{method.name} needs a verifier that grades steps, such as process; {have}"
    if "self-evaluation" in method.needs and is_reasoner(parts.by.model) and not judged:
        yield (
            f"{method.name} asks its model about its own steps, and the embedded reasoner reads problems only; "
            "a verifier that grades steps can judge in its place: add --verifier process"
        )


def no_prices(problem: Problem, parts: Parts) -> Iterator[str]:
    if "usd" in parts.budget.limits and price_of(parts.by.model) == Price():
        yield f"a budget in usd needs the prices of {parts.by.model.name}: add --price prompt=0.15,new=0.6"


def lacking_verifier(problem: Problem, parts: Parts) -> Iterator[str]:
    method, selection, verifier = parts.method, parts.selection, parts.by.verifier
    if "grades" in method.needs and verifier is None:
        yield f"{method.name} needs a verifier: add --verifier"
    if "comparisons" in selection.needs and not isinstance(verifier, Comparer):
        have = "none was given" if verifier is None else f"{verifier.name} cannot"
        yield f"{selection.name} needs a verifier that compares drafts, such as judge; {have}"
    if wants_grades(selection) and verifier is None:
        yield f"the selection {selection.name} needs a verifier: add --verifier"


def blind_oracle(problem: Problem, parts: Parts) -> Iterator[str]:
    verifier, task = parts.by.verifier, parts.by.task
    if verifier is not None and verifier.oracle(task) and problem.reference is None:
        yield f"{verifier.name} looks at the reference, and this problem of the task {task.name} has none"


def another_tasks_grades(problem: Problem, parts: Parts) -> Iterator[str]:
    inner = parts.by.verifier and innermost(parts.by.verifier)
    if isinstance(inner, Process) and inner.path is None and parts.by.task.name not in GENERATED:
        ways = "process(path=...) with a model of your own, judge or reward-endpoint grade others"
        yield f"the shipped reward model grades only the tasks {', '.join(GENERATED)}; {ways}"


def innermost(verifier: Verifier) -> Verifier:
    """The verifier that others are around."""
    return innermost(verifier.inner) if isinstance(verifier, Around) else verifier


def uncounted(problem: Problem, parts: Parts) -> Iterator[str]:
    """A limit on what the model does not count would hold nothing back."""
    model, limits = parts.by.model, parts.budget.limits
    if not limits.keys() - NOT_COUNTED - {"tokens", "calls"}:
        return  # what every model counts
    bound = model.bound(Request(parts.by.task.prompt(problem), max_tokens=1))
    for name in limits:
        if name not in NOT_COUNTED and not amount(bound, name):
            can = ", ".join(n for n in ENTRIES if amount(bound, n) or n in NOT_COUNTED - {"usd"})
            yield f"{model.name} does not count {name}, so no budget can limit it; it can limit {can}"


REFUSALS = (
    another_task,
    lacking_model,
    ungraded_steps,
    no_prices,
    lacking_verifier,
    blind_oracle,
    another_tasks_grades,
    uncounted,
)
