"""Every path of two listings is told once: as new, renamed, changed or removed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Entry
from pipeline.changes import Changes

listings = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("12345"))


@settings(max_examples=300, deadline=None)
@given(listings, listings)
def test_every_path_is_accounted_for_once(before: dict[str, str], after: dict[str, str]) -> None:
    old, new = ([Entry(path, "x", digest) for path, digest in side.items()] for side in (before, after))
    told = Changes.between(old, new)
    come, gone = after.items() - before.items(), before.items() - after.items()
    assert told.new + told.renamed + told.changed == len(come)
    assert told.removed + told.renamed + told.changed == len(gone)
    assert min(told.new, told.renamed, told.changed, told.removed) >= 0
    back = Changes.between(new, old)
    assert back == Changes(told.removed, told.renamed, told.changed, told.new)


@settings(max_examples=100, deadline=None)
@given(st.permutations("abcdef"))
def test_names_that_change_places_are_renamed(names: list[str]) -> None:
    before = [Entry(path, "x", path) for path in "abcdef"]
    after = [Entry(path, "x", digest) for path, digest in zip("abcdef", names, strict=True)]
    assert Changes.between(before, after) == Changes(0, sum(entry.path != entry.digest for entry in after), 0, 0)
