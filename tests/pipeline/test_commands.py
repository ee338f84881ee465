"""What every command has in common: failures in one paragraph, JSON for them too, and signals given back."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cache import NoRoom
from pipeline.commands import STOPPED, UNEXPECTED, command
from pipeline.errors import HeadError
from pipeline.terminal import Output

ROOT = Path(__file__).parents[2]


def run(work: Callable[[Output], None], *options: str) -> Result:
    group = click.Group()
    command(group, "work")(work)
    return CliRunner().invoke(group, ["work", *options])


def failing(error: BaseException) -> Callable[[Output], None]:
    def work(output: Output) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HeadError("No such head. Name another."), "No such head. Name another."),
        (NoRoom("The disk is full."), "The disk is full."),
        (
            PermissionError(13, "Permission denied", "/root/secret"),
            "/root/secret: Permission denied. Check the path and its permissions, then run the same command again; "
            "nothing complete is lost.",
        ),
        (BrokenPipeError(), UNEXPECTED.format(BrokenPipeError())),  # of a tool at work, not of who reads the answer
        (ZeroDivisionError("1/0"), UNEXPECTED.format(ZeroDivisionError("1/0"))),
        (HeadError("red \x1b[31m"), r"red \x1b[31m"),
    ],
)
def test_a_failure_is_one_paragraph_and_one_document(error: Exception, said: str) -> None:
    shown = run(failing(error))
    assert (shown.exit_code, shown.stdout, shown.stderr) == (1, "", f"Error: {said}\n")
    as_json = run(failing(error), "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout) == {"error": said.replace(r"\x1b", "\x1b")}
    assert run(failing(error), "--quiet").stderr == f"Error: {said}\n"


def test_debug_lets_a_failure_through() -> None:
    error = HeadError("No such head.")
    assert run(failing(error), "--debug").exception is error


def test_wrong_usage_found_at_work_is_wrong_usage() -> None:
    done = run(failing(click.UsageError("Choose one.")))
    assert done.exit_code == 2
    assert "Error: Choose one." in done.stderr


def test_signals_are_handled_while_a_command_works_and_given_back() -> None:
    during: list[object] = []
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    for error in (None, ValueError()):

        def work(output: Output, error: BaseException | None = error) -> None:
            during.extend(signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM))
            if error:
                raise error

        run(work)
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(during) == 4
    assert not set(during) & set(before)


SLEEPING = """
import time, click
from pipeline.commands import command
group = click.Group()
@command(group, "work")
def work(output):
    print("ready", flush=True)
    time.sleep(60)
group()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_one_line(number: int) -> None:
    command = [sys.executable, "-c", SLEEPING, "work"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.count("\n")) == (130, 1)
    assert said.startswith("Stopped. All complete work is kept")


@pytest.mark.parametrize("hangs", ["threading.Event().wait()", "atexit.register(threading.Event().wait); raise"])
def test_what_hangs_when_it_is_interrupted_is_ended_all_the_same(hangs: str) -> None:
    code = SLEEPING.replace("import time", "import atexit, threading, time")
    code = code.replace(
        "    time.sleep(60)", f"    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        {hangs}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "work"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, f"{STOPPED}\n")


def test_a_signal_that_a_shell_ignores_for_its_background_jobs_stays_ignored() -> None:
    during: list[object] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(lambda output: during.append(signal.getsignal(signal.SIGINT)))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert during == [signal.SIG_IGN]


def test_a_command_keeps_its_name_and_help() -> None:
    group = click.Group()

    @command(group, "work")
    @click.option("--more")
    def work(output: Output, more: str) -> None:
        """Do some work."""

    assert group.commands["work"].help == "Do some work."
    assert [one.name for one in group.commands["work"].params] == ["as_json", "quiet", "debug", "more"]
