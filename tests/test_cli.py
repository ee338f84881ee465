"""The commands as a user types them, in a process of their own: `python cli.py …`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from markdown_it import MarkdownIt

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


def in_process(*arguments: str | Path, status: int = 0) -> Result:
    """Run a command in this process: quicker, where nothing depends on a process of its own."""
    done = CliRunner().invoke(cli.main, [*map(str, arguments)], terminal_width=80)
    assert done.exit_code == status, done.output
    return done


def run_in_process(*arguments: str | Path) -> str:
    return f"import cli; cli.main({[str(argument) for argument in arguments]!r}, standalone_mode=False)"


def test_help_and_wrong_usage_import_nothing_heavy() -> None:
    assert imported(run_in_process("--help")) == set()
    for name in ("fit-head", "fit-scratch", "reproduce"):
        assert imported(run_in_process(name, "--help")) == set()
    wrong = f"try:\n {run_in_process('fit-head', 'a', 'b', '--grid', 'lr')}\nexcept Exception as error: print(error)"
    assert imported(wrong) == set()


def test_a_second_extraction_and_cache_info_import_neither_torch_nor_sklearn(drawn: Path, cache: Path) -> None:
    assert imported(run_in_process("cache", "info", cache)) == set()
    assert imported(run_in_process("extract", drawn, cache, "--base", BASE, "--weights", WEIGHTS)) == set()


def test_the_version_is_told() -> None:
    assert manyheads("--version").stdout.startswith("manyheads ")


def test_every_command_explains_itself() -> None:
    text = in_process("--help").stdout
    for name, command in cli.main.commands.items():
        shown = in_process(name, "--help").stdout
        assert f"Usage: {cli.main.name} {name}" in shown
        assert f"  {name} " in text
        assert command.help
        assert command.help.splitlines()[0].rstrip(".") in " ".join(shown.split())


def test_the_help_fits_a_terminal_of_80_columns_and_no_line_is_cut() -> None:
    for arguments in ([], *([name] for name in cli.main.commands), ["cache", "info"]):
        shown = in_process(*arguments, "--help").stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert not [line for line in shown.splitlines() if line.endswith("...") and not line.startswith("Usage: ")]


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit-head", "a", "b", "--grid", "lr"],
        ["fit-head", "a", "b", "--grid", "lr=1", "--grid", "lr=2"],
        ["fit-head", "a", "b", "--grid", "split=paper,own"],
        ["fit-head", "a", "b", "--grid", "grid=1"],
        ["fit-head", "a", "b", "--lr", "1", "--grid", "lr=1,2"],
        ["fit-head", "a", "b", "--set", "C=1", "--grid", "C=1,2"],
        ["fit-head", "a", "b", "--set", "C=1", "--set", "C=2"],
        ["fit-head", "a", "b", "--use-views", "0"],
        ["fit-scratch", "only-one"],
        ["fit-scratch", "a", "b", "--image-size", "31"],
        ["fit-scratch", "a", "b", "--precision", "fp8"],
        ["fit-scratch", "a", "b", "--augment", "some"],
        ["fit-scratch", "a", "b", "--workers", "-1"],
        ["fit-mlp", "only-one"],
        ["fit-mlp", "a", "b", "--image-size", "0"],
        ["fit-mlp", "a", "b", "--hidden", "84,63"],
        ["reproduce", "only-one"],
        ["reproduce", "a", "b", "--views", "0"],
        ["reproduce", "a", "b", "--epochs", "0"],
        ["reproduce", "a", "b", "--mlp-seeds", "x"],
        ["reproduce", "a", "b", "--scratch-image-size", "8"],
        ["reproduce", "a", str(ROOT / "cli.py")],
        ["evaluate", "a", "--images", str(ROOT / "cli.py")],
    ],
)
def test_wrong_usage_of_later_commands_ends_with_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = in_process(*arguments, status=2)
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit-scratch", "nowhere", "OUT"], ["nowhere", "does not exist"]),
        (["fit-mlp", "nowhere", "OUT"], ["nowhere", "does not exist"]),
        (["reproduce", "nowhere", "OUT"], ["nowhere", "does not exist"]),
        (["reproduce", "IMAGES", "OUT"], ["paper's split", "--split 80/10/10"]),
        (["reproduce", "IMAGES", "OUT", "--split", "own"], ["no split of its own", "--split 80/10/10"]),
        (["reproduce", "IMAGES", "OUT", "--split", "60/20/20", "--base", "vgg61"], ["vgg61", "did you mean", "vgg16"]),
        (["fit-scratch", "IMAGES", "OUT", "--split", "98/1/1"], ["every part needs an image of each class"]),
        (["fit-mlp", "IMAGES", "OUT", "--split", "60/20/20", "--lr", "-1"], ["lr must be a number above 0"]),
        (["fit-head", "CACHE", "OUT", "--grid", "rate=1,2"], ["no parameter 'rate'"]),
        (["fit-head", "CACHE", "OUT", "--split", "60/20/20", "--grid", "lr=1,0.1,1"], ["must be different"]),
        (["fit-head", "CACHE", "OUT", "--split", "60/0/40", "--grid", "lr=1"], ["never chosen on test images"]),
        (["fit-head", "CACHE", "OUT", "--split", "60/20/20", "--use-views", "2"], ["views", "extract"]),
    ],
)
def test_failures_of_later_commands_are_one_paragraph(
    arguments: list[str], words: list[str], drawn: Path, extracted: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(drawn, tmp_path / "images"))
    next(images.glob("beach/*")).rename(images / "beach" / "holiday.png")
    places = {"IMAGES": str(images), "CACHE": str(extracted), "OUT": str(tmp_path / "out")}
    given = [places.get(word, word) for word in arguments]
    failed = in_process(*given, status=1)
    assert failed.stdout == ""
    *notes, said = failed.stderr.splitlines()
    assert said.startswith("Error: ")
    assert not any("Error" in note or "Traceback" in note for note in notes)
    for word in words:
        assert word in said
    document = json.loads(in_process(*given, "--json", status=1).stdout)
    assert said == f"Error: {document['error']}"


def test_a_grid_ranks_and_says_what_fits_the_winner(extracted: Path, tmp_path: Path) -> None:
    options = ["--split", "60/20/20", "--seeds", "0-1", "--epochs", "3", "--jobs", "1"]
    axes = ["--grid", "lr=1e-3,1e-2", "--grid", "hidden=16-8,none"]
    shown = in_process("fit-head", extracted, tmp_path, *options, *axes).stdout
    assert "test images were not looked at" in shown
    assert "4 combinations, 2 seeds each: 8 runs fitted" in shown
    assert "│ none " in shown
    (line,) = re.findall("^fits the best: manyheads (.*)$", shown, flags=re.MULTILINE)
    assert "0 runs fitted, 2 kept" in in_process(*shlex.split(line)).stdout
    document = json.loads(in_process("fit-head", extracted, tmp_path, *options, *axes, "--json").stdout)
    assert document["fitted"] == 0
    assert len(document["candidates"]) == 4
    assert document["winner"]["name"] == document["candidates"][0]["name"]
    assert in_process("fit-head", extracted, tmp_path, *options, *axes, "--quiet").output == ""


def test_a_baseline_is_fitted_and_its_images_may_move(images: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    options = ["--split", "60/20/20", "--seeds", "0", "--epochs", "2", "--image-size", "8", "--jobs", "1"]
    assert "1 run fitted, 0 kept" in in_process("fit-mlp", images, runs, *options).stdout
    again = json.loads(in_process("fit-mlp", images, runs, *options, "--json").stdout)
    assert (again["fitted"], again["runs"][0]["head"], again["runs"][0]["name"]) == (0, "pixel-mlp", "pixel-mlp")
    moved = images.rename(tmp_path / "moved")
    assert "--images" in in_process("evaluate", runs, status=1).stderr
    document = json.loads(in_process("evaluate", runs, "--images", moved, "--json").stdout)
    assert [name["name"] for name in document["names"]] == ["pixel-mlp"]


@pytest.mark.slow  # VGG16 is trained, if only for an epoch
def test_vgg16_is_trained_from_scratch(drawn: Path, tmp_path: Path) -> None:
    options = ["--split", "60/20/20", "--seeds", "3", "--epochs", "1", "--image-size", "32", "--device", "cpu"]
    shown = in_process("fit-scratch", drawn, tmp_path, *options, "--augment", "none", "--precision", "fp32")
    assert "1 run fitted, 0 kept" in shown.stdout
    assert "checkpoint" in shown.stderr
    assert f"next: manyheads evaluate {tmp_path}" in shown.stdout
    assert "test, 6 images" in in_process("evaluate", tmp_path / "scratch" / "seed-0003").stdout


@pytest.mark.slow  # a whole reproduction
def test_the_paper_is_reproduced_whatever_images_are_called(drawn: Path, tmp_path: Path) -> None:
    images, out = Path(shutil.copytree(drawn, tmp_path / "images")), tmp_path / "out"
    hostile = images / "<script>alert(1)|*x*"
    (images / "beach").rename(hostile)
    for number, path in enumerate(sorted(hostile.iterdir())):  # ten times the same picture: some are in test and train
        shutil.copy(drawn / "beach" / "beach00.png", hostile / f"`{number}`|\"<b>'__.png")
        path.unlink()
    (images / "forest" / "torn.png").write_bytes(b"no picture")
    command = [
        "reproduce",
        str(images),
        str(out),
        "--base",
        BASE,
        "--weights",
        WEIGHTS,
        "--views",
        "2",
        "--seeds",
        "0,1",
    ]
    command += ["--mlp-seeds", "0", "--epochs", "2", "--image-size", "32", "--split", "60/20/20", "--device", "cpu"]
    failed = in_process(*command, status=1)
    assert "torn.png" in failed.stderr
    assert "--on-error skip" in failed.stderr

    command += ["--on-error", "skip", "--jobs", "1"]
    document = json.loads(manyheads(*command, "--paper-metric", "--json").stdout)
    assert [row["name"] for row in document["rows"]] == ["pretrained", "scratch", "pixel-mlp"]
    assert document["rows"][0]["corrected"] == [187 / 210]
    page = (out / "README.md").read_text(encoding="utf-8")
    read = MarkdownIt("commonmark").enable("table").parse(page)
    found = [inner for outer in read for inner in (outer.children or [outer])]
    assert not [token for token in found if token.type.startswith("html")]
    assert r"<script>alert(1)|*x*/`" in "".join(token.content for token in found if token.type == "text")
    assert "could not be read" in page

    shown = in_process(*command).stdout
    assert "Table III, accuracy on 6 test images" in shown
    assert "what differs from the paper:" in shown
    assert "mean of batch means" not in (out / "README.md").read_text(encoding="utf-8")
    assert "--on-error skip" in (out / "README.md").read_text(encoding="utf-8")
