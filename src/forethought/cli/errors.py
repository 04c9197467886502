"""How the command line ends: one clear line on standard error, and an exit code that means something."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from forethought.core.errors import ForethoughtError, UsageError

MISTAKE: Any = typer.BadParameter.__mro__[
    1
]  # click's UsageError, which has another home in every few releases of typer
USAGE, FAILED, NO_ANSWER, INTERRUPTED = 2, 1, 3, 130


class Commands(TyperGroup):
    """Says what is wrong with the words themselves (an unknown option, no number) like every other mistake."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except MISTAKE as error:
            if not (said := error.format_message()):  # no words at all: the help has been shown
                raise SystemExit(USAGE) from None
            where = error.ctx.command_path if error.ctx else "forethought"
            end(USAGE, f"{said.rstrip('.')}; see `{where} --help`")
        except typer.Abort:
            end(INTERRUPTED, "interrupted")
        raise SystemExit(code if isinstance(code, int) else 0)


def end(code: int, line: str) -> NoReturn:
    sys.stderr.write(f"forethought: {' '.join(line.splitlines())}\n")
    raise SystemExit(code)


@contextmanager
def one_line(how_to_resume: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Turn our own errors into exit codes: 2 for bad input, 1 for a model that failed, 130 for Ctrl-C."""
    try:
        yield
    except UsageError as error:
        end(USAGE, str(error))
    except ForethoughtError as error:
        end(FAILED, str(error))
    except KeyboardInterrupt:
        hint = how_to_resume()
        end(INTERRUPTED, "interrupted; nothing recorded is lost" + (f". Go on with: {hint}" if hint else ""))
