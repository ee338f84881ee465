"""Seeded damage: to bytes, to the values of JSON, to what an HDF5 file, a zip archive or a safetensors file holds.

Every function takes a `random.Random` and gives the same damage for the same state of it.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import h5py
import numpy as np

from cache.seal import SIZE, seal

EXTREMES = (0, 1, 2**7 - 1, 2**7, 2**8 - 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WAYS_OUT = ("../../../outside/canary", "/etc/passwd", "/dev/zero", "..", ".", "", "a/../../b", "a\0b", "~", "\\..\\x")
NAMES = (
    "os.system",
    "builtins.eval",
    "posix.system",
    "operator.call",
    "\ud800",
    "\x1b[2J",
    "\n",
    "e\u0301",
    "x" * 70_000,
)
NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**4000, 0.5, -0.0, 1e308, float("nan"), float("inf"))
DEEP = 3000  # levels of nesting


# Bytes


def damaged(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change bytes in one to four places; the result is never what it was.

    Args:
        rng: What the damage is drawn from.
        data: The bytes.
        others: Bytes of other files, pieces of which may be put in.
    """
    found = bytearray(data)
    while bytes(found) == data:
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(_EDITS)(rng, found, others)
    return bytes(found)


def _span(rng: Random, data: bytearray) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 100, 512, 4096)))


def _flip(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    width = rng.choice((1, 2, 4, 8))
    start = rng.randrange(len(data) + 1)
    data[start : start + width] = (rng.choice(EXTREMES) % 256**width).to_bytes(width, rng.choice(("little", "big")))


def _delete(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start, stop = _span(rng, data)
    del data[start:stop]


def _insert(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start, _ = _span(rng, data)
    data[start:start] = rng.randbytes(rng.choice((1, 4, 16, 300)))


def _double(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start, stop = _span(rng, data)
    data[start:start] = data[start:stop]


def _zero(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start, stop = _span(rng, data)
    data[start:stop] = bytes(stop - start)


def _cut(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _swap(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start, stop = _span(rng, data)
    second = rng.randrange(len(data) + 1)
    one, two = data[start:stop], data[second : second + stop - start]
    if len(one) == len(two):
        data[start:stop], data[second : second + len(two)] = two, one


def _splice(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = bytearray(rng.choice(others))
    start, stop = _span(rng, other)
    place = rng.randrange(len(data) + 1)
    data[place : place + rng.choice((0, stop - start))] = other[start:stop]


_EDITS: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _delete, _insert, _double, _zero, _cut, _swap, _splice),
)


# JSON


def damaged_json(rng: Random, content: bytes) -> bytes:
    """Change one to three values of a JSON document: their types, sizes, names, nesting."""
    document = [json.loads(content)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, key = _somewhere(rng, document)
        action = rng.randrange(6)
        if action == 0 and place is not document:
            del place[key]
        elif action == 1 and isinstance(place, dict):
            place[_strange(rng) if rng.random() < 0.5 else "another"] = place.pop(key)
        elif action == 2:
            other, name = _somewhere(rng, document)
            place[key] = json.loads(json.dumps(other[name]))
        elif action == 3 and isinstance(place[key], str):
            text = place[key]
            middle = rng.randrange(len(text) + 1)
            place[key] = text[:middle] + rng.choice((*WAYS_OUT, *NAMES, text)) + text[middle + rng.randrange(2) :]
        elif action == 3 and isinstance(place[key], int | float) and abs(place[key]) < 2**64:
            place[key] += rng.choice((1, -1, 0.5, 1000))
        else:
            place[key] = _value(rng)
    text = json.dumps(document[0]) if document else ""
    # What the encoder itself could not write.
    return text.replace(
        json.dumps(_NESTED), rng.choice(("[" * DEEP + "]" * DEEP, '{"a":' * 40 + "1" + "}" * 40))
    ).encode()


_NESTED = "here something nested goes"


def _somewhere(rng: Random, document: list[Any]) -> tuple[Any, Any]:
    """Return a container of a document, and the key or the number of one of its values."""
    place: Any = document
    key: Any = 0
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    return place, key


def _strange(rng: Random) -> str:
    return rng.choice((*WAYS_OUT, *NAMES))


def _value(rng: Random) -> Any:
    return rng.choice(
        (
            None,
            True,
            rng.choice(NUMBERS),
            _strange(rng),
            _NESTED,
            [],
            {},
            [_strange(rng), rng.choice(NUMBERS)],
            {_strange(rng): rng.choice(NUMBERS)},
            [0] * rng.choice((1, 100, 30_000)),
            ["a/b.png"] * 2,
        )
    )


# Files that hold several things


def damaged_safetensors(rng: Random, data: bytes) -> bytes:
    """Change a value of the header of a safetensors file, or of the JSON that stands in its metadata."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = data[8:start]
    said = json.loads(header).get("__metadata__", {})
    if said and rng.random() < 0.6:
        name = rng.choice(sorted(said))
        try:
            inner = damaged_json(rng, said[name].encode()).decode()
        except ValueError:  # no JSON, but a digest
            inner = rng.choice((said[name][::-1], "", "0" * 64))
        header = json.dumps({**json.loads(header), "__metadata__": {**said, name: inner}}).encode()
    else:
        header = damaged_json(rng, header)
    return len(header).to_bytes(8, "little") + header + data[start:]


def damaged_zip(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change an entry of a zip archive, its name, or how it is packed; the archive's own checksums are right again."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    texts = [number for number, (_, text) in enumerate(entries) if text[:1] == b"{"]
    place = rng.randrange(len(entries))
    name, content = entries[place]
    action = rng.choice((0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 6))
    if action == 0:
        edited = bytearray(content)
        rng.choice((_flip, _overwrite, _zero))(rng, edited, others)
        entries[place] = (name, bytes(edited))
    elif action == 1 and texts:
        name, content = entries[texts[0]]
        entries[texts[0]] = (name, damaged_json(rng, content))
    elif action == 2:
        entries[place] = (rng.choice((*WAYS_OUT, "data.pkl", name.upper())).replace("\0", "0"), content)
    elif action == 3:
        entries.append((name, damaged(rng, content, others)))
    elif action == 4:
        entries[place] = (name, content + bytes(20_000_000))
    elif action == 5:
        del entries[place]
    else:
        entries[place] = (name, damaged(rng, content, others))
    kind = zipfile.ZIP_DEFLATED if action == 4 or rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(packed, "w", kind) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)  # of one date, so that the same damage is the same bytes
            info.compress_type = kind
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name that comes twice
                archive.writestr(info, content)
    return packed.getvalue()


def resealed(kind: str, data: bytes) -> bytes:
    """Give a damaged HDF5 file of a cache the seal that belongs to it as it is now."""
    return seal(kind, data[SIZE:]) + data[SIZE:]


def damaged_hdf5(rng: Random, kind: str, data: bytes) -> bytes:
    """Change what an HDF5 file of a cache holds by HDF5's own means, and seal it again."""
    image = io.BytesIO(data)
    with h5py.File(image, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = rng.choice(names)
        if rng.random() < 0.3:
            _change_values(rng, file, name)
        else:
            old, attributes = file[name], dict(file.attrs)
            shape, kept = old.shape, old[()] if not old.is_virtual else np.zeros(old.shape, old.dtype)
            del file[name], old
            rng.choice(_REPLACEMENTS)(rng, file, name, shape, kept)
            if rng.random() < 0.2 and attributes:
                file.attrs[next(iter(attributes))] = rng.choice((0, "", "x" * 64, np.bytes_(b"0" * 64), np.zeros(9)))
    return resealed(kind, image.getvalue())


def _change_values(rng: Random, file: h5py.File, name: str) -> None:
    """Put other values of the same type in place."""
    old = file[name]
    if name == "listing":
        text = damaged_json(rng, old[()])
        del file[name]
        file[name] = np.bytes_(text or b"x")
    elif old.size and not old.is_virtual and old.ndim:
        row, kind = rng.randrange(len(old)), old.dtype.kind
        if kind == "f":
            old[row] = rng.choice((np.nan, np.inf, -1.0, 0.0))
        elif kind in "iu":
            old[row] = rng.choice((0, 1, 2, 60_000))
        else:
            old[row] = rng.choice((b"", b"0" * 64, b"../../../outside/canary", b"\xff\xfe"))


Replacement = Callable[[Random, h5py.File, str, tuple[int, ...], Any], None]


def _other_shape(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    file[name] = np.zeros(rng.choice(((), (0,), (1,), (7, 3), (*shape, 1), shape[::-1])))


def _never_written(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    huge = rng.choice((shape, (2**40,), (2**20, 2**20), (10**6, 512)))
    chunks = tuple(min(side, 64) for side in huge) if huge and all(huge) else None
    file.create_dataset(name, huge, dtype=rng.choice(("f4", "f8", "S64", "u2")), chunks=chunks, fillvalue=None)


def _packed(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    bomb = rng.random() < 0.5 or not shape
    values = np.zeros((4_000_000,), "u1") if bomb else kept
    packing = rng.choice(
        (
            {"compression": "gzip"},
            {"compression": "gzip", "fletcher32": True},
            {"shuffle": True},
            {"scaleoffset": 0},
            {"compression": "lzf"},
        )
    )
    if "scaleoffset" in packing and np.asarray(values).dtype.kind not in "iu":
        packing = {"compression": "gzip"}
    file.create_dataset(name, data=values, chunks=True, **packing)


def _link(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    other = rng.choice(("/etc/passwd", "../../outside/canary", "index.h5", "shards"))
    file[name] = rng.choice(
        (h5py.ExternalLink(other, "/features"), h5py.SoftLink(f"/{name}"), h5py.SoftLink("/digests"))
    )


def _elsewhere(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    file.create_dataset(name, shape or (8,), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    layout = h5py.VirtualLayout(shape or (4,), "f4")
    layout[...] = h5py.VirtualSource(rng.choice((".", "/etc/passwd", "index.h5")), name, shape or (4,))
    file.create_virtual_dataset(name, layout)


def _other_kind(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    kind = rng.choice((h5py.string_dtype(), h5py.vlen_dtype("i4"), h5py.ref_dtype, np.dtype([("a", "i4")]), "c8", "V7"))
    file.create_dataset(name, shape, dtype=kind)


def _group(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    group = file.create_group(name)
    group["again"] = rng.choice((file, group))  # a circle


def _gone(rng: Random, file: h5py.File, name: str, shape: tuple[int, ...], kept: Any) -> None:
    file["another name"] = kept


_REPLACEMENTS: tuple[Replacement, ...] = (
    *(_other_shape, _never_written, _packed, _link, _elsewhere, _virtual, _other_kind, _group, _gone),
)
