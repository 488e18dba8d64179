"""The networks that initializers are tried on. Each takes `input_shape` (channels, height, width) and `num_classes`.

Layers are named in depth order (`linear1`, `act1`, ..., `head`), so that their series sort well in TensorBoard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models import get_model, list_models

from examples.errors import UsageError, unknown

Shape3 = tuple[int, int, int]

NONLINEARITIES: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
}


def mlp(
    input_shape: Shape3,
    num_classes: int,
    *,
    width: int | Sequence[int] = 128,
    depth: int | None = 3,
    nonlinearity: str = "relu",
    dropout: float = 0.0,
    normalization: str | None = None,
) -> nn.Sequential:
    """Return a fully connected network with `depth` hidden layers; a list as `width` gives each layer its own."""
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    features = input_shape[0] * input_shape[1] * input_shape[2]
    for i, out in enumerate(_widths(width, depth), start=1):
        net.add_module(f"linear{i}", nn.Linear(features, out))
        if normalization is not None:
            net.add_module(f"norm{i}", _norm(normalization, out, spatial=False))
        net.add_module(f"act{i}", _nonlinearity(nonlinearity))
        if _fraction("model.dropout", dropout) > 0:
            net.add_module(f"drop{i}", nn.Dropout(dropout))
        features = out
    net.add_module("head", nn.Linear(features, num_classes))
    return net


def cnn(
    input_shape: Shape3,
    num_classes: int,
    *,
    width: int = 32,
    depth: int = 2,
    nonlinearity: str = "relu",
    dropout: float = 0.0,
    normalization: str | None = None,
) -> nn.Sequential:
    """Return `depth` blocks of 3x3 convolution and 2x2 max-pooling, doubling the channels, and a linear head."""
    width, depth = _at_least_one("model.width", width), _at_least_one("model.depth", depth)
    side = min(input_shape[1:])
    most = side.bit_length() - 1
    if depth > most:
        raise UsageError(
            f"model.depth={depth} is impossible for cnn: every block halves the image, and {side} pixels allow at most "
            f"{most} blocks; choose model.depth<={most} or model=plain_cnn"
        )
    net = nn.Sequential()
    channels = input_shape[0]
    for i in range(1, depth + 1):
        out = width * 2 ** (i - 1)
        net.add_module(f"conv{i}", nn.Conv2d(channels, out, 3, padding=1))
        if normalization is not None:
            net.add_module(f"norm{i}", _norm(normalization, out, spatial=True))
        net.add_module(f"act{i}", _nonlinearity(nonlinearity))
        net.add_module(f"pool{i}", nn.MaxPool2d(2))
        channels = out
    net.add_module("flatten", nn.Flatten())
    if _fraction("model.dropout", dropout) > 0:
        net.add_module("drop", nn.Dropout(dropout))
    pixels = (input_shape[1] >> depth) * (input_shape[2] >> depth)
    net.add_module("head", nn.Linear(channels * pixels, num_classes))
    return net


def plain_cnn(
    input_shape: Shape3,
    num_classes: int,
    *,
    width: int = 32,
    depth: int = 30,
    nonlinearity: str = "relu",
    dropout: float = 0.0,
    normalization: str | None = None,
) -> nn.Sequential:
    """Return `depth` 3x3 convolutions without shortcuts (He et al. 2015, section 2.2), two of them with stride 2."""
    width, depth = _at_least_one("model.width", width), _at_least_one("model.depth", depth)
    strided = {depth // 3 + 1, 2 * depth // 3 + 1} if depth >= 3 else set()
    net = nn.Sequential()
    channels = input_shape[0]
    for i in range(1, depth + 1):
        net.add_module(f"conv{i}", nn.Conv2d(channels, width, 3, padding=1, stride=2 if i in strided else 1))
        if normalization is not None:
            net.add_module(f"norm{i}", _norm(normalization, width, spatial=True))
        net.add_module(f"act{i}", _nonlinearity(nonlinearity))
        channels = width
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    if _fraction("model.dropout", dropout) > 0:
        net.add_module("drop", nn.Dropout(dropout))
    net.add_module("head", nn.Linear(channels, num_classes))
    return net


def resnet18(input_shape: Shape3, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with a stem for small images: 3x3, stride 1, no pool (He et al. 2016, 4.2)."""
    net = get_model("resnet18", weights=None, num_classes=num_classes)
    net.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def vit(
    input_shape: Shape3,
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    patch: int = 4,
    nonlinearity: str = "gelu",
    dropout: float = 0.0,
) -> nn.Module:
    """Return a small vision transformer (Dosovitskiy et al. 2021): `depth` pre-norm encoder blocks, mean over patches.

    Images are cut into squares of `patch` x `patch` pixels; the position of each is an embedding.
    """
    width, depth = _at_least_one("model.width", width), _at_least_one("model.depth", depth)
    heads, patch = _at_least_one("model.heads", heads), _at_least_one("model.patch", patch)
    if width % heads:
        raise UsageError(f"model.width={width} is impossible: it must be a multiple of model.heads={heads}")
    if patch > min(input_shape[1:]):
        raise UsageError(f"model.patch={patch} is impossible: the images have {min(input_shape[1:])} pixels a side")
    blocks = nn.Sequential()
    for i in range(1, depth + 1):
        block = nn.TransformerEncoderLayer(
            width,
            heads,
            dim_feedforward=4 * width,
            dropout=_fraction("model.dropout", dropout),
            activation=_nonlinearity(nonlinearity),
            batch_first=True,
            norm_first=True,
        )
        blocks.add_module(f"block{i}", block)
    net = nn.Sequential()
    net.add_module("patches", nn.Conv2d(input_shape[0], width, patch, stride=patch))
    net.add_module("flatten", nn.Flatten(2))
    net.add_module("positions", _Positions((input_shape[1] // patch) * (input_shape[2] // patch), width))
    net.add_module("blocks", blocks)
    net.add_module("norm", nn.LayerNorm(width))
    net.add_module("mean", _MeanOverPatches())
    net.add_module("head", nn.Linear(width, num_classes))
    return net


def torchvision_model(input_shape: Shape3, num_classes: int, *, name: str) -> nn.Module:
    """Return any torchvision classifier by `name`, with random weights, behind a resize to 3 x 64 x 64."""
    if name not in list_models():
        raise unknown("torchvision model", name, list_models())
    net = nn.Sequential()
    net.add_module("resize", nn.Upsample(size=(64, 64), mode="nearest"))
    if input_shape[0] != 3:
        net.add_module("colour", _RepeatChannel())
    net.add_module("net", get_model(name, weights=None, num_classes=num_classes))
    return net


class _Positions(nn.Module):
    """(N, width, patches) -> (N, patches, width), with what is learned about each place added."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(patches, width)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        tokens = embedded.transpose(1, 2)
        return tokens + self.embedding(torch.arange(tokens.shape[1], device=tokens.device))


class _MeanOverPatches(nn.Module):
    """(N, patches, width) -> (N, width)."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(1)


class _RepeatChannel(nn.Module):
    """(N, 1, H, W) -> (N, 3, H, W)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.expand(-1, 3, -1, -1)


def _widths(width: int | Sequence[int], depth: int | None) -> list[int]:
    if isinstance(width, str) or not isinstance(width, Sequence):
        if depth is None:
            raise UsageError(
                "model.depth is missing: give model.depth=3, or one width per layer: model.width=[256,128]"
            )
        return [_at_least_one("model.width", width)] * _at_least_one("model.depth", depth)
    widths = [_at_least_one("model.width", w) for w in width]
    if depth not in (None, len(widths)):
        raise UsageError(
            f"model.depth={depth} contradicts model.width={widths}, which names {len(widths)} layers; "
            "give model.depth=null with a list of widths"
        )
    return widths


def _at_least_one(argument: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{argument}={value} is impossible: it must be a whole number of at least 1")
    return value


def _fraction(argument: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UsageError(f"{argument}={value} is impossible: it must lie in [0, 1)")
    return value


def _nonlinearity(name: str) -> nn.Module:
    if name not in NONLINEARITIES:
        raise unknown("model.nonlinearity", name, NONLINEARITIES)
    return NONLINEARITIES[name]()


def _norm(name: str, features: int, *, spatial: bool) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm2d(features) if spatial else nn.BatchNorm1d(features)
    if name == "layer":
        return nn.GroupNorm(1, features) if spatial else nn.LayerNorm(features)
    raise unknown("model.normalization", name, ["batch", "layer", "null"])
