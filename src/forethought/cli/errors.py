"""How the command line ends: one clear line on standard error, and an exit code that means something."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from forethought.core.errors import ForethoughtError, UsageError

USAGE, FAILED, NO_ANSWER, INTERRUPTED = 2, 1, 3, 130


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
