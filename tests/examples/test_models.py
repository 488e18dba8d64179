"""The networks, and what they refuse."""

import pytest
import torch
from torch import nn

from examples import models
from examples.errors import UsageError

DIGIT, CLASSES = (1, 8, 8), 10


def weights(model):
    return [tuple(m.weight.shape) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def test_mlp_has_depth_hidden_layers_of_the_given_width():
    assert weights(models.mlp(DIGIT, CLASSES, width=16, depth=3)) == [(16, 64), (16, 16), (16, 16), (10, 16)]


def test_mlp_takes_one_width_per_layer():
    assert weights(models.mlp(DIGIT, CLASSES, width=[20, 12], depth=None)) == [(20, 64), (12, 20), (10, 12)]


def test_layers_are_named_in_depth_order():
    names = [
        name for name, _ in models.mlp(DIGIT, CLASSES, depth=2, normalization="batch", dropout=0.1).named_children()
    ]
    assert names == ["flatten", "linear1", "norm1", "act1", "drop1", "linear2", "norm2", "act2", "drop2", "head"]


def test_plain_cnn_has_depth_convolutions_without_normalization():
    model = models.plain_cnn((3, 32, 32), CLASSES, width=4, depth=34)
    assert len(weights(model)) == 35
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert sum(m.stride == (2, 2) for m in model.modules() if isinstance(m, nn.Conv2d)) == 2


def test_vit_sees_every_patch_and_its_place():
    model = models.vit(DIGIT, CLASSES, width=8, depth=2, patch=4)
    assert sum(isinstance(m, nn.MultiheadAttention) for m in model.modules()) == 2
    image = torch.randn(1, *DIGIT, requires_grad=True)
    model(image).sum().backward()
    assert (image.grad != 0).all()
    assert model.positions.embedding.weight.shape == (4, 8)
    swapped = torch.cat([image[..., 4:], image[..., :4]], dim=-1)  # left and right half
    assert not torch.allclose(model(image), model(swapped), atol=1e-3)
    nn.init.zeros_(model.positions.embedding.weight)
    assert torch.allclose(model(image), model(swapped), atol=1e-6)


def test_cnn_doubles_its_channels():
    assert weights(models.cnn((3, 32, 32), CLASSES, width=8, depth=3))[:3] == [
        (8, 3, 3, 3),
        (16, 8, 3, 3),
        (32, 16, 3, 3),
    ]


@pytest.mark.parametrize("nonlinearity", models.NONLINEARITIES)
def test_every_nonlinearity_is_the_function_of_that_name_in_torch(nonlinearity):
    x = torch.linspace(-3, 3, 20)
    expected = (
        x if nonlinearity == "identity" else getattr(nn.functional, nonlinearity, getattr(torch, nonlinearity, None))(x)
    )
    assert torch.equal(models.NONLINEARITIES[nonlinearity]()(x), expected)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("build", [models.mlp, models.cnn, models.plain_cnn])
def test_normalization_is_built_in(build, normalization):
    model = build(DIGIT, CLASSES, width=4, depth=2, normalization=normalization)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d) if normalization == "batch" else (nn.LayerNorm, nn.GroupNorm)
    assert sum(isinstance(m, kinds) for m in model.modules()) == 2
    assert model(torch.randn(3, *DIGIT)).shape == (3, CLASSES)


@pytest.mark.parametrize(
    ("build", "options", "sentence"),
    [
        (models.mlp, {"depth": 0}, "model.depth=0 is impossible"),
        (models.mlp, {"depth": -3}, "model.depth=-3 is impossible"),
        (models.mlp, {"depth": 2.5}, "model.depth=2.5 is impossible"),
        (models.mlp, {"width": 0}, "model.width=0 is impossible"),
        (models.mlp, {"width": "wide"}, "model.width=wide is impossible"),
        (models.mlp, {"width": 8.5}, "model.width=8.5 is impossible"),
        (models.mlp, {"width": True}, "model.width=True is impossible"),
        (models.mlp, {"width": [8, 0], "depth": None}, "model.width=0 is impossible"),
        (models.mlp, {"width": [8, 8], "depth": 3}, "contradicts"),
        (models.mlp, {"depth": None}, "model.depth is missing"),
        (models.mlp, {"dropout": 1.0}, "model.dropout=1.0 is impossible"),
        (models.mlp, {"nonlinearity": "rely"}, "did you mean relu"),
        (models.mlp, {"normalization": "bach"}, "did you mean batch"),
        (models.cnn, {"depth": 4}, "8 pixels allow at most 3 blocks"),
        (models.cnn, {"width": -1}, "model.width=-1 is impossible"),
        (models.plain_cnn, {"depth": 0}, "model.depth=0 is impossible"),
        (models.vit, {"width": 6}, "model.width=6 is impossible: it must be a multiple of model.heads=4"),
        (models.vit, {"patch": 9}, "model.patch=9 is impossible: the images have 8 pixels a side"),
        (models.vit, {"nonlinearity": "gellu"}, "did you mean gelu"),
        (models.vit, {"dropout": 1.5}, "model.dropout=1.5 is impossible"),
        (models.torchvision_model, {"name": "resnet19"}, "did you mean resnet"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(build, options, sentence):
    with pytest.raises(UsageError, match=sentence) as refusal:
        build(DIGIT, CLASSES, **options)
    assert "\n" not in str(refusal.value)
