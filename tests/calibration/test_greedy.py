"""Greedy pretraining: what the layers learn, which of them do, and that it helps."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lightning_init import calibrate, initialize
from lightning_init.calibration import DenoisingAutoencoders, Rbm

BOTH = [DenoisingAutoencoders(epochs=10, learning_rate=1e-2), Rbm(epochs=10)]


def digits():
    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def batches(x, size=64):
    return list(x.split(size))


def sigmoid_net(width=32, depth=3):
    hidden = [part for i in range(depth) for part in (nn.Linear(width if i else 64, width), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


@pytest.mark.parametrize("calibration", BOTH, ids=lambda one: type(one).__name__)
def test_hidden_layers_learn_to_reconstruct_and_the_rest_stays(calibration):
    x, _ = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.Sigmoid(), nn.Linear(48, 24), nn.Sigmoid())
    model.append(nn.Linear(24, 10))
    initialize(model, calibration.start, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = calibration.calibrate_(model, batches(x), seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias", "3.weight", "3.bias"}
    first, second, head = done.layers
    assert head.why == "kept: the output layer, which learns from labels alone"
    for one in (first, second):
        error, reached = (float(word) for word in one.why.split(" of the")[0].split()[-3::2])
        assert reached < 0.6 * error
        assert one.iterations == 10 * len(batches(x))


@pytest.mark.parametrize("calibration", BOTH, ids=lambda one: type(one).__name__)
def test_a_pretrained_stack_beats_random_initialization_at_equal_epochs(calibration):
    """Hinton & Salakhutdinov 2006; Bengio et al. 2007: three sigmoid layers, from which SGD alone does not start."""
    x, y = digits()
    train, test = slice(0, 1400), slice(1400, None)
    accuracy = {}
    for seed in range(3):
        for name in ("xavier_uniform", "pretrained"):
            model = sigmoid_net()
            if name == "pretrained":
                calibrate(model, calibration, batches(x[train]), seed=seed)
            else:
                initialize(model, name, seed=seed)
            optimizer = torch.optim.SGD(model.parameters(), 0.5)
            generator = torch.Generator().manual_seed(seed)
            for _ in range(10):
                for batch in torch.randperm(1400, generator=generator).split(50):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
            accuracy[name, seed] = float((model(x[test]).argmax(1) == y[test]).double().mean())
    for seed in range(3):
        assert accuracy["pretrained", seed] > accuracy["xavier_uniform", seed] + 0.2


def test_contrastive_divergence_takes_the_step_of_its_definition():
    """One update against the sums written out, sample by sample and unit by unit (Hinton 2010, equation 9)."""
    torch.manual_seed(0)
    weight, bias, batch = torch.randn(3, 4), torch.randn(3), torch.rand(5, 4)
    torch.manual_seed(1)
    learned = Rbm(epochs=1, learning_rate=0.3).learn("layer", weight, bias, [batch], "sigmoid")
    torch.manual_seed(1)
    torch.randperm(1)
    wanted, wanted_bias = weight.double().clone(), bias.double().clone()
    sampled = torch.bernoulli(torch.sigmoid(batch @ weight.T + bias))
    for n in range(5):
        for j in range(3):
            up = 1 / (1 + math.exp(-(float(bias[j]) + sum(float(weight[j, i] * batch[n, i]) for i in range(4)))))
            imagined = [
                1 / (1 + math.exp(-sum(float(weight[k, i] * sampled[n, k]) for k in range(3)))) for i in range(4)
            ]
            again = 1 / (1 + math.exp(-(float(bias[j]) + sum(float(weight[j, i]) * imagined[i] for i in range(4)))))
            wanted_bias[j] += 0.3 * (up - again) / 5
            for i in range(4):
                wanted[j, i] += 0.3 * ((up * float(batch[n, i]) - again * imagined[i]) / 5 - 2e-4 * weight[j, i] / 5)
    assert torch.allclose(learned.weight.double(), wanted, atol=1e-5)
    assert torch.allclose(learned.bias.double(), wanted_bias, atol=1e-5)


def test_gaussian_units_do_not_see_offset_and_scale_of_the_data():
    x = digits()[0]
    x = (x - x.mean()) / x.std(correction=0)
    model, other = sigmoid_net(depth=1), sigmoid_net(depth=1)
    initialize(model, "small_random", seed=0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[0].weight.div_(7)
    Rbm(epochs=3).calibrate_(model, batches(x))
    Rbm(epochs=3).calibrate_(other, batches(7 * x + 2))
    assert torch.allclose(model[:2](x), other[:2](7 * x + 2), atol=1e-4)


def test_what_learns_is_said_and_what_cannot_is_refused():
    data = [torch.rand(8, 3, 6, 6)]
    mixed = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    done = DenoisingAutoencoders(epochs=1).calibrate_(mixed, data)
    assert [one.why for one in done.layers if one.factor is None] == [
        "kept: not an nn.Linear",
        "kept: no nonlinearity is known to follow it",
        "kept: the output layer, which learns from labels alone",
    ]
    before = {name: value.clone() for name, value in mixed.state_dict().items()}
    with pytest.raises(ValueError, match=r"layer 3: an RBM has sigmoid units, and tanh follows .*DenoisingAuto"):
        Rbm().calibrate_(mixed, data)
    with pytest.raises(ValueError, match=r"no layer to train: .*0.weight is kept: the output layer"):
        Rbm().calibrate_(nn.Sequential(nn.Linear(4, 2)), [torch.rand(8, 4)])
    assert all(torch.equal(value, before[name]) for name, value in mixed.state_dict().items())


@pytest.mark.parametrize("kind", [DenoisingAutoencoders, Rbm])
def test_a_training_that_diverges_is_refused_and_leaves_the_model_as_it_was(kind):
    model = sigmoid_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = batches(digits()[0] * 20 - 5)
    with pytest.raises(ValueError, match=r"layer 0: its training diverged; lower learning_rate=1e\+30"):
        kind(learning_rate=1e30).calibrate_(model, data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("settings", [{"batches": 0}, {"epochs": 1.5}, {"learning_rate": 0.0}, {"corruption": 1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(settings))} of DenoisingAutoencoders must be"):
        DenoisingAutoencoders(**settings)
