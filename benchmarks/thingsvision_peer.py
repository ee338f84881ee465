"""Extract features with thingsvision 2.7.3, in an environment of its own, and print how many seconds it took.

python benchmarks/thingsvision_peer.py IMAGES BASE BATCH

Run by `benchmarks.extraction --thingsvision PYTHON`; imports nothing of manyheads.
"""

import sys
import tempfile
import time

from thingsvision import get_extractor  # type: ignore[import-not-found,unused-ignore]
from thingsvision.utils.data import DataLoader, ImageDataset  # type: ignore[import-not-found,unused-ignore]

LAYERS = {"vgg16": "features.30", "mobilenet_v2": "features.18", "resnet50": "avgpool"}


def main() -> None:
    """Extract and print."""
    images, base, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    extractor = get_extractor(model_name=base, source="torchvision", device="cpu", pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        dataset = ImageDataset(
            root=images, out_path=folder, backend=extractor.get_backend(), transforms=extractor.get_transformations()
        )
        batches = DataLoader(dataset=dataset, batch_size=batch, backend=extractor.get_backend())
        started = time.perf_counter()
        features = extractor.extract_features(
            batches=batches, module_name=LAYERS[base], flatten_acts=True, output_type="ndarray"
        )
        spent = time.perf_counter() - started
    print(features.shape, file=sys.stderr)
    print(spent)


if __name__ == "__main__":
    main()
