"""A network that OpenVINO computes: on CPUs, faster than torch for networks of many small layers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pipeline.errors import BaseError

if TYPE_CHECKING:
    from torch import Tensor, nn

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVINONetwork:
    """A network as OpenVINO computes it: images pass one by one, as many side by side as it finds best.

    Args:
        network: A network in evaluation mode, in float32 and on the CPU.
        dimension: D, numbers of its output for one image.
        side: S, of an image.
        precision: `fp32`, `bf16` or `fp16`: what to compute in.

    Raises:
        BaseError: OpenVINO is not installed, or cannot convert the network.
    """

    def __init__(self, network: nn.Module, dimension: int, side: int, precision: str) -> None:
        import torch

        try:
            import openvino
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        except ImportError as error:
            raise BaseError(
                f"--backend openvino needs the package openvino, which cannot be imported ({error}). Install it with "
                "`pip install 'manyheads[openvino]'`, or leave --backend out"
            ) from error
        # The steps of `openvino.convert_model`, which would also report to its makers what it converts.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that tracing keeps no branches: a base has none
            try:
                frontend = FrontEndManager().load_by_framework("pytorch")
                decoder = TorchScriptPythonDecoder(network, example_input=torch.zeros(1, 3, side, side))
                model = frontend.convert(frontend.load(decoder))
                model.reshape([1, 3, side, side])
                settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
                compiled = openvino.Core().compile_model(model, "CPU", settings)
            except RuntimeError as error:
                raise BaseError(f"OpenVINO cannot compute this network: {error}. Leave --backend out") from error
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.dimension, self._requests = dimension, [compiled.create_infer_request() for _ in range(count)]

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the output (B, D) of images (B, 3, S, S), all in float32."""
        import torch

        given = images.float().contiguous().numpy()
        found = torch.empty(len(given), self.dimension)
        rows, count = found.numpy(), len(self._requests)
        # Each of them takes the next image when it is done with its last one. (OpenVINO's own queue calls back into
        # Python from its threads, which can crash the process when it ends.)
        for place in range(len(given) + count):
            request = self._requests[place % count]
            if 0 <= place - count < len(given):
                request.wait()
                rows[place - count] = request.get_output_tensor().data.reshape(-1)
            if place < len(given):
                request.start_async([given[place : place + 1]])
        return found
