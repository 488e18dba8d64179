"""Small image data sets, held as tensors: digits ships inside scikit-learn, the others are torchvision's.

A torchvision set is downloaded on first use. Fashion-MNIST is taken from Debian's package `dataset-fashion-mnist` where
that is installed. Either way torchvision's own class verifies the checksums and unpacks.
"""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
from pathlib import Path
from typing import NamedTuple

import lightning as pl
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from examples import fashion_mnist
from examples.batches import IndexBatches
from examples.errors import UsageError

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data"
CLASSES = 10
EVALUATION_BATCH = 1000


class Images(NamedTuple):
    """`pixels` uint8 (N, C, H, W), `labels` int64 (N,)."""

    pixels: Tensor
    labels: Tensor


def digits(**settings: object) -> ImageData:
    """Return the 1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn; no network is needed."""
    return ImageData(_digits(), **settings)


def torchvision_images(*, name: str, root: str | None = None, **settings: object) -> ImageData:
    """Return the training part of torchvision's data set `name`: FashionMNIST, MNIST or CIFAR10."""
    return ImageData(_torchvision(name, Path(root).expanduser() if root else DEFAULT_ROOT), **settings)


class ImageData(pl.LightningDataModule):
    """Training and validation batches of one data set.

    Args:
        images: everything there is.
        seed: of the order of the batches.
        batch_size: over all devices together.
        validation: samples (whole number) or fraction kept for validation.
        split_seed: of the choice of these samples.
        stratify: keep the share of each class equal in both parts.
        standardize: subtract the mean and divide by the standard deviation of the training pixels, per channel;
            False leaves the pixels in [0, 1].
        shrink: average over squares of so many pixels.
        train_samples: use only so many training samples; None uses all.
        num_workers: of the training DataLoader.
    """

    def __init__(
        self,
        images: Images,
        *,
        seed: int,
        batch_size: int,
        validation: float,
        split_seed: int = 0,
        stratify: bool = True,
        standardize: bool = True,
        shrink: int = 1,
        train_samples: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"data.batch_size={batch_size} is impossible: it must be at least 1")
        self.seed, self.batch_size, self.num_workers = seed, batch_size, num_workers
        images = _shrunk(images, shrink)
        self.image_shape = tuple(images.pixels.shape[1:])
        self.num_classes = CLASSES
        train, val = _split(images.labels, validation, split_seed, stratify=stratify)
        train = train[:train_samples]
        transform = _transform(images.pixels[train], standardize=standardize)
        self.chance = float(torch.bincount(images.labels[val]).max()) / len(val)
        self.train = TensorDataset(transform(images.pixels[train]), images.labels[train])
        self.val = TensorDataset(transform(images.pixels[val]), images.labels[val])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches in an order that depends on seed and epoch alone."""
        return self._loader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation samples in the order of the data set."""
        return self._loader(self.val, EVALUATION_BATCH, shuffle=False)

    def _loader(self, data: TensorDataset, batch_size: int, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = IndexBatches(len(data), batch_size, shuffle=shuffle, seed=self.seed, rank=rank, world_size=world)
        workers = self.num_workers if shuffle else 0
        context = "fork" if workers and _in_joblib() else None
        return DataLoader(data, sampler=batches, batch_size=None, num_workers=workers, multiprocessing_context=context)


def _in_joblib() -> bool:
    """Return whether this is a process of the joblib launcher's.

    There the usual way to start workers is joblib's, which cannot pickle them, or each would import torch again.
    """
    method = multiprocessing.get_start_method()
    return method == "loky" or (method == "forkserver" and multiprocessing.parent_process() is not None)


def _shrunk(images: Images, factor: int) -> Images:
    """Return the images with each square of `factor` x `factor` pixels averaged; what is left over is cut off."""
    side = min(images.pixels.shape[2:])
    if not 1 <= factor <= side:
        raise UsageError(f"data.shrink={factor} is impossible: give a whole number from 1 to {side}")
    if factor == 1:
        return images
    pixels = functional.avg_pool2d(images.pixels.float(), factor).round().to(torch.uint8)
    return Images(pixels, images.labels)


def _split(labels: Tensor, validation: float, seed: int, *, stratify: bool) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and of the validation samples, drawn at random."""
    count = len(labels)
    held_out = round(validation * count) if 0 < validation < 1 else int(validation)
    if not 0 < held_out < count:
        raise UsageError(
            f"data.validation={validation} is impossible: give a fraction in (0, 1) or 1 to {count - 1} samples"
        )
    train, val = train_test_split(
        np.arange(count), test_size=held_out, random_state=seed, stratify=labels.numpy() if stratify else None
    )
    return torch.from_numpy(train), torch.from_numpy(val)


def _transform(pixels: Tensor, *, standardize: bool) -> v2.Transform:
    to_unit = v2.ToDtype(torch.float32, scale=True)
    if not standardize:
        return to_unit
    std, mean = torch.std_mean(to_unit(pixels).double(), dim=(0, 2, 3))
    return v2.Compose([to_unit, v2.Normalize(mean.tolist(), std.tolist())])


@functools.lru_cache(maxsize=2)  # a sweep reads a data set once; runs only read these tensors
def _digits() -> Images:
    raw = load_digits()
    pixels = torch.from_numpy(np.round(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return Images(pixels, torch.from_numpy(raw.target).long())


@functools.lru_cache(maxsize=2)
def _torchvision(name: str, root: Path) -> Images:
    dataset_class = getattr(datasets, name)
    try:
        raw = dataset_class(root, train=True, download=False)
    except RuntimeError:  # "Dataset not found": torchvision's only way to say so
        _install(name, root)
        raw = dataset_class(root, train=True, download=False)
    pixels = torch.as_tensor(raw.data)
    pixels = pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels.unsqueeze(1)
    return Images(pixels, torch.as_tensor(raw.targets).long())


def _install(name: str, root: Path) -> None:
    """Fetch, verify and unpack into a temporary folder, then move: concurrent runs never read half a file."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as incoming:
            if name == "FashionMNIST":
                fashion_mnist.restore(Path(incoming, name, "raw"))
            getattr(datasets, name)(incoming, train=True, download=True)
            for part in Path(incoming).iterdir():
                _move(part, root / part.name)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the data set {name} is not in {root} and could not be fetched ({reason}): connect to the network once, "
            f"or point data.root to a folder where torchvision has it, or use data=digits, which needs no network"
        ) from error


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.exists():  # otherwise another process was faster, and its copy is as good
            raise
