"""What every command has: --json, --quiet and --debug, failures that are explained, and an end when interrupted."""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import click

from cache.errors import ManyheadsError

STOPPED = "Stopped. All complete work is kept; run the same command again to go on."
GRACE = 1.5  # seconds that an interrupted command has to clean up
UNEXPECTED = (
    "An error that should not happen: {0!r}. Nothing complete is lost. `--debug` shows where it came from; please "
    "report it with what `manyheads doctor` prints."
)


def command(group: click.Group, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function: with --json, --quiet and --debug, and with failures explained."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @group.command(name)
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
        @click.option("--quiet", is_flag=True, help="Print errors only.")
        @click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, quiet: bool, debug: bool, **options: Any) -> None:
            from pipeline.terminal import Output

            output = Output(as_json, quiet)
            with _Interrupts(lambda: output.stop(STOPPED)) as interrupts:
                try:
                    function(output, *args, **options)
                except BaseException as error:
                    # An interrupt that hits an import can come out as any other exception.
                    if interrupts.came:
                        output.stop(STOPPED)
                    if debug or not isinstance(error, Exception) or isinstance(error, click.ClickException):
                        raise
                    output.fail(_reason(error))

        return run

    return decorate


def _reason(error: BaseException) -> str:
    """Word a failure: our own say it themselves, and what the system refused has a file and a reason."""
    if isinstance(error, ManyheadsError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.filename}: {error.strerror}."
        return (
            f"{reason} Check the path and its permissions, then run the same command again; nothing complete is lost."
        )
    return UNEXPECTED.format(error)


class _Interrupts:
    """Ctrl-C and SIGTERM alike raise KeyboardInterrupt inside the block, and are remembered.

    What was interrupted while it held a lock of some library may wait for ever when it cleans up: a thread of its own
    then ends the process. What is left behind is removed by the next command.

    Args:
        late: Ends the process.
    """

    def __init__(self, late: Callable[[], object]) -> None:
        self.came = False
        self._late = late

    def __enter__(self) -> "_Interrupts":
        # What a shell ignores for its background jobs stays ignored.
        handled = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
        self.before = {one: signal.signal(one, self._handle) for one in handled}
        reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        # The number of each signal is written there at once, whatever Python is doing.
        self._wakes = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reads,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakes)
        os.close(self._writes)  # which ends the thread
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> NoReturn:
        self.came = True
        # Where Python calls back from C code it shows what is raised and drops it; the command then ends by `_watch`.
        sys.unraisablehook = lambda _: None
        raise KeyboardInterrupt

    def _watch(self, reads: int) -> None:
        with open(reads, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] in self.before:
                    time.sleep(GRACE)
                    self._late()
