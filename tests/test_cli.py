"""The commands as a user types them, in a process of their own: `python cli.py …`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import cli
from tests.conftest import BASE, CLASSES, WEIGHTS

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "skops", "scipy")


def manyheads(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def imported(code: str) -> set[str]:
    """Return which heavy libraries a piece of code has imported when it is done."""
    program = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))


def run_in_process(*arguments: str | Path) -> str:
    return f"import cli; cli.main({[str(argument) for argument in arguments]!r}, standalone_mode=False)"


def test_help_and_wrong_usage_import_nothing_heavy() -> None:
    assert imported(run_in_process("--help")) == set()
    assert imported(run_in_process("fit-head", "--help")) == set()


def test_a_second_extraction_and_cache_info_import_neither_torch_nor_sklearn(drawn: Path, cache: Path) -> None:
    assert imported(run_in_process("cache", "info", cache)) == set()
    assert imported(run_in_process("extract", drawn, cache, "--base", BASE, "--weights", WEIGHTS)) == set()


def test_the_version_is_told() -> None:
    assert manyheads("--version").stdout.startswith("manyheads ")


def test_every_command_explains_itself() -> None:
    text = manyheads("--help").stdout
    for name in ("extract", "fit-head", "evaluate", "predict", "cache", "demo", "doctor"):
        assert name in text
        assert "Usage" in manyheads(name, "--help").stdout


def test_the_three_stages_and_predict(drawn: Path, tmp_path: Path) -> None:
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    extracted = manyheads("extract", drawn, cache, "--base", BASE, "--weights", WEIGHTS, "--batch-size", "8")
    assert "30 computed, 0 cached" in extracted.stdout
    assert "random weights" in extracted.stdout
    assert f"next: python {ROOT / 'cli.py'} fit-head {cache} RUNS" in extracted.stdout

    options = ["--split", "60/20/20", "--epochs", "2", "--hidden", "16-8", "--seeds", "0,2-3", "--set", "lr=0.001"]
    assert "3 runs fitted, 0 kept" in manyheads("fit-head", cache, runs, *options).stdout
    assert "0 runs fitted, 3 kept" in manyheads("fit-head", cache, runs, *options).stdout
    assert "--name" in manyheads("fit-head", cache, runs, *options, "--dropout", "0.1", status=1).stderr
    manyheads("fit-head", cache, runs, "--head", "knn", "--split", "60/20/20", "--set", "metric=euclidean")

    evaluated = manyheads("evaluate", runs)
    assert "test, 6 images" in evaluated.stdout
    for name in ("mlp", "knn"):
        assert name in evaluated.stdout
        assert (runs / name / "confusion-test.png").stat().st_size > 5_000

    document = json.loads(manyheads("evaluate", runs, "--json", "--on", "val").stdout)
    assert document["part"] == "val"
    assert {name["name"] for name in document["names"]} == {"mlp", "knn"}
    assert len(document["runs"]) == 4

    image = drawn / "beach" / "beach00.png"
    predicted = json.loads(manyheads("predict", runs / "mlp" / "seed-0002", image, "--json", "--top-k", "2").stdout)
    top = predicted["images"][0]["top"]
    assert len(top) == 2
    assert top[0][1] >= top[1][1] > 0
    lines = manyheads("predict", runs / "knn" / "seed-0000", drawn / "beach", "--csv").stdout.splitlines()
    assert lines[0] == "path,rank,class,probability"
    assert len(lines) == 1 + 10 * len(CLASSES)


def test_json_is_the_only_thing_on_stdout_and_quiet_says_nothing(drawn: Path, cache: Path) -> None:
    described = json.loads(manyheads("cache", "info", cache, "--json").stdout)
    assert described["images"] == 30
    assert described["recipe"]["base"] == BASE
    assert described["classes"] == dict.fromkeys(CLASSES, 10)
    silent = manyheads("extract", drawn, cache, "--base", BASE, "--weights", WEIGHTS, "--quiet")
    assert silent.stdout == silent.stderr == ""
    again = json.loads(manyheads("extract", drawn, cache, "--base", BASE, "--weights", WEIGHTS, "--json").stdout)
    assert (again["computed"], again["cached"], again["random_weights"]) == (0, 30, True)


def test_predictions_are_kept_where_an_image_cannot_be_read(fitted: Path, drawn: Path, tmp_path: Path) -> None:
    good, torn = drawn / "beach" / "beach00.png", tmp_path / "torn.png"
    torn.touch()

    def predict(*options: str, status: int) -> Result:
        arguments = [str(fitted / "knn" / "seed-0000"), str(good), str(torn), "--top-k", "1", "--device", "cpu"]
        done = CliRunner().invoke(cli.main, ["predict", *arguments, *options])
        assert done.exit_code == status
        return done

    shown = predict(status=1)
    assert "predicted by knn/seed-0000" in shown.stdout
    assert "torn.png" not in shown.stdout
    assert shown.stderr.splitlines()[-1] == f"  {torn}: the file is empty"

    document = json.loads(predict("--json", status=1).stdout)
    assert [image["path"] for image in document["images"]] == [str(good)]
    assert document["skipped"] == [[str(torn), "the file is empty"]]
    assert "1 of 2 images" in document["error"]

    for options in (["--quiet"], ["--quiet", "--on-error", "skip"], ["--on-error", "skip"]):
        done = predict("--csv", *options, status=0 if "skip" in options else 1)
        named = [line.rpartition(",")[0] for line in done.stdout.splitlines()]
        assert named == ["path,rank,class", f"{good},1,beach"]
        assert ("torn.png" in done.stderr) == (options != ["--quiet", "--on-error", "skip"])
        assert ("note: " in done.stderr) == ("--quiet" not in options)


@pytest.mark.parametrize("option", ["--json", "--debug"])
def test_a_reader_that_left_is_no_failure(cache: Path, option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / "cli.py"), "cache", "info", str(cache), option]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_that_breaks_during_the_work_is_a_failure() -> None:
    group = click.Group()

    @cli.command(group, "work")
    def work(output: object) -> None:
        raise BrokenPipeError

    done = CliRunner().invoke(group, ["work"])
    assert done.exit_code == 1
    assert "should not happen" in done.stderr


def test_doctor_says_what_to_paste() -> None:
    diagnosis = json.loads(manyheads("doctor", "--json").stdout)
    assert diagnosis["versions"]["torch"]
    assert "fp32" in diagnosis["precisions"]["cpu"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract", "nowhere", "cache"], ["nowhere", "does not exist"]),
        (["fit-head", "nowhere", "runs"], ["nowhere", "recipe.json", "manyheads extract"]),
        (["evaluate", "nowhere"], ["nowhere", "manyheads fit-head"]),
        (["predict", "nowhere", "image.jpg"], ["nowhere", "run.json"]),
        (["cache", "info", "nowhere"], ["nowhere", "not a feature cache"]),
    ],
)
def test_what_is_missing_is_named_with_a_way_out(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = manyheads(*arguments, status=1)
    for word in words:
        assert word in failed.stderr
    assert failed.stdout == ""
    assert json.loads(manyheads(*arguments, "--json", status=1).stdout)["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "only-one"],
        ["extract", "a", "b", "--precision", "fp8"],
        ["fit-head", "a", "b", "--seeds", "9-0"],
        ["fit-head", "a", "b", "--seeds", "x"],
        ["fit-head", "a", "b", "--hidden", "84,63"],
        ["fit-head", "a", "b", "--set", "C"],
        ["fit-head", "a", "b", "--set", "jobs=3"],
        ["fit-head", "a", "b", "--head", "forest"],
        ["evaluate"],
        ["predict", "run", "image.png", "--csv", "--json"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: list[str]) -> None:
    assert "Error" in manyheads(*arguments, status=2).stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "cache", "info", str(tmp_path), "--debug"]
    assert "Traceback" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
