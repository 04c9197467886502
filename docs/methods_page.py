"""Writes docs/methods.md from the registered methods and selections: python docs/methods_page.py"""

from __future__ import annotations

import inspect
from pathlib import Path

from forethought.cli.catalogue import parameters
from forethought.methods import methods
from forethought.selection import selections

HEAD = """# Methods and selections

Generated from the code by `python docs/methods_page.py`; a test holds it to what is registered. *Law*: `proper` keeps the
unnormalised measure in expectation, `invariant` is a Markov kernel that keeps its target, `greedy` is neither. *Needs*:
abilities of the model; `process` is a verifier that grades unfinished drafts, `grades` any verifier; `self-evaluation` is a
model that reads instructions, or `process`. *step*, where a method has it, is where its steps end: `step=32` after so many
tokens, `step=';'` behind this string, `step=sentence` behind a sentence or a line; None leaves it to the task. Steps that end
behind a string are at most the task's `step_tokens` long.
"""


def entry(name: str, part: type) -> str:
    known = ", ".join(f"`{key}={value!r}`" for key, value in parameters(part).items()) or "none"
    needs = ", ".join(f"`{need}`" for need in sorted(part.needs)) or "nothing more"
    law = f"* **Law:** {part.law}\n" if hasattr(part, "law") else ""
    lines = f"{law}* **Needs:** {needs}\n* **Paper:** {part.paper}\n* **Parameters:** {known}\n"
    return f"### {name}\n\n{inspect.getdoc(part)}\n\n{lines}"


def page() -> str:
    parts = [HEAD, "## Methods\n", *(entry(name, methods[name]) for name in methods)]
    parts += ["## Selections\n", *(entry(name, selections[name]) for name in selections)]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(page())
