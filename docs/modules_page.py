"""Writes docs/modules.md from the first sentence of each module: python docs/modules_page.py"""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "forethought"
HEAD = """# The modules

One sentence a module, generated from the code by `python docs/modules_page.py`; a test holds it fresh. What the rooms are
for, and how a request goes through them, is on [the page of the house](design.md).
"""


def registers(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any("register" in ast.unparse(d) for d in node.decorator_list)


def sentence(file: Path) -> str:
    """The first sentence of the module, or of the first part that it registers (a method a file)."""
    tree = ast.parse(file.read_text())
    speakers = [tree, *filter(registers, tree.body)]
    said = next(filter(None, (ast.get_docstring(s) for s in speakers)), "")  # type: ignore[arg-type]
    return re.split(r"(?<=\.)\s+(?=[A-Z`])|\n\n", said)[0].replace("\n", " ").rstrip(".:")


def table(room: Path, files: list[Path]) -> str:
    name = room.relative_to(SOURCE.parent).as_posix()
    rows = [f"| `{file.stem}` | {sentence(file)} |" for file in files]
    return "\n".join([f"## {name}\n", "| module | what it is for |", "|---|---|", *rows, ""])


def page() -> str:
    files = sorted((f for f in SOURCE.rglob("*.py") if not f.name.startswith("__")), key=lambda f: (f.parent, f.name))
    return "\n".join([HEAD, *(table(room, list(inside)) for room, inside in groupby(files, key=lambda f: f.parent))])


if __name__ == "__main__":
    Path(__file__).with_name("modules.md").write_text(page())
