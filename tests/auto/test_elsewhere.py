"""Where torch's default device and type are not float32 on the CPU, as while Lightning builds a model on a GPU."""

import pytest
import torch
from chains import Recurrent
from torch import nn

from lightning_init import calibrate, diagnose, initialize
from lightning_init.auto import Auto
from lightning_init.auto.theory import pooled, recurrent_square, setting


@pytest.fixture
def elsewhere():
    """As Lightning builds a model on a GPU in half precision: by default tensors are not float32 on the CPU."""
    for function in (setting, pooled, recurrent_square):
        function.cache_clear()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", ["plan", "correction", "krahenbuhl", "diagnose"])
def test_torchs_defaults_of_device_and_type_are_not_asked(way, request):
    layers = [part for i in range(6) for part in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(72, 2))
    recurrent, x = Recurrent(nn.LSTM, 1), torch.randn(4, 3, 10, 10)
    request.getfixturevalue("elsewhere")
    if way == "plan":
        initialize(model, Auto(batch=x, correct=False), seed=0)
        initialize(recurrent, "auto", seed=0)
    elif way == "correction":
        initialize(model, Auto(batch=x), seed=0)
    elif way == "krahenbuhl":
        calibrate(model, "krahenbuhl", [x], seed=0)
    else:
        assert diagnose(model, x).verdict
