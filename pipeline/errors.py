"""The pipeline's branch of the exception tree that starts in `cache.errors.ManyheadsError`."""

from typing import Any

from cache.errors import ManyheadsError


class ImageSetError(ManyheadsError):
    """A folder is not an image set: no classes, no images, or two readings of it are possible."""


class UnreadableImage(ManyheadsError):
    """One image file cannot become RGB pixels; the message is the reason, without the file's name."""


class UnreadableImages(ManyheadsError):
    """Some images of a set could not be read; the message lists every file with its reason.

    Attributes:
        result: The `PredictionList` that `predict` made of all other images, which is stored nowhere else; None from
            other stages.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class SplitError(ManyheadsError):
    """A split does not fit the image set: an image is missing, named twice or in another class."""


class BaseError(ManyheadsError):
    """A base is unknown, or cannot run as asked on this machine."""


class DownloadError(ManyheadsError):
    """A file could not be fetched from the network, or is not the one that was asked for."""


class WeightsError(ManyheadsError):
    """Weights cannot be had, or their tensors do not fit the base."""


class HeadError(ManyheadsError):
    """A head is unknown, has no such hyper-parameter, or cannot be fitted to these images."""


class RunError(ManyheadsError):
    """A run folder is missing, damaged, or was fitted with another configuration than asked."""
