"""Extract features as people do with torchvision, in a process of its own, and print how many seconds it took.

python benchmarks/plain_loop.py IMAGES BASE BATCH WORKERS

Eager, NCHW, fp32, `DataLoader` with worker processes, features collected in memory. Run by `benchmarks.extraction`;
imports nothing of manyheads, which changes how the C library and OpenMP behave.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models


class Images(Dataset[Tensor]):
    """Image files through torchvision's own transform."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        return self.transform(Image.open(self.paths[number]).convert("RGB"))


def main() -> None:
    """Extract and print."""
    folder, name, batch, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    network = models.get_model(name, weights=None).eval()
    setattr(network, "fc" if hasattr(network, "fc") else "classifier", nn.Identity())
    transform = models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    images = Images(sorted(path for path in folder.rglob("*") if path.is_file()), transform)
    started = time.perf_counter()
    with torch.inference_mode():
        loader = DataLoader(images, batch_size=batch, num_workers=workers)
        features = torch.cat([network(images).flatten(1) for images in loader]).numpy()
    spent = time.perf_counter() - started
    print(features.shape, file=sys.stderr)
    print(spent)


if __name__ == "__main__":
    main()
