"""The command line. This module alone turns an error into one line on stderr and an exit code."""

import sys

USAGE_ERROR = 2
INTERRUPTED = 130
LONGEST_LINE = 8000
"""Characters of an error: twice the longest path."""


def main() -> None:
    """The command ``batchscope``: ends the process with 0, 2 (wrong use or input) or 130 (Ctrl-C, or SIGTERM likewise).

    Nothing slow is imported before it, so that Ctrl-C while the program loads is caught as well.
    """
    try:
        import signal  # noqa: PLC0415

        # What a service manager or a container sends: a run that is recorded is to be closed by it, too.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        code = run(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: the interpreter's own end is not to be disturbed
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Do what ``arguments`` say; gives the exit code."""
    from typing import cast  # noqa: PLC0415  (here, not above: see main)

    import typer  # noqa: PLC0415

    from batchscope.cli.application import application  # noqa: PLC0415
    from batchscope.cli.options import in_terms_of_options  # noqa: PLC0415
    from batchscope.cli.stdout import discard  # noqa: PLC0415
    from batchscope.errors import BatchscopeError, ConfigurationError  # noqa: PLC0415

    # click's UsageError; newer typers bring a click of their own.
    wrong_use = cast("type[Exception]", typer.BadParameter.__mro__[1])
    try:
        code = typer.main.get_command(application)(arguments, "batchscope", standalone_mode=False)
    except wrong_use as error:
        message = error.format_message()  # type: ignore[attr-defined]
        return _failed(message + _commands(typer.main.get_command(application)) * message.startswith("No such command"))
    except typer.Abort:  # Ctrl-C that no command has caught
        return INTERRUPTED
    except ConfigurationError as error:
        return _failed(in_terms_of_options(error))
    except BatchscopeError as error:
        return _failed(str(error))
    except OSError as error:  # of a file it is told where it happens; this is stdout, on a full disk say
        discard()
        return _failed(f"the output cannot be written: {error.strerror or error}")
    return int(code or 0)


def _commands(group: object) -> str:
    """What there is instead of a command that is not."""
    return f" Expected one of {', '.join(getattr(group, 'commands', {}))}"


def _failed(message: str) -> int:
    """One line, whatever the message quotes."""
    from batchscope.text import shown  # noqa: PLC0415

    print(f"error: {shown(message, LONGEST_LINE)}", file=sys.stderr)  # noqa: T201
    return USAGE_ERROR
