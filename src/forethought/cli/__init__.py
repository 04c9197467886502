"""The command line."""


def main() -> None:
    """The entry point `forethought`."""
    from forethought.cli.app import app

    app()
