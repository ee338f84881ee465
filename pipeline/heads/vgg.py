"""The paper's second model as a classifier over raw pixels: VGG16 with the paper's head, no weight pretrained.

Source: C. Iorga, V.-E. Neagoe, "A Deep CNN Approach with Transfer Learning for Image Recognition", ECAI 2019. Its
training is long work with checkpoints of its own, see `pipeline.training`; here stands what is trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import gen_batches
from torch import Tensor, nn
from torchvision import models

from pipeline.heads import Allowed, HeadValueError, check_parameters, whole
from pipeline.heads.mlp import MLPHead, head_network

FEATURES = 512 * 7 * 7  # what VGG16's adaptive pool gives, whatever the size of the images
SMALLEST = 32  # pixels: the five poolings halve the side five times
CHUNK = 16  # images that one step of predicting holds


class VGGNetwork(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """VGG16's convolutions and pooling, then the paper's head, over transformed pixels.

    Args:
        hidden: widths of the head's hidden layers; None is the paper's rule 4C, 3C, 2C for C classes.
        lr: learning rate of Adam, for every weight.
        epochs: passes over the training images.
        batch_size: images per step; the last, incomplete batch of an epoch counts too.
        dropout: rate at which the 25088 features are dropped while training.
        augment: `paper` draws every training image anew in every epoch (see `pipeline.augmentation`), `none` does not.
        image_size: side of the images in pixels; the paper's is 224.
        precision: arithmetic of training: `fp32`, or `bf16` or `fp16` by autocast.
        random_state: seed of the initial weights, the order of the images, the augmentation and dropout.
        device: where to train: `cpu`, `cuda` or `cuda:N`.

    Attributes:
        classes_: (C,) labels, sorted.
        n_features_in_: 3 * image_size * image_size.
        network_: the trained network, on the CPU, in evaluation mode.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        **{name: MLPHead.allowed[name] for name in ("hidden", "lr", "epochs", "batch_size", "dropout", "device")},
        "augment": Allowed("'paper' or 'none'", lambda value: value in ("paper", "none")),
        "image_size": whole(SMALLEST),
        "precision": Allowed("fp32, bf16 or fp16", lambda value: value in ("fp32", "bf16", "fp16")),
    }

    def __init__(
        self,
        hidden: Sequence[int] | None = None,
        *,
        lr: float = 1e-4,
        epochs: int = 15,
        batch_size: int = 16,
        dropout: float = 0.5,
        augment: str = "paper",
        image_size: int = 224,
        precision: str = "fp32",
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.hidden = hidden
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.augment = augment
        self.image_size = image_size
        self.precision = precision
        self.random_state = random_state
        self.device = device

    def build(self, classes: Sequence[str]) -> VGGNetwork:
        """Make the network for these classes, initialised from the seed as torchvision initialises VGG16."""
        check_parameters(self)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.random_state)
            self._set(self._network(len(classes)), classes)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class (N, C) for pixels X (N, 3 * image_size * image_size).

        In float32, on the CPU: a row's probabilities depend on its neighbours in their last bits.

        Raises:
            HeadValueError: the rows are not pixels of images of this size.
        """
        rows = np.asarray(X)
        # Rows of another width could be read as images that mix them.
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_ or not len(rows):
            raise HeadValueError(
                f"X has the shape {rows.shape}; pixels of images of {self.image_size} x {self.image_size} pixels are "
                f"(N, {self.n_features_in_})."
            )
        scores = [self._scores(rows[chunk]) for chunk in gen_batches(len(rows), CHUNK)]
        return np.concatenate(scores)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class (N,) for pixels X (N, 3 * image_size * image_size)."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights by name, and as JSON values all else that `from_tensors` needs."""
        learned = {"classes": self.classes_.tolist(), "parameters": self.get_params() | {"device": "cpu"}}
        state = self.network_.state_dict()
        return {name: tensor.contiguous() for name, tensor in state.items()}, learned

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], learned: dict[str, Any]) -> VGGNetwork:
        """Rebuild the trained network, on the CPU, from what `to_tensors` returned."""
        rebuilt = cls(**learned["parameters"])
        check_parameters(rebuilt)
        # On the meta device nothing is drawn or allocated before the shapes have been compared.
        with torch.device("meta"):
            network = rebuilt._network(len(learned["classes"]))
        network.load_state_dict(tensors, assign=True)
        rebuilt._set(network, learned["classes"])
        return rebuilt

    def _network(self, n_classes: int) -> nn.Sequential:
        vgg = models.vgg16(weights=None)
        return nn.Sequential(
            OrderedDict(
                features=vgg.features,
                avgpool=vgg.avgpool,
                flatten=nn.Flatten(),
                classifier=head_network(FEATURES, n_classes, hidden=self.hidden, dropout=self.dropout),
            )
        )

    def _set(self, network: nn.Sequential, classes: Sequence[str]) -> None:
        self.network_ = network.to(memory_format=torch.channels_last).eval()
        self.classes_ = np.array(classes)
        self.n_features_in_ = 3 * self.image_size**2

    def _scores(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        images = torch.from_numpy(rows.astype(np.float32)).view(-1, 3, self.image_size, self.image_size)
        with torch.inference_mode():
            scores = self.network_(images.contiguous(memory_format=torch.channels_last))
            return scores.double().softmax(dim=1).numpy()  # type: ignore[no-any-return]
