"""docs/cli.md is true: every command and option is there with what it says of itself, and its sessions are run."""

from __future__ import annotations

import doctest
import re
from shlex import split

import pytest
import typer.main

import paths
from commands import COMMANDS, GROUPS, Quota
from quota.cli import build

ROOT = paths.ROOT
TEXT = (ROOT / "docs" / "cli.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### `quota ([a-z-]+(?: [a-z-]+)?)(?=[` ]).*\n((?:(?!##).*\n)*)", TEXT, re.MULTILINE))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_is_documented(path):
    """A section for each command, and each of its options in it; each explains itself and has an example."""
    command = COMMANDS[path]
    section = SECTIONS[" ".join(path)]
    assert re.fullmatch(r"Example: quota \S.*", command.epilog)
    assert command.epilog.split()[2 : 2 + len(path)] == list(path)
    assert command.help.splitlines()[0].endswith(".")
    for parameter in command.params:
        assert parameter.help.rstrip().endswith((".", ";")) or "=" in parameter.help, parameter.name
        if parameter.param_type_name == "option":
            for name in parameter.opts:
                assert re.search(rf"`{re.escape(name)}(?=[ `])", section), name
        else:
            assert parameter.metavar in re.search(rf"^### `quota {' '.join(path)}.*$", TEXT, re.MULTILINE)[0]


def test_no_command_is_documented_that_is_not_there():
    """Nor an option of one that has it not."""
    assert {tuple(words.split()) for words in SECTIONS} == set(COMMANDS)
    for words, section in SECTIONS.items():
        known = {name for parameter in COMMANDS[tuple(words.split())].params for name in parameter.opts}
        named = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
        assert named <= known, words


def test_the_global_options_are_documented():
    """Those of quota itself, completion's too."""
    root = typer.main.get_command(build(plain=True))
    named = set(re.findall(r"^\| `(--[a-z-]+)", TEXT.split("## A session")[0], re.MULTILINE))
    assert {parameter.opts[0] for parameter in root.params} - {"--help"} == named


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_the_example(path):
    """At a terminal and piped."""
    quota = Quota()
    for terminal in (False, True):
        assert quota(*path, "--help", terminal=terminal) == 0
        shown = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", quota.out).split())
        assert "Example: quota" in shown


@pytest.mark.parametrize("group", [(), *((name,) for name in GROUPS)], ids=lambda group: " ".join(group) or "quota")
def test_no_summary_is_cut(group, monkeypatch):
    """In a list of commands, on the narrowest usual terminal, each one's first sentence is whole."""
    monkeypatch.setenv("COLUMNS", "80")
    quota = Quota()
    assert quota(*group, "--help") == 0
    listed = quota.out.partition("Commands:")[2].partition("Exit status")[0]
    assert len(re.findall(r"^  [a-z]", listed, re.MULTILINE)) > 3
    assert "..." not in listed


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_no_names_of_types(path):
    """What takes a value says which by a word: COST, not <str>."""
    for parameter in COMMANDS[path].params:
        assert parameter.metavar or getattr(parameter, "is_flag", False) or parameter.name == "help", parameter.name


def test_the_sessions_are_true(monkeypatch):
    """Each command of the document's sessions, in order, prints what stands there."""
    monkeypatch.chdir(ROOT)
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    checked = 0
    for session in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        quota = Quota()
        for step in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            line, _, wanted = step.partition("\n")
            command, told, _ = line.partition(" || ")
            status = quota(*split(command)[1:])
            assert status == 0 or told, quota.err
            got = quota.out + (f"exit status {status}\n" if told else "")
            assert checker.check_output(wanted, got, flags), f"{command}\n{got}"
            checked += 1
    assert checked >= 10
