"""How a command speaks to a person: progress, results and failures in a terminal, in a file, or as JSON."""

import atexit
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from pipeline.printable import printable
from pipeline.wording import duration, pace

LINE_EVERY = 10.0  # seconds between plain lines
WIDTH_OF_FILES = 140  # columns, where stdout is no terminal


class Watched:
    """Progress on stderr: `pipeline.progress.Progress` for people.

    Args:
        console: Where to write; stderr.
        quiet: Show nothing.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.said: set[str] = set()
        self.spoke = time.monotonic()  # when a plain line was last printed

    def note(self, text: str) -> None:
        """Print one sentence, once: stages of one command may have the same to say."""
        if not self.quiet and text not in self.said:
            self.said.add(text)
            self.console.print(Text(printable(text, keep="\n"), style="dim"), soft_wrap=True)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show one piece of work until it is done."""
        label = printable(label)
        if self.quiet:
            yield lambda done: None
        elif self.console.is_terminal:
            with self._bars(unit) as bars:
                task = bars.add_task(label, total=total)
                yield lambda done: bars.update(task, advance=done)
        else:
            lines = _Lines(self, label, total, unit)
            yield lines.advance
            lines.finish()

    def _bars(self, unit: str) -> Bars:
        return Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Rate(unit),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            transient=True,
        )


class _Rate(ProgressColumn):
    """Units a second over the last while."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(pace(speed, self.unit) if speed else "", style="progress.data.speed")


class _Lines:
    """One line every ten seconds, for logs, however short the pieces of work are."""

    def __init__(self, watched: Watched, label: str, total: int, unit: str) -> None:
        self.watched, self.label, self.total, self.unit = watched, label, total, unit
        self.done, self.printed = 0, False
        self.started = time.monotonic()

    def advance(self, done: int) -> None:
        """Count; print when it is time."""
        self.done += done
        if self._due() and self.done < self.total:
            rate = self.done / (time.monotonic() - self.started)
            left = f", {pace(rate, self.unit)}, {duration((self.total - self.done) / rate)} left" if rate else ""
            self._print(f"{self.done}/{self.total} {self.unit}{left}")

    def finish(self) -> None:
        """Print a last line if there was a first."""
        if self.printed or self._due():
            seconds = time.monotonic() - self.started
            rate = f", {pace(self.done / seconds, self.unit)}" if self.done else ""
            self._print(f"{self.done}/{self.total} {self.unit} in {duration(seconds)}{rate}")

    def _due(self) -> bool:
        return time.monotonic() - self.watched.spoke >= LINE_EVERY

    def _print(self, text: str) -> None:
        self.printed, self.watched.spoke = True, time.monotonic()
        self.watched.console.print(Text(f"{self.label}: {text}"), soft_wrap=True)


class _Answers(Console):
    """stdout; who writes there must learn that nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the BrokenPipeError, and would end the program itself


class _Remarks(Console):
    """stderr; work goes on when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _drop(sys.stderr)


class Output:
    """Where a command's words go: results to stdout, everything else to stderr.

    Args:
        as_json: Print results as one JSON document.
        quiet: Print errors alone, and what is for programs.
    """

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.answered = False
        self.stopped = False
        self.errors = _Remarks(stderr=True)
        self.progress = Watched(self.errors, quiet)
        # What damaged metadata makes Pillow warn of; the pixels are judged by `pipeline.decode` itself.
        warnings.filterwarnings("ignore", module="PIL")

    def show(
        self, result: Any, render: Callable[[Any, Console], None], *, machine: bool = False, failure: str | None = None
    ) -> None:
        """Print a command's result, as JSON or for people; that its reader has left is no failure.

        Args:
            result: A dataclass.
            render: Writes the result for people on the console that it is given.
            machine: Whether `render` writes for programs instead: UTF-8 on stdout, whatever `quiet` says. Its console
                is then stderr, for remarks.
            failure: Why the command will fail although it has this result; JSON holds both.
        """
        try:
            if self.as_json:
                self._print_json(as_plain(result) | ({} if failure is None else {"error": failure}))
            elif machine:
                # A file name that is no UTF-8 comes out as the bytes that it is.
                _recode("surrogateescape", "utf-8")
                render(result, _Remarks(stderr=True, quiet=self.quiet))
            elif not self.quiet:
                _recode("backslashreplace")
                console = _Answers()
                render(result, console if console.is_terminal else _Answers(width=WIDTH_OF_FILES))
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            _drop(sys.stdout)

    def fail(self, message: str) -> NoReturn:
        """Print why a command failed, and end it with status 1."""
        self._print_reason(message, Text("Error: ", "bold red"))
        sys.exit(1)

    def stop(self, message: str) -> NoReturn:
        """Print that a command was interrupted, and end it at once with status 130.

        Python's own way out would first wait for threads and take torch apart, which can last seconds. Called again,
        it waits for nothing.
        """
        if not self.stopped:
            self.stopped = True
            self._print_reason(message, Text())
            sys.stderr.flush()
            # What libraries registered for the end, such as joblib's semaphores; nothing else offers it.
            atexit._run_exitfuncs()
        os._exit(130)

    def _print_reason(self, message: str, before: Text) -> None:
        try:
            if self.as_json and not self.answered:
                self._print_json({"error": message})
            sys.stdout.flush()
        except BrokenPipeError:
            _drop(sys.stdout)
        self.errors.print(before.append(Text(printable(message, keep="\n"))), soft_wrap=True, highlight=False)

    def _print_json(self, document: Mapping[str, Any]) -> None:
        """Print the one document that a command prints, in letters where stdout can take them."""
        self.answered = True
        text = json.dumps(document, ensure_ascii=False, indent=1)
        # JSON may hold control characters of the upper range and marks that turn text round; a terminal obeys them.
        text = "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)
        try:
            text.encode(sys.stdout.encoding)
        except UnicodeEncodeError:
            text = json.dumps(document, indent=1)
        print(text)


def _recode(errors: str, encoding: str | None = None) -> None:
    """Change how stdout encodes; what stands in for it in a test or a notebook is left alone."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding or sys.stdout.encoding, errors=errors)


def _drop(stream: IO[str]) -> None:
    """Let what is still written to a stream vanish, so that Python's last flush cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def as_plain(value: Any) -> Any:
    """Turn a result into what JSON can hold: dataclasses by their fields, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
