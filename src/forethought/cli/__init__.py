"""The command line."""

import sys


def main() -> None:
    """The entry point `forethought`."""
    try:
        from forethought.cli.app import app

        app()
    except KeyboardInterrupt:  # while the program is still being read: later ones are told by the commands themselves
        sys.stderr.write("forethought: interrupted\n")
        raise SystemExit(130) from None
