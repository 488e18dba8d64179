import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_init import initialize
from lightning_init.initializers import Pretrained, pretrained


def backbone():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))


def model():
    return nn.ModuleDict({"backbone": backbone(), "head": nn.Linear(8, 2)})


@pytest.fixture
def trained():
    source = backbone()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    return source.state_dict()


def check_backbone(module, state):
    named = dict(module["backbone"].named_parameters())
    assert all(torch.equal(parameter, state[name]) for name, parameter in named.items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}], ids=["plain", "checkpoint"])
def test_a_file_fills_the_submodule_norms_and_biases_included(tmp_path, trained, wrap):
    torch.save(wrap(trained), tmp_path / "trained.pt")
    module = model()
    rules = {"backbone.*": Pretrained(tmp_path / "trained.pt", into="backbone")}
    report = initialize(module, "zeros", rules=rules)
    check_backbone(module, trained)
    assert not module["head"].weight.any()
    entry = report.to_dict()["parameters"][0]
    assert (entry["initializer"], entry["target_std"]) == ("Given(key='0.weight')", None)
    assert entry["achieved_std"] == pytest.approx(trained["0.weight"].std(correction=0).item())


def test_a_prefix_in_the_file_is_understood(trained):
    module = model()
    state = {f"model.backbone.{key}": value for key, value in trained.items()}
    initialize(module, "zeros", rules={"backbone.*": Pretrained(state, prefix="model.")})
    check_backbone(module, trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "3.weight": torch.ones(8, 8, 5, 5)}, r"pretrained '3.weight' has shape \(8, 8, 5, 5\)"),
        (lambda s: {k: v for k, v in s.items() if k != "3.bias"}, "no entry '3.bias'; the closest are: 0.bias"),
        (
            lambda s: {**s, "3.weight": s["3.weight"].to(torch.complex64)},
            r"backbone.3.weight .*the pretrained '3.weight' is torch.complex64, which torch.float32 cannot hold",
        ),
        (lambda s: {**s, "3.weight": s["3.weight"].to_sparse()}, r"3.weight.*'3.weight' must be a dense tensor"),
        (lambda s: {"epoch": 3, "model": s}, "must hold .* got dict of epoch, model; if one of these holds"),
        (lambda s: "nowhere.pt", "there is no file 'nowhere.pt'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(trained, change, message):
    module = model()
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.raises(ValueError, match=message):
        initialize(module, "zeros", rules={"backbone.*": Pretrained(change(trained), into="backbone")})
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("content", [b"", b"hello", b"Z", b"\x80\x02c__main__\nx\n.", bytes(range(256)) * 10])
def test_a_file_of_something_else_is_refused_by_its_name(tmp_path, trained, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.pt' is no file of tensors that torch.load can read safely"):
        initialize(model(), "zeros", rules={"backbone.*": Pretrained(path, into="backbone")})


def test_values_that_are_initialized_themselves_are_refused_and_copies_and_ones_own_are_not():
    twins = nn.ModuleDict({"online": nn.Linear(3, 4), "target": weight_norm(nn.Linear(3, 4))})
    before = copy.deepcopy(twins.state_dict())
    live = twins["online"].state_dict()
    with pytest.raises(ValueError, match=r"values of target.weight are the memory of online.weight, .*give .* a copy"):
        initialize(twins, "he_normal", rules={"target.*": Pretrained(live, into="target")})
    assert all(torch.equal(value, before[key]) for key, value in twins.state_dict().items())
    initialize(twins, "he_normal", rules={"target.*": Pretrained(copy.deepcopy(live), into="target")})
    assert torch.allclose(twins["target"].weight, before["online.weight"])
    now = twins["online"].weight.clone()
    initialize(twins, "he_normal", rules={"online.*": Pretrained(live, into="online")})
    initialize(twins, "he_normal", rules={"online.*": None, "target.*": Pretrained(live, into="target")})
    assert torch.equal(twins["online"].weight, now)
    assert torch.allclose(twins["target"].weight, now)


def test_sharded_values_are_refused_before_anything_is_written(trained, monkeypatch):
    monkeypatch.setattr(pretrained, "DTensor", nn.Parameter)  # a real one needs a process group
    sharded = {**trained, "3.weight": nn.Parameter(trained["3.weight"])}
    module = model()
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.raises(ValueError, match=r"'3.weight' must be a dense tensor .*, got a sharded one"):
        initialize(module, "zeros", rules={"backbone.*": Pretrained(sharded, into="backbone")})
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
