"""The command as such: version, help, completion."""

import pytest
from command_line import batchscope

from batchscope.cli.application import application
from batchscope.version import __version__


def test_version():
    assert batchscope("--version").output == f"batchscope {__version__}\n"


@pytest.mark.parametrize("arguments", [("demo",), ("replay",), ()])
def test_every_help_shows_an_example(arguments):
    run = batchscope(*arguments, "--help", NO_COLOR="1")
    assert run.code == 0
    assert "Example" in run.output
    assert "batchscope demo" in run.output or "batchscope replay" in run.output


def test_without_a_command_the_help_is_shown():
    run = batchscope(NO_COLOR="1")
    assert run.code == 0
    assert "demo" in run.output
    assert "replay" in run.output


def test_shell_completion_knows_commands_and_options():
    asked = {"_BATCHSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "batchscope re", "COMP_CWORD": "1"}
    assert "replay" in batchscope(**asked).output
    asked |= {"COMP_WORDS": "batchscope replay --slo", "COMP_CWORD": "2"}
    assert {"--slo-ttft", "--slo-tpot", "--slo-e2e"} <= set(batchscope(**asked).output.split())


def test_a_help_text_breaks_where_the_terminal_ends_not_where_its_source_does():
    for command in application.registered_commands:
        assert command.help
        assert all("\n" not in paragraph for paragraph in command.help.split("\n\n")), command.callback
