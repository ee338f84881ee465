"""Real files of every kind that is read, how each is damaged, and what is called to read it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import FeatureCache
from cache.description import describe
from cache.export import export
from cache.lock import LOCK, Holder
from cache.pruning import prune
from cache.recipe import Recipe, _sha256
from cache.verification import verify
from pipeline.checkpoint import DIGEST, ENTRY, Checkpoint, _digest
from pipeline.evaluation import evaluate
from pipeline.heads.storage import load_model
from pipeline.planning import Source, make_plan
from pipeline.prediction import predict
from pipeline.recomputation import recompute
from pipeline.run import Run
from pipeline.run_places import find_runs
from pipeline.scenes import draw_scene
from pipeline.split import NAMES, make_split
from pipeline.stored_predictions import stored_predictions
from pipeline.weights import WeightsSource, load_state, tensor_digest
from tests.faults.mutations import (
    NAMES as NAMES_OF_ALL_KINDS,
)
from tests.faults.mutations import (
    WAYS_OUT,
    damaged,
    damaged_hdf5,
    damaged_json,
    damaged_safetensors,
    damaged_zip,
    resealed,
)
from tests.faults.sandbox import WRITABLE, Damaged, Files, Kind, Reader

MLP, KNN = "runs/mlp/seed-0000", "runs/knn/seed-0000"
CHECKPOINT, SPLIT = "training/.seed-0000.checkpoint.safetensors", "split.csv"


def build(folder: Path, cache: Path, runs: Path) -> None:
    """Lay out a world: one file or more of every kind.

    Args:
        folder: Where; it must not exist.
        cache: A finished cache.
        runs: Runs of `mlp` and `knn` that were fitted from it with the split 60/20/20.
    """
    import torch
    from safetensors.torch import save_file

    shutil.copytree(cache, folder / "cache")
    (folder / "cache" / LOCK).write_bytes(Holder("another-machine", 4711, "2025-01-01 00:00:00").line)
    for name in (MLP, KNN):
        shutil.copytree(runs / Path(name).relative_to("runs"), folder / name)
    for run in find_runs([folder / "runs"]):
        replace(run, cache=str((folder / "cache").absolute())).write(run.path)
    evaluate(folder / "runs")
    run = Run.read(folder / MLP)
    tensors = {"last.a": torch.arange(600.0).reshape(20, 30), "adam.0.step": torch.tensor(7.0)}
    Checkpoint(run, 2, {**tensors, "best.a": tensors["last.a"] + 1}).write(folder / CHECKPOINT)
    lines = [f"{path},{path.split('/')[0]},{part}" for part in NAMES for path in run.images[part]]
    (folder / SPLIT).write_text("\n".join(["path,label,split", *lines, ""]), encoding="utf-8")
    (folder / "weights").mkdir()
    draw_scene("beach", 0, 64).save(folder / "image.png")
    state = {"features.0.weight": torch.arange(108.0).reshape(4, 3, 3, 3), "features.0.bias": torch.ones(4).half()}
    torch.save(state, folder / "weights/zip.pth")
    torch.save(state, folder / "weights/legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "weights/plain.safetensors", {"format": "pt"})


# What is called; equal results have equal texts


def _hashed(numbers: npt.NDArray[Any]) -> object:
    return numbers.dtype, numbers.shape, hashlib.sha256(numbers.tobytes()).hexdigest()


def _recipe(world: Path) -> object:
    cache = FeatureCache.open(world / "cache")
    return cache.recipe.as_dict(), cache.made_from


def _index(world: Path) -> object:
    index = FeatureCache.open(world / "cache").index()
    return index, index.labels.tolist()


def _shards(world: Path) -> object:
    return [(shard.digests, shard.views, shard.failures) for shard in FeatureCache.open(world / "cache").shards()]


def _features(world: Path) -> object:
    cache = FeatureCache.open(world / "cache")
    return _hashed(cache.read([entry.digest for entry in cache.index().entries]))


def _described(world: Path) -> object:
    return {**asdict(describe(world / "cache")), "size": None, "unused_size": None}


def _planned(world: Path) -> object:
    """What `fit-head` does with a cache before it fits."""
    source = Source.of_cache(FeatureCache.open(world / "cache"))
    split = make_split(source.index, "60/20/20")
    options: dict[str, Any] = {"head": "mlp", "name": "mlp", "seeds": (0, 1), "device": "cpu"}
    plan = make_plan(source, split, world / "runs", parameters={"epochs": 3}, **options)
    return split, [run.seed for run in plan.missing], plan.runs[0].configuration()


def _verified(world: Path) -> object:
    verify(world / "cache")
    return None  # what it finds is another thing than what was there before


def _pruned(world: Path) -> object:
    found = prune(world / "cache", dry_run=True)
    return found.unused, found.features


def _exported(world: Path) -> object:
    file = world / WRITABLE / "exported.npz"
    export(world / "cache", file, force=True)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _recomputed(world: Path) -> object:
    recompute(world / "cache", 3, device="cpu")
    return None  # which rows is left to chance


def _split(world: Path) -> object:
    return make_split(FeatureCache.open(world / "cache").index(), world / SPLIT)


def _run(name: str) -> Reader:
    return lambda world: Run.read(world / name).document()


def _found(world: Path) -> object:
    return [run.document() for run in find_runs([world / "runs"])]


def _model(name: str) -> Reader:
    def read(world: Path) -> object:
        run = Run.read(world / name)
        return _hashed(load_model(run).predict_proba(np.ones((2, run.recipe.dimension), dtype=np.float32)))

    return read


def _stored(world: Path) -> object:
    found = stored_predictions(Run.read(world / MLP), "test")
    return found and (found.paths, found.labels, found.predicted, _hashed(found.probabilities))


def _evaluated(world: Path) -> object:
    return evaluate(world / "runs/mlp").runs


def _predicted(world: Path) -> object:
    return predict(world / MLP, world / "image.png", device="cpu")


def _checkpoint(world: Path) -> object:
    found = Checkpoint.read(world / CHECKPOINT, Run.read(world / MLP))
    assert found is not None
    tensors = {name: _hashed(tensor.numpy()) for name, tensor in found.tensors.items()}
    return found.run.document(), found.best_epoch, tensors


def _weights(name: str) -> Reader:
    return lambda world: tensor_digest(load_state(WeightsSource.parse(str(world / name)), "vgg16"))


CACHE = (_recipe, _index, _shards, _features, _described, _verified, _pruned, _exported)


# How it is damaged


def _bytes_of(*names: str) -> Callable[[Random, Files], Files]:
    """Damage the bytes of one of these files."""

    def damage(rng: Random, files: Files) -> Files:
        name = rng.choice(names)
        return {name: damaged(rng, files[name], list(files.values()))}

    return damage


def _json_of(name: str) -> Callable[[Random, Files], Files]:
    return lambda rng, files: {name: damaged_json(rng, files[name])}


def _shard_bytes(rng: Random, files: Files) -> Files:
    return _bytes_of(*_shards_of(files))(rng, files)


def _shards_of(files: Files) -> list[str]:
    return sorted(name for name in files if name.startswith("cache/shards/"))


def _resealed(kind: str, *, structure: bool) -> Callable[[Random, Files], Files]:
    """Damage an HDF5 file and seal it again: its bytes, or what it holds."""

    def damage(rng: Random, files: Files) -> Files:
        name = "cache/index.h5" if kind == "index" else rng.choice(_shards_of(files))
        if structure:
            return {name: damaged_hdf5(rng, kind, files[name])}
        return {name: resealed(kind, damaged(rng, files[name], list(files.values())))}

    return damage


def _made_up_recipe(rng: Random, files: Files) -> Files:
    """Damage recipe.json and let its checksums fit again, as far as it has any left."""
    content = damaged_json(rng, files["cache/recipe.json"])
    with suppress(*_UNFIT):
        document = json.loads(content)
        document["recipe"]["digest"] = _digest_of(document["recipe"])
        document["sha256"] = _sha256({name: document[name] for name in ("recipe", "made_from")})
        content = json.dumps(document).encode()
    return {"cache/recipe.json": content}


def _made_up_cache(rng: Random, files: Files) -> Damaged:
    """Write a cache whose recipe and images are made up, but in which everything fits together."""
    with TemporaryDirectory() as folder:
        for name in (name for name in files if name.startswith("cache/")):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(files[name])
        old, new = FeatureCache.open(Path(folder) / "cache"), Path(folder) / "made up"
        entries, wanted = list(old.index().entries), old.recipe.as_dict()
        with suppress(*_UNFIT):
            if rng.random() < 0.7:
                changed = rng.choice(("transform", "views", "base", "weights", "decoding", "precision"))
                wanted = {**wanted, **json.loads(damaged_json(rng, json.dumps({changed: wanted[changed]}).encode()))}
            else:
                place = rng.randrange(len(entries))
                field = rng.choice(("path", "path", "label", "part"))
                entries[place] = replace(entries[place], **{field: rng.choice((*WAYS_OUT, *NAMES_OF_ALL_KINDS))})
            recipe = Recipe(**{one.name: wanted[one.name] for one in fields(Recipe)})
            made = FeatureCache.create(new, recipe, old.made_from)
            digests = [entry.digest for entry in entries]
            made.add_shard(digests, [0] * len(digests), old.read(digests), {})
            labels = tuple(sorted({entry.label for entry in entries}))
            made.write_index(replace(old.index(), entries=tuple(entries), classes=labels, recipe_digest=recipe.digest))
            gone = dict.fromkeys(_shards_of(files))
            return gone | {f"cache/{path.relative_to(new)}": path.read_bytes() for path in sorted(new.rglob("*.*"))}
    return {"cache/recipe.json": json.dumps(wanted).encode()}


def _made_up_recipe_of_run(rng: Random, files: Files) -> Files:
    """Damage the recipe in run.json, and let its digest fit again."""
    document = json.loads(files[f"{MLP}/run.json"])
    recipe = damaged_json(rng, json.dumps(document["recipe"]).encode())
    with suppress(*_UNFIT):
        values = json.loads(recipe)
        recipe = json.dumps({**values, "digest": _digest_of(values)}).encode()
    whole = json.dumps({**document, "recipe": "here"}).encode()
    return {f"{MLP}/run.json": whole.replace(b'"here"', recipe)}


def _digest_of(values: Mapping[str, Any]) -> str:
    return Recipe(**{name: value for name, value in values.items() if name != "digest"}).digest


_UNFIT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _adopted(
    folder: str, name: str, change: Callable[[Random, bytes, Files], bytes]
) -> Callable[[Random, Files], Files]:
    """Damage a model, and let the run.json beside it name it as its own."""

    def damage(rng: Random, files: Files) -> Files:
        content = change(rng, files[f"{folder}/{name}"], files)
        document = json.loads(files[f"{folder}/run.json"])
        document["model"] = {name: hashlib.sha256(content).hexdigest()}
        return {f"{folder}/{name}": content, f"{folder}/run.json": json.dumps(document).encode()}

    return damage


def _made_up_tensors(rng: Random, content: bytes, files: Files) -> bytes:
    if rng.random() < 0.3:
        return damaged(rng, content, list(files.values()))
    return damaged_safetensors(rng, content)


def _made_up_archive(rng: Random, content: bytes, files: Files) -> bytes:
    others = list(files.values())
    return damaged(rng, content, others) if rng.random() < 0.3 else damaged_zip(rng, content, others)


def _forged_predictions(rng: Random, files: Files) -> Files:
    """Damage the predictions, and let the evaluation beside them name them as its own."""
    csv, beside = f"{MLP}/predictions-test.csv", f"{MLP}/evaluation-test.json"
    content = damaged(rng, files[csv], list(files.values()))
    document = {**json.loads(files[beside]), "predictions_sha256": hashlib.sha256(content).hexdigest()}
    return {csv: content, beside: json.dumps(document).encode()}


def _forged_checkpoint(rng: Random, files: Files) -> Files:
    """Damage the header of a checkpoint, and let its digest fit what is left."""
    import safetensors.torch

    content = damaged_safetensors(rng, files[CHECKPOINT])
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        tensors = safetensors.torch.load(content)
        header["__metadata__"][DIGEST] = _digest(header["__metadata__"][ENTRY], tensors)
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + content[start:]
    except Exception:  # noqa: BLE001  # it stays as damaged as it is
        pass
    return {CHECKPOINT: content}


def _weights_of(name: str) -> Callable[[Random, Files], Files]:
    path = f"weights/{name}"

    def damage(rng: Random, files: Files) -> Files:
        others = list(files.values())
        if rng.random() < 0.5 or name.startswith("legacy"):
            return {path: damaged(rng, files[path], others)}
        if name.endswith(".pth"):
            return {path: damaged_zip(rng, files[path], others)}
        return {path: damaged_safetensors(rng, files[path])}

    return damage


def _computing(name: str, damage: Callable[[Random, Files], Damaged], readers: tuple[Reader, ...]) -> Kind:
    """A base computes, on images of a size that somebody made up; a process that decodes them has to start."""
    return Kind(name, damage, readers, guarded=False, megabytes=1500, seconds=60)


RUN = (_run(MLP), _found, _stored, _model(MLP), _planned, _evaluated)
PREDICTIONS = (_stored, _evaluated)

KINDS = (
    Kind("recipe.json: bytes", _bytes_of("cache/recipe.json"), CACHE),
    _computing(
        "recipe.json: values, its checksums right again",
        _made_up_recipe,
        (*CACHE, _planned, _recomputed),
    ),
    _computing(
        "whole cache: made up",
        _made_up_cache,
        (*CACHE, _planned, _split, _recomputed),
    ),
    Kind("lock: bytes", _bytes_of("cache/.lock"), (_described, _verified), guarded=False),
    Kind("index.h5: bytes", _bytes_of("cache/index.h5"), (*CACHE, _planned), noticed=True),
    Kind("index.h5: bytes, sealed again", _resealed("index", structure=False), (*CACHE, _planned), guarded=False),
    _computing(
        "index.h5: structure, sealed again",
        _resealed("index", structure=True),
        (*CACHE, _planned, _recomputed),
    ),
    Kind("shard: bytes", _shard_bytes, CACHE, noticed=True),
    Kind("shard: bytes, sealed again", _resealed("shard", structure=False), CACHE, guarded=False),
    Kind("shard: structure, sealed again", _resealed("shard", structure=True), CACHE, guarded=False),
    Kind("run.json: bytes", _bytes_of(f"{MLP}/run.json"), RUN, guarded=False),
    Kind("run.json: values", _json_of(f"{MLP}/run.json"), RUN, guarded=False),
    _computing(
        "run.json: recipe, its digest right again",
        _made_up_recipe_of_run,
        (*RUN, _predicted),
    ),
    Kind("model.safetensors: bytes", _bytes_of(f"{MLP}/model.safetensors"), (_model(MLP),)),
    Kind(
        "model.safetensors: header and values, adopted by run.json",
        _adopted(MLP, "model.safetensors", _made_up_tensors),
        (_model(MLP),),
        guarded=False,
    ),
    Kind("model.skops: bytes", _bytes_of(f"{KNN}/model.skops"), (_model(KNN),)),
    Kind(
        "model.skops: schema and arrays, adopted by run.json",
        _adopted(KNN, "model.skops", _made_up_archive),
        (_model(KNN),),
        guarded=False,
    ),
    Kind("predictions-test.csv: bytes", _bytes_of(f"{MLP}/predictions-test.csv"), PREDICTIONS),
    Kind("predictions-test.csv: bytes, adopted by its evaluation", _forged_predictions, PREDICTIONS, guarded=False),
    Kind("evaluation-test.json: bytes", _bytes_of(f"{MLP}/evaluation-test.json"), PREDICTIONS),
    Kind("evaluation-test.json: values", _json_of(f"{MLP}/evaluation-test.json"), PREDICTIONS),
    Kind("checkpoint: bytes", _bytes_of(CHECKPOINT), (_checkpoint,)),
    Kind("checkpoint: header and values, its digest right again", _forged_checkpoint, (_checkpoint,), guarded=False),
    Kind("split CSV: bytes", _bytes_of(SPLIT), (_split,), guarded=False),
    *(
        Kind(f"weights {name}: bytes and structure", _weights_of(name), (_weights(f"weights/{name}"),), guarded=False)
        for name in ("zip.pth", "legacy.pth", "plain.safetensors")
    ),
)
