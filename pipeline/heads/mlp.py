"""The paper's head: dropout on the features, then linear layers that narrow down to the classes.

Source: C. Iorga, V.-E. Neagoe, "A Deep CNN Approach with Transfer Learning for Image Recognition", ECAI 2019,
doi 10.1109/ECAI46879.2019.9042173, and the code that its authors published.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from pipeline.heads import COPIES, Allowed, HeadValueError, check_parameters, number, whole
from pipeline.heads.descent import Start
from pipeline.heads.rows import chunks, read_rows
from pipeline.heads.together import fit_together


def head_network(
    n_features: int, n_classes: int, *, hidden: Sequence[int] | None = None, dropout: float = 0.5
) -> nn.Sequential:
    """Build the paper's head with the paper's layer names; its output is the logarithm of the probabilities.

    Args:
        n_features: D, numbers per image.
        n_classes: C.
        hidden: widths of the hidden layers; None is the paper's rule 4C, 3C, 2C.
        dropout: rate at which features are dropped while training.

    Returns:
        Layers `dropout, inputs, relu1, hidden_layer1, relu2, …, output`, initialised from torch's global generator.
    """
    sizes = layer_sizes(n_features, n_classes, hidden)
    layers: OrderedDict[str, nn.Module] = OrderedDict(dropout=nn.Dropout(dropout))
    for depth, (wide, narrow) in enumerate(pairwise(sizes)):
        if depth:
            layers[f"relu{depth}"] = nn.ReLU()
        layers[f"hidden_layer{depth}" if depth else "inputs"] = nn.Linear(wide, narrow)
    layers["output"] = nn.LogSoftmax(dim=1)
    return nn.Sequential(layers)


class MLPHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """The paper's head and training recipe as a scikit-learn classifier.

    The same seed gives the same weights bit for bit on the same machine, whatever the number of threads; no global
    random state is read or changed. Predictions are computed on the CPU in double precision, so that a row's
    probabilities depend neither on its neighbours nor on the device that trained the head.

    Args:
        hidden: widths of the hidden layers; None is the paper's rule 4C, 3C, 2C for C classes.
        lr: learning rate of Adam.
        epochs: passes over the training rows; with `patience`, at most.
        batch_size: rows per step; the last, incomplete batch of an epoch counts too.
        dropout: rate at which features are dropped while training, in steps of 1/65536.
        weight_decay: L2 penalty of Adam.
        patience: stop after so many epochs without a lower validation loss and keep the best epoch's weights;
            None trains for all epochs and keeps the last one's, as the paper did.
        random_state: seed of the initial weights, the order of the rows and the dropped features.
        device: where to train: `cpu`, `cuda` or `cuda:N`.

    Attributes:
        classes_: (C,) labels, sorted.
        n_features_in_: D.
        module_: the fitted network, on the CPU, in evaluation mode.
        history_: per epoch `epoch, train_loss, train_accuracy, val_loss, val_accuracy, seconds`; the train figures are
            those of the training pass itself, with dropout; the val figures are None without a validation part. A
            head that was loaded has none: seconds differ from fit to fit, and equal fits are to be equal files. Heads
            that are fitted together share their seconds.
        n_epochs_: epochs trained.
        best_epoch_: the epoch, from 1 on, whose weights are kept.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "hidden": Allowed(
            "a sequence of whole numbers from 1 on",
            lambda sizes: isinstance(sizes, (tuple, list)) and all(whole(1).test(size) for size in sizes),
        ).or_none("the paper's 4C, 3C, 2C"),
        "lr": number(0, least_too=False),
        "epochs": whole(1),
        "batch_size": whole(1),
        "dropout": number(0, 1),
        "weight_decay": number(0),
        "patience": whole(1).or_none("no early stopping"),
        "device": Allowed("cpu, cuda or cuda:N", lambda name: bool(re.fullmatch(r"cpu|cuda(:\d+)?", str(name)))),
    }

    def __init__(
        self,
        hidden: Sequence[int] | None = None,
        *,
        lr: float = 1e-4,
        epochs: int = 15,
        batch_size: int = 16,
        dropout: float = 0.5,
        weight_decay: float = 0.0,
        patience: int | None = None,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.hidden = hidden
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.patience = patience
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
        views: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> MLPHead:
        """Train on features X (N, D) with labels y (N,).

        Args:
            X: features; float32 and float16 arrays, memory-mapped ones too, are read batch by batch and never copied
                whole, others are converted to float32.
            y: labels of any kind.
            X_val: features of the validation part (M, D), watched but never trained on.
            y_val: their labels (M,).
            on_epoch: called with every new entry of `history_`.
            views: several views of each row (V, N, D), the first being X; every epoch draws one for each row. Read
                batch by batch as X is, and as little copied. None trains on X alone.
            threads: how many compute on the CPU; torch's number if not given. It changes nothing but the time.

        Returns:
            The head itself.

        Raises:
            HeadValueError: parameters or data that can't be used, no room for them in memory, or a loss that is no
                longer finite.
        """

        def tell(number: int, entry: dict[str, Any]) -> None:
            if on_epoch is not None:
                on_epoch(entry)

        fit_together([self], X, y, X_val, y_val, tell, views, threads)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class (N, C) for features X (N, D)."""
        check_is_fitted(self)
        return np.exp(_log_probabilities(self.module_, self._read(X)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class (N,) for features X (N, D)."""
        codes = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights under the layers' names, and as JSON values all else that `from_tensors` needs.

        Equal fits give equal values: neither the device nor a duration is among them.
        """
        check_is_fitted(self)
        parameters = self.get_params() | {"device": "cpu"}
        if not isinstance(self.random_state, Integral):
            parameters["random_state"] = None
        learned = {
            "classes": self.classes_.tolist(),
            "n_features": self.n_features_in_,
            "parameters": parameters,
            "n_epochs": self.n_epochs_,
            "best_epoch": self.best_epoch_,
        }
        return dict(self.module_.state_dict()), learned

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], learned: dict[str, Any]) -> MLPHead:
        """Rebuild the fitted head, on the CPU and without `history_`, from what `to_tensors` returned."""
        head = cls(**learned["parameters"])
        if head.hidden is not None:
            head.hidden = tuple(head.hidden)
        check_parameters(head)
        head.classes_ = np.array(learned["classes"])
        head.n_features_in_ = learned["n_features"]
        # On the meta device nothing is drawn or allocated before the shapes have been compared.
        with torch.device("meta"):
            head.module_ = head_network(
                head.n_features_in_, len(head.classes_), hidden=head.hidden, dropout=head.dropout
            )
        head.module_.load_state_dict(tensors, assign=True)
        head.module_.eval()
        head.n_epochs_, head.best_epoch_ = learned["n_epochs"], learned["best_epoch"]
        return head

    def begin(self) -> Start:
        """Draw the initial weights for `n_features_in_` and `classes_`, and begin what else the seed governs.

        Raises:
            HeadValueError: the seed is out of range.
        """
        seed = self._seed()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = head_network(self.n_features_in_, len(self.classes_), hidden=self.hidden, dropout=self.dropout)
            generator = torch.Generator()
            # The stream goes on where the initial weights end: one seed, and no number is used twice.
            generator.set_state(torch.get_rng_state())
        masks = int(torch.randint(2**62, (), generator=generator))
        return Start(
            module,
            size=int(self.batch_size),
            lr=float(self.lr),
            weight_decay=float(self.weight_decay),
            rate=float(self.dropout),
            masks=masks,
            generator=generator,
        )

    def no_room(self, n: int) -> HeadValueError:
        """Return the failure that says what to lower where memory is short for n rows."""
        sizes = layer_sizes(self.n_features_in_, len(self.classes_), self.hidden)
        way_out = (
            "Lower hidden or batch_size" if self.device == "cpu" else "Lower hidden or batch_size, or use device='cpu'"
        )
        return HeadValueError(
            f"There is not enough memory on {self.device} to fit {n} images with batch_size={self.batch_size} and "
            f"layers of {', '.join(map(str, sizes))} numbers, {sum(a * b for a, b in pairwise(sizes))} weights in all, "
            f"held up to {COPIES} times. {way_out}."
        )

    def _read(self, X: ArrayLike) -> NDArray[Any]:
        return read_rows(self, X)

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            if not 0 <= int(self.random_state) < 2**64:
                raise HeadValueError(f"random_state must be from 0 to 2**64 - 1; it is {self.random_state}.")
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


def _log_probabilities(module: nn.Sequential, rows: NDArray[Any]) -> NDArray[np.float64]:
    # A float32 product depends on how many rows share it; in float64 that is far below what anyone compares.
    double = copy.deepcopy(module).cpu().double().eval()
    with torch.inference_mode():
        scores = [double(torch.from_numpy(rows[chunk].astype(np.float64))).numpy() for chunk in chunks(rows)]
    return np.concatenate(scores)


def layer_sizes(n_features: int, n_classes: int, hidden: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers that go into the layers and come out of the last one."""
    return (n_features, *((4 * n_classes, 3 * n_classes, 2 * n_classes) if hidden is None else hidden), n_classes)
