"""quota as a process: its streams closed, full or left by their reader, a real terminal, completion by real shells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress

import pexpect
import pytest

import paths
from quota import Ledger, UsagePlan
from quota.cli import main

SAMPLE = paths.PACKAGE / "replay" / "sample.log"
QUOTA = [sys.executable, "-m", "quota"]
BARE = [
    sys.executable,
    "-c",
    "import sys; import quota.__main__ as m; m.find_spec = lambda name: None; sys.exit(m.main())",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with a store: key ``ada`` on ``gold``, and ``spent``, whose plan has nothing left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUOTA_STORE", raising=False)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is buffered fails later
    with Ledger("sqlite:///quota.db?durability=normal") as ledger:
        ledger.add_plan(UsagePlan("gold", "1000/day, 1000/hour"))
        ledger.add_plan(UsagePlan("tiny", "1/year"))
        ledger.issue_key("Ada", plan="gold", id="ada")
        ledger.consume(ledger.issue_key("Spent", plan="tiny", id="spent").key)
    return tmp_path


def run(*arguments, command=QUOTA, **streams):
    """(exit status, standard output, standard error)."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run([*command, *arguments], text=True, check=False, **streams)
    assert "Traceback" not in f"{done.stdout}{done.stderr}"
    return done.returncode, done.stdout, done.stderr


def shell(line):
    """A command whose streams the shell closes: (exit status, standard output, standard error)."""
    return run("-c", line, command=["sh"])


def keys(folder):
    with Ledger(f"sqlite:///{folder}/quota.db") as ledger:
        return [(key.id, key.secrets) for key in ledger.list_keys()]


def left(*arguments, command=QUOTA):
    """As ``run``, into a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return run(*arguments, command=command, stdout=writing)
    finally:
        os.close(writing)


@pytest.mark.spread(3)
@pytest.mark.parametrize("arguments", [
    ["plan", "list"], ["plan", "list", "--json"], ["usage", "ada"], ["--help"], ["consume", "ada"],
    ["replay", str(SAMPLE), "--plan", "100/day"], ["demo"],
])  # fmt: skip
def test_a_reader_that_has_seen_enough_is_no_error(folder, arguments):
    """Status 0 and not a word, whether plain text, JSON or a table is cut."""
    status, _, err = left(*arguments)
    assert (status, err) == (0, "")


@pytest.mark.spread(3, 2)
@pytest.mark.parametrize("arguments", [["consume", "spent"], ["check", "spent"], ["consume", "spent", "--json"]])
def test_a_refusal_is_a_refusal_whoever_reads_it(folder, arguments):
    """quota consume KEY | head has the exit status of the decision."""
    assert left(*arguments)[0] == 1


def test_a_secret_that_nobody_could_see_is_undone(folder):
    """An issued key goes again, a rotated one has its old secrets: a broken pipe, or an output that cannot be written."""
    before = keys(folder)
    for wanted, arguments in (("removed again", ["issue", "x"]), ("old ones again", ["rotate", "ada"])):
        for more in ([], ["--json"]):
            status, _, err = left("key", *arguments, *more)
            assert (status, keys(folder)) == (74, before)
            assert wanted in err.splitlines()[-1]
        with (folder / "unwritable").open("w"), (folder / "unwritable").open() as out:
            status, _, err = run("key", *arguments, stdout=out)
        assert (status, keys(folder)) == (74, before)
        assert wanted in err.splitlines()[-1]


@pytest.mark.parametrize("command", [QUOTA, BARE])
def test_output_that_cannot_be_written_is_one_line(folder, command):
    """With the extra and without; where standard output is closed, nothing is done at all."""
    replay = ["replay", str(SAMPLE), "--plan", "100/day"]
    with (folder / "unwritable").open("w"), (folder / "unwritable").open() as out:
        status, _, err = run(*replay, command=command, stdout=out)
    assert (status, err) == (74, "quota: standard output: Bad file descriptor\n")
    line = subprocess.list2cmdline([*command, *replay]).replace("$", r"\$")
    assert shell(f"{line} >&-") == (74, "", "quota: standard output is closed\n")


def test_closed_standard_input_and_error(folder):
    """No secret on a closed standard input; an error that cannot be told is no answer."""
    quota = subprocess.list2cmdline(QUOTA)
    assert shell(f"{quota} consume - <&-")[:2] == (1, "refused: MISSING_KEY\n")
    status, out, err = shell(f"{quota} key import x <&-")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert shell(f"{quota} usage nobody 2>&-") == (2, "", "")


def test_without_the_extra_it_is_said_what_brings_the_rest(folder):
    """The command that pip installs says it in one line; the two that need nothing work."""
    script = re.search(r'^quota = "(.*):(.*)"', (paths.ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    hidden = (
        "import sys, importlib.util as u; real = u.find_spec; sys.modules['typer'] = None\n"
        "u.find_spec = lambda name: None if name == 'typer' else real(name)\n"
    )
    command = [sys.executable, "-c", f"{hidden}from {script[1]} import {script[2]} as main; sys.exit(main())"]
    for arguments in (["plan", "list"], ["key"], [], ["replay", "x", "--plan", "1/day", "--suggest", "9"]):
        status, out, err = run(*arguments, command=command)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("quota: ")
        assert "pip install typer rich" in err
    status, out, _ = run("demo", command=command)
    assert status == 0
    assert "Key123" in out


@pytest.fixture
def complete(folder, monkeypatch, capsys):
    """What the installed completion of a shell offers for a line."""

    def offered(shell, words, **environment):
        names = {"_QUOTA_COMPLETE": f"complete_{shell}", **environment}
        if shell == "bash":
            names |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        else:
            names |= {"_TYPER_COMPLETE_ARGS": words}
        with monkeypatch.context() as patch:
            for name, value in names.items():
                patch.setenv(name, value)
            with suppress(SystemExit):
                main([])
        return capsys.readouterr().out

    return offered


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_options_keys_and_plans_are_completed(folder, shell, complete):
    """As the shell's own function asks; of the store that the line names, else of the environment's or the default one."""
    (folder / "other").mkdir()
    with Ledger(f"sqlite:///{folder}/other/its.db?durability=normal") as ledger:
        ledger.add_plan(UsagePlan("green", "1/day"))
        ledger.issue_key("Alan", id="alan")
    for words, wanted, unwanted in (
        ("quota pl", "plan", "replay"), ("quota key ro", "rotate", "remove"), ("quota usage --pl", "--plot", "--json"),
        ("quota usage a", "ada", "spent"), ("quota key attach ada g", "gold", "tiny"), ("quota key list --plan g", "gold", "tiny"),
        ("quota key issue x --plan t", "tiny", "gold"), ("quota replay x --plan t", "tiny", "gold"),
        ("quota key show --store sqlite:///other/its.db a", "alan", "ada"),
        ("quota --store sqlite:///other/its.db plan show g", "green", "gold"),
    ):  # fmt: skip
        offered = complete(shell, words)
        assert wanted in offered, words
        assert unwanted not in offered, words
    assert "alan" in complete(shell, "quota usage a", QUOTA_STORE="sqlite:///other/its.db")
    assert complete(shell, "quota usage a", QUOTA_STORE="sqlite:///nowhere.db").strip() in ("", "_files")
    assert complete(shell, "quota usage a", QUOTA_STORE="redis://localhost:1").strip() in ("", "_files")


def test_bash_itself_completes(folder, monkeypatch):
    """The script that --show-completion prints, sourced, called as Tab calls it."""
    program = folder / "bin" / "quota"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {subprocess.list2cmdline(QUOTA)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    tab = 'COMP_WORDS=({}); COMP_CWORD={}; _quota_completion quota; echo "${{COMPREPLY[@]}}"'
    typed = ("quota key attach ada g", "quota pl", "quota usage ada --pl")
    lines = ['eval "$(quota --show-completion bash)"', *(tab.format(words, words.count(" ")) for words in typed)]
    assert run("-c", "; ".join(lines), command=["bash"]) == (0, "gold\nplan\n--plot\n", "")


def at_a_terminal(*arguments, columns=80):
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    size = (50, columns)
    return pexpect.spawn(
        QUOTA[0], [*QUOTA[1:], *arguments], encoding="utf-8", dimensions=size, timeout=120, env=environment
    )


def screen(*arguments, columns=80):
    """What a terminal of so many columns shows, without its colours."""
    terminal = at_a_terminal(*arguments, columns=columns)
    shown = terminal.read()
    terminal.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()


@pytest.mark.spread(3)
@pytest.mark.parametrize("columns", [70, 80, 120])
def test_limits_are_a_row_each_on_any_terminal(folder, columns):
    """Neither a bar nor when it is empty again is folded: fewer words are used."""
    lines = screen("consume", "ada", columns=columns)
    rows = [line for line in lines if line.startswith("requests/")]
    assert len(rows) == 2 == len(lines) - 3
    assert all(re.search(r"█[░]{9,}   .*in \d", row) for row in rows)
    assert max(map(len, lines)) <= columns, lines


@pytest.mark.spread(3)
@pytest.mark.parametrize("columns", [50, 70, 120])
def test_a_tree_of_accounts_is_a_row_for_each_limit_on_any_terminal(folder, columns):
    """Neither the lines of the tree nor the figures are folded: bars get shorter, then go."""
    with Ledger("sqlite:///quota.db") as ledger:
        for id_, parent in (("acme", None), ("search", "acme")):
            ledger.add_account(id_, parent=parent)
            ledger.associate(id_, "gold")
        ledger.consume(ledger.issue_key("k", "tiny", id="k", account="search").key)
    lines = screen("account", "tree", "--keys", columns=columns)
    assert [line[:6].rstrip() for line in lines[2:]] == ["acme", "│", "└─ sea", "   │", "   └─"]
    assert all(re.search(r"requests/\w+ +[01] +1(,000)?( |$)", line) for line in lines[2:])
    assert max(map(len, lines)) <= columns, lines
    assert any("░" in line for line in lines) == (columns > 50)
    assert any("resets" in line for line in lines) == (columns > 70)


def test_charts_are_no_wider_than_80(folder):
    """The longest row, whose bar is full, too."""
    chart = [line for line in screen("replay", str(SAMPLE), "--plan", "2000/day") if re.match("  2026.*[█▒]", line)]
    assert len(chart) > 24
    assert 75 < max(map(len, chart)) <= 80


@pytest.mark.parametrize(("columns", "hardest"), [(80, 2), (120, 3)])
def test_plans_side_by_side_leave_room_for_their_limits(folder, columns, hardest):
    """On a narrow terminal whom each hits hardest stands only below; the first line fits."""
    plans = [word for text in ("100/day, 30/minute", "20/day as a-name-of-some-length") for word in ("--plan", text)]
    lines = screen("replay", str(SAMPLE), *plans, columns=columns)
    assert "100/day, 30/minute" in next(line for line in lines if line.startswith("plan1 "))
    assert sum("hit hardest" in line for line in lines) == hardest
    assert lines[0].endswith("23:52:15Z")


def test_a_terminal_is_asked_and_no_is_no(folder):
    """The key is there until the answer is yes; Ctrl-C is no."""
    for answer, status, there in (("n\r", 130, True), ("\x03", 130, True), ("y\r", 0, False)):
        terminal = at_a_terminal("key", "remove", "ada")
        terminal.expect(r"remove ada .*\?")
        terminal.send(answer)
        assert "Traceback" not in terminal.read()
        terminal.close()
        assert terminal.exitstatus == status
        assert ("ada" in dict(keys(folder))) == there


def test_a_secret_is_not_echoed_where_it_is_typed(folder):
    """key import at a terminal."""
    terminal = at_a_terminal("key", "import", "Partner")
    terminal.expect("secret: ")
    terminal.send("a-secret-from-elsewhere\r")
    assert "a-secret" not in terminal.read()
    terminal.close()
    assert terminal.exitstatus == 0


def test_ctrl_c_in_a_replay_is_one_line(folder):
    """Of standard input that goes on and on."""
    line = SAMPLE.read_bytes().splitlines(keepends=True)[0]
    command = [*QUOTA, "replay", "-", "--plan", "1/day"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as replay:
        # More than a pipe holds: once it is written, the replay is reading.
        replay.stdin.write(line * 20_000)
        replay.stdin.flush()
        replay.send_signal(2)
        out, err = replay.communicate(timeout=120)
    assert (replay.returncode, out, err) == (130, b"", b"quota: stopped\n")
