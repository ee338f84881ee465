"""Each image is in one part, the same call gives the same parts, and what does not fit is refused in full."""

import csv
import hashlib
import os
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import Entry, Index
from pipeline.errors import SplitError
from pipeline.image_set import fingerprint, read_image_set
from pipeline.split import LIMIT, NAMES, PAPER_TEST, PAPER_VAL, Split, make_split, part_digest

Line = Sequence[str]


def index_of(counts: Mapping[str, int], parts: Sequence[str] = ("",)) -> Index:
    """Images CLASS/CLASS00.jpg …, all different, with parts dealt in turn."""
    entries = []
    for label in sorted(counts):
        for number in range(counts[label]):
            path = f"{label}/{label}{number:02d}.jpg"
            digest = hashlib.sha256(path.encode()).hexdigest()
            entries.append(Entry(path, label, digest, parts[number % len(parts)]))
    return Index(tuple(entries), tuple(sorted(counts)), (), "/data/images", "c" * 64)


def counts(index: Index, split: Split) -> dict[str, Counter[str]]:
    return {part: Counter(index.entries[row].label for row in split.rows[part]) for part in NAMES}


def refusal(index: Index, split: str | Path | None = None) -> str:
    with pytest.raises(SplitError) as caught:
        make_split(index, split)
    return str(caught.value)


def csv_of(
    path: Path, lines: Sequence[Line], header: Line = ("path", "label", "split"), encoding: str = "utf-8"
) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def lines_of(index: Index, parts: Sequence[str]) -> list[list[str]]:
    """Lines of a CSV that fits an index."""
    return [[entry.path, entry.label, parts[row % len(parts)]] for row, entry in enumerate(index.entries)]


SMALL = index_of({"a": 4, "b": 4})


# The image set's own


def test_own_is_what_the_image_set_came_with_and_the_default_there() -> None:
    index = index_of({"a": 5, "b": 5}, ["train", "train", "val", "test", "train"])
    split = make_split(index)
    assert split == make_split(index, "own")
    assert split.source == "the image set's own"
    assert split.rows == {"train": (0, 1, 4, 5, 6, 9), "val": (2, 7), "test": (3, 8)}
    assert make_split(index, "60/20/20").source == "60/20/20, seed 0"


def test_own_needs_parts() -> None:
    assert "no split of its own (8 of 8 images are in no train/, val/ or test/ folder)" in refusal(SMALL, "own")


def test_from_folders_to_parts(tmp_path: Path) -> None:
    for path in ("train/a/1", "train/b/2", "valid/a/3", "test/b/4"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / f"{path}.jpg").write_text(path)
    found = read_image_set(tmp_path)
    index = Index(fingerprint(found).entries, found.classes, (), str(tmp_path), "c" * 64)
    split = make_split(index)
    assert {part: [index.entries[row].path for row in split.rows[part]] for part in NAMES} == {
        "train": ["train/a/1.jpg", "train/b/2.jpg"],
        "val": ["valid/a/3.jpg"],
        "test": ["test/b/4.jpg"],
    }


# The paper's


def test_the_papers_numbers_are_two_tens_apart() -> None:
    assert len(PAPER_TEST) == len(PAPER_VAL) == 10
    assert not PAPER_TEST & PAPER_VAL
    assert set(range(100)) >= PAPER_TEST | PAPER_VAL


def test_the_papers_split_takes_the_same_numbers_in_every_class() -> None:
    index = index_of({"agricultural": 100, "beach": 100, "runway": 100})
    split = make_split(index, "paper")
    assert split.source == "paper"
    found = counts(index, split)
    assert found["train"] == Counter(agricultural=80, beach=80, runway=80)
    assert found["val"] == found["test"] == Counter(agricultural=10, beach=10, runway=10)
    for part, wanted in (("val", PAPER_VAL), ("test", PAPER_TEST)):
        assert {row % 100 for row in split.rows[part]} == wanted
    assert make_split(index, "paper", seed=7) == split


@pytest.mark.parametrize("name", ["a/other00.jpg", "a/a0.jpg", "a/a000.jpg", "a/a_01.jpg", "a/A00.jpg"])
def test_the_papers_split_needs_the_papers_names(name: str) -> None:
    entries = (replace(SMALL.entries[0], path=name), *SMALL.entries[1:])
    message = refusal(replace(SMALL, entries=entries), "paper")
    assert f"but 1 of 8 images are named otherwise: {name}. Ask for another split" in message


@pytest.mark.real
def test_the_papers_split_is_that_of_the_papers_list(real_data: Path) -> None:
    found = read_image_set(real_data / "ucmerced")
    index = Index(fingerprint(found).entries, found.classes, (), str(found.root), "c" * 64)
    listed, paper = make_split(index, real_data / "ucmerced-paper-split.csv"), make_split(index, "paper")
    assert paper.rows == listed.rows
    assert paper.digests == listed.digests
    assert {part: len(rows) for part, rows in paper.rows.items()} == {"train": 1680, "val": 210, "test": 210}


# A drawn one


@given(
    sizes=st.lists(st.integers(30, 60), min_size=2, max_size=5),
    shares=st.sampled_from(["80/10/10", "70/15/15", "60/20/20", "8/1/1", "50/25/25", "33.3/33.3/33.4", "90/0/10"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_draw_is_stratified_disjoint_complete_and_repeatable(sizes: list[int], shares: str, seed: int) -> None:
    index = index_of({f"class{number}": size for number, size in enumerate(sizes)})
    split = make_split(index, shares, seed)
    assert split == make_split(index, shares, seed)
    rows = [row for part in NAMES for row in split.rows[part]]
    assert sorted(rows) == list(range(len(index.entries)))
    assert all(list(split.rows[part]) == sorted(split.rows[part]) for part in NAMES)
    weights = [float(share) for share in shares.split("/")]
    for part, weight in zip(NAMES, weights, strict=True):
        for label, size in Counter(entry.label for entry in index.entries).items():
            assert abs(counts(index, split)[part][label] - size * weight / sum(weights)) < 2


def test_a_draw_of_equal_classes_is_exact() -> None:
    index = index_of({"a": 100, "b": 100, "c": 100})
    found = counts(index, make_split(index))
    assert found == {
        "train": Counter(a=80, b=80, c=80),
        "val": Counter(a=10, b=10, c=10),
        "test": Counter(a=10, b=10, c=10),
    }


def test_the_seed_and_only_the_seed_changes_a_draw() -> None:
    index = index_of({"a": 50, "b": 50})
    drawn = {make_split(index, "80/10/10", seed).digests["test"] for seed in range(20)}
    assert len(drawn) == 20
    # Names and counts decide, not what is in the images.
    other = replace(index, entries=tuple(replace(entry, digest=entry.digest[::-1]) for entry in index.entries))
    assert make_split(other).rows == make_split(index).rows


def test_shares_are_of_any_scale_and_one_may_be_0() -> None:
    index = index_of({"a": 50, "b": 50})
    assert (
        make_split(index, "80/10/10").rows == make_split(index, "8/1/1").rows == make_split(index, "0.8/0.1/0.1").rows
    )
    assert [len(make_split(index, "80/0/20").rows[part]) for part in NAMES] == [80, 0, 20]
    assert [len(make_split(index, "80/20/0").rows[part]) for part in NAMES] == [80, 20, 0]
    assert make_split(index, "80/0/20").notes == ("the split has no val part",)
    assert make_split(index, "80/20/0").notes == ("the split has no test part",)
    for nothing in ("100/0/0", "0/50/50", "0/0/0"):
        assert "leaves nothing to train or to test" in refusal(index, nothing)


def test_classes_that_are_too_small_to_be_drawn_from_are_explained() -> None:
    for size in (1, 5):
        message = refusal(index_of({"rare": size, "common": 90}))
        assert f"the smallest, rare, has {size}" in message
        assert "60/20/20" in message
    assert "All 50 images are of one class" in refusal(index_of({"a": 50}))
    assert "cannot be drawn" in refusal(index_of({"a": 50, "b": 50}), "99.99/0.01/0")


# A CSV


def test_a_csv_says_which_image_is_in_which_part(tmp_path: Path) -> None:
    lines = lines_of(SMALL, ["train", "val", "test", "unused"])
    path = csv_of(tmp_path / "split.csv", lines[::-1])
    split = make_split(SMALL, path)
    assert split == make_split(SMALL, str(path), seed=7)
    assert split.source == str(path)
    assert split.rows == {"train": (0, 4), "val": (1, 5), "test": (2, 6)}
    assert split.notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_csv_from_a_spreadsheet(tmp_path: Path, encoding: str, val: str) -> None:
    index = index_of({"forêt, dense": 3, "森\n林": 3})
    lines = [[*line, "ignored"] for line in lines_of(index, ["train", val, "test"])]
    path = csv_of(tmp_path / "split.csv", lines, ("path", "label", "split", "note"), encoding)
    assert make_split(index, path).rows == {"train": (0, 3), "val": (1, 4), "test": (2, 5)}


def test_all_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    lines = lines_of(SMALL, ["train"])
    del lines[7]
    lines += [["a/a00.jpg", "a", "test"], ["c/c00.jpg", "c", "train"]]
    lines[1][1], lines[2][2] = "b", "Train"
    assert refusal(SMALL, csv_of(tmp_path / "split.csv", lines)) == (
        f"The split {tmp_path}/split.csv does not fit the images. "
        "1 listed more than once: a/a00.jpg; "
        "1 in a part other than train, val, test, unused: a/a02.jpg (Train); "
        "1 not in the image set: c/c00.jpg; "
        "1 of another class: a/a01.jpg (b, here a); "
        "1 in the image set but not listed (say 'unused' to leave one out): b/b03.jpg."
    )


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    index = index_of({"a": 30, "b": 30})
    message = refusal(index, csv_of(tmp_path / "split.csv", lines_of(index, ["train"])[:30]))
    assert "30 in the image set but not listed" in message
    assert message.endswith("b/b07.jpg and 22 more.")


def test_an_image_that_could_not_be_read_may_be_listed(tmp_path: Path) -> None:
    index = replace(SMALL, skipped=(("a/broken.jpg", "the file is empty"),))
    path = csv_of(tmp_path / "split.csv", [*lines_of(index, ["train", "test"]), ["a/broken.jpg", "a", "train"]])
    assert make_split(index, path).rows == make_split(SMALL, csv_of(path, lines_of(SMALL, ["train", "test"]))).rows


def test_short_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(
        "label,split,path\n" + "".join(f"{label},{part},{name}\n" for name, label, part in lines_of(SMALL, ["train"]))
    )
    with path.open("a") as file:
        file.write("a\n")
    assert "1 in a part other than train, val, test, unused:  ()" in refusal(SMALL, path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "needs the columns path, label and split, each once; it has none."),
        (b"\n\r\n", "needs the columns path, label and split, each once; it has none."),
        (b"path,label\n", "needs the columns path, label and split, each once; it has path, label."),
        (b"path,label,split,label\n", "each once; it has path, label, split, label."),
        (b'path,label,split\n"a/a00.jpg,a,train\n', "cannot be read as CSV: unexpected end of data"),
        (b'path,label,split\n"a"b,a,train\n', "cannot be read as CSV: ',' expected after"),
        (b"path,label,split\na/a0\x000.jpg,a,train\n", ""),
        (b"path;label;split\n", "it has path;label;split."),
        ("path,label,split\n".encode("utf-16"), "cannot be read as CSV"),
        (b"path,label,split\n\xff,a,train\n", "cannot be read as CSV"),
        (b"path,label,split\n" + b"x" * 200_000, "cannot be read as CSV: field larger than field limit"),
    ],
)
def test_what_is_no_such_csv(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(content)
    message = refusal(SMALL, path)
    assert str(path) in message
    assert reason in message


@pytest.mark.parametrize("name", ["missing.csv", "80/10", "80/10/10/0", "-80/10/10", "Paper"])
def test_what_is_no_split_at_all(name: str) -> None:
    assert f"The split '{name}' is neither shares like 80/10/10, nor 'paper' or 'own', nor a file" in refusal(
        SMALL, name
    )


def test_a_folder_is_no_split(tmp_path: Path) -> None:
    assert "cannot be read as CSV" in refusal(SMALL, tmp_path)
    assert "cannot be read as CSV: embedded null byte" in refusal(SMALL, f"{tmp_path}\0")


def test_a_pipe_is_not_waited_for_and_a_huge_file_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert "cannot be read as CSV: it is no regular file" in refusal(SMALL, tmp_path / "pipe.csv")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(LIMIT + 1)
    assert "such a file has at most 268 MB" in refusal(SMALL, tmp_path / "huge.csv")


def test_many_columns_and_many_short_lines_are_not_multiplied(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("path,label,split," + ",".join(map(str, range(100_000))) + "\n" + "x\n" * 100_000)
    tracemalloc.start()
    try:
        message = refusal(SMALL, path)
        assert tracemalloc.get_traced_memory()[1] < 100 * path.stat().st_size
    finally:
        tracemalloc.stop()
    assert "8 in the image set but not listed" in message


def test_what_is_refused_is_told_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("path,label,split\n" + "".join(f"{str(row) * 20_000},a,train\n" for row in range(9)))
    assert len(refusal(SMALL, path)) < 8000
    path.write_text("x" * 100_000)
    assert len(refusal(SMALL, path)) < 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.lists(
        st.lists(st.sampled_from(["a/a00.jpg", "b/b00.jpg", "a", "b", "train", "valid", "unused", '"', "\0", "\r"])),
        max_size=9,
    ).map(lambda lines: "\n".join(",".join(line) for line in [["path", "label", "split"], *lines]).encode())
)
def test_any_content_gives_a_split_or_a_refusal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "split.csv").write_bytes(content)
    index = index_of({"a": 1, "b": 1})
    try:
        split = make_split(index, tmp_path / "split.csv")
    except SplitError:
        return
    rows = [row for part in NAMES for row in split.rows[part]]
    assert len(set(rows)) == len(rows) <= 2


# What every split must be


def test_a_head_needs_two_classes_that_it_is_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    lines = lines_of(SMALL, ["train", "val", "test", "test"])
    assert "has no training images" in refusal(SMALL, csv_of(path, [[*line[:2], "test"] for line in lines]))
    one = [[name, label, "unused" if label == "b" else part] for name, label, part in lines]
    assert "trains on 1 class; a classifier needs at least two" in refusal(SMALL, csv_of(path, one))
    for part in ("val", "test"):
        unseen = [[name, label, part if label == "b" else "train"] for name, label, _ in lines]
        assert f"has images in {part} of classes that have none in train: b" in refusal(SMALL, csv_of(path, unseen))


def test_the_same_bytes_in_two_parts_are_noted(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "split.csv", lines_of(SMALL, ["train", "train", "val", "test"]))
    same = {2: 0, 6: 0, 7: 1, 5: 4}  # a2 and b2 are a0; b3 is a1; b1 is b0, and both are in train
    entries = tuple(
        replace(entry, digest=SMALL.entries[same.get(row, row)].digest) for row, entry in enumerate(SMALL.entries)
    )
    assert make_split(replace(SMALL, entries=entries), path).notes == (
        "2 of 2 val images are also in train, byte for byte: a/a02.jpg, b/b02.jpg",
        "1 of 2 test images is also in train, byte for byte: b/b03.jpg",
    )


# The digest of a part

entries = st.lists(
    st.builds(
        Entry,
        path=st.text("ab/\n", min_size=1, max_size=4),
        label=st.text("ab\n", min_size=1, max_size=3),
        digest=st.integers(0, 3).map(lambda number: f"{number:064x}"),
        part=st.sampled_from(["", "train"]),
    ),
    max_size=5,
)


@given(entries, entries)
def test_parts_have_one_digest_exactly_if_they_have_the_same_images(one: list[Entry], two: list[Entry]) -> None:
    def images(part: list[Entry]) -> list[tuple[str, str, str]]:
        return sorted((entry.path, entry.label, entry.digest) for entry in part)

    assert (part_digest(one) == part_digest(two)) == (images(one) == images(two))


@given(entries.flatmap(lambda part: st.tuples(st.just(part), st.permutations(part))))
def test_the_digest_of_a_part_does_not_depend_on_order(parts: tuple[list[Entry], list[Entry]]) -> None:
    assert part_digest(parts[0]) == part_digest(parts[1])


def test_the_digest_changes_with_any_path_class_or_content() -> None:
    whole = part_digest(SMALL.entries)
    changed = {
        part_digest((*SMALL.entries[:row], replace(SMALL.entries[row], **{field: "0" * 64}), *SMALL.entries[row + 1 :]))
        for row in range(8)
        for field in ("path", "label", "digest")
    }
    assert len(changed) == 24
    assert whole not in changed
    assert part_digest(SMALL.entries[1:]) not in {whole, *changed}


def test_the_digests_of_a_split_are_those_of_its_parts() -> None:
    index = index_of({"a": 20, "b": 20})
    split = make_split(index)
    assert split.digests == {part: part_digest(index.entries[row] for row in split.rows[part]) for part in NAMES}
    assert len(set(split.digests.values())) == 3
