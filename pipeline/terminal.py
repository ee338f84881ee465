"""How a command speaks to a person: progress, results and failures in a terminal, in a file, or as JSON."""

import atexit
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

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

    def note(self, text: str) -> None:
        """Print one sentence, once: stages of one command may have the same to say."""
        if not self.quiet and text not in self.said:
            self.said.add(text)
            self.console.print(escape(text), style="dim", soft_wrap=True, highlight=False)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show one piece of work until it is done."""
        if self.quiet:
            yield lambda done: None
        elif self.console.is_terminal:
            with self._bars(unit) as bars:
                task = bars.add_task(label, total=total)
                yield lambda done: bars.update(task, advance=done)
        else:
            lines = _Lines(self.console, label, total, unit)
            yield lines.advance
            lines.finish()

    def _bars(self, unit: str) -> Bars:
        return Bars(
            TextColumn("{task.description}"),
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
        return Text(f"{speed:.1f} {self.unit}/s" if speed else "", style="progress.data.speed")


class _Lines:
    """One line every ten seconds, for logs."""

    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.done = 0
        self.started = self.last = time.monotonic()

    def advance(self, done: int) -> None:
        """Count; print when it is time."""
        self.done += done
        now = time.monotonic()
        if now - self.last >= LINE_EVERY and self.done < self.total:
            self.last = now
            rate = self.done / (now - self.started)
            left = (self.total - self.done) / rate if rate else float("inf")
            self._print(f"{self.done}/{self.total} {self.unit}, {rate:.1f} {self.unit}/s, {duration(left)} left")

    def finish(self) -> None:
        """Print a last line if there was a first."""
        if self.last > self.started:
            seconds = time.monotonic() - self.started
            self._print(
                f"{self.done}/{self.total} {self.unit} in {duration(seconds)}, {self.done / seconds:.1f} {self.unit}/s"
            )

    def _print(self, text: str) -> None:
        self.console.print(f"{self.label}: {text}", soft_wrap=True, highlight=False, markup=False)


def duration(seconds: float) -> str:
    """Write a time as a person says it: 0.4 s, 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 1e7:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return "a long time"


class Output:
    """Where a command's words go: results to stdout, everything else to stderr.

    Args:
        as_json: Print results as one JSON document.
        quiet: Print errors alone.
    """

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.errors = Console(stderr=True)
        self.progress = Watched(self.errors, quiet)
        # What damaged metadata makes Pillow warn of; the pixels are judged by `pipeline.decode` itself.
        warnings.filterwarnings("ignore", module="PIL")

    def show(self, result: Any, render: Callable[[Any, Console], None]) -> None:
        """Print a command's result, as JSON or for people."""
        if self.as_json:
            print(json.dumps(as_plain(result), ensure_ascii=False, indent=1))
        elif not self.quiet:
            console = Console()
            if not console.is_terminal:
                console = Console(width=WIDTH_OF_FILES)
            render(result, console)

    def fail(self, message: str) -> NoReturn:
        """Print why a command failed, and end it with status 1."""
        self._print_reason(message, Text("Error: ", "bold red"))
        sys.exit(1)

    def stop(self, message: str) -> NoReturn:
        """Print that a command was interrupted, and end it at once with status 130.

        Python's own way out would first wait for threads and take torch apart, which can last seconds.
        """
        self._print_reason(message, Text())
        sys.stdout.flush()
        sys.stderr.flush()
        # What libraries registered for the end, such as joblib's semaphores; it is quick, and nothing else offers it.
        atexit._run_exitfuncs()
        os._exit(130)

    def _print_reason(self, message: str, before: Text) -> None:
        if self.as_json:
            print(json.dumps({"error": message}, ensure_ascii=False))
        self.errors.print(before.append(Text(message)), soft_wrap=True, highlight=False)


def as_plain(value: Any) -> Any:
    """Turn a result into what JSON can hold: dataclasses by their fields, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
