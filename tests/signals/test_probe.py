"""The probe on its own: no Trainer, one forward and backward or many."""

import math
from unittest.mock import Mock

import pytest
import torch
from probed import mlp, step
from torch import nn

from lightning_init.signals.catalogue import Wanted, statistics_of
from lightning_init.signals.probe import Probe
from lightning_init.signals.transfer import Transfer


def test_every_statistic_of_every_signal_is_measured():
    names = {signal: tuple(statistics_of(signal)) for signal in ("weight", "activation", "gradient", "update")}
    model = mlp()
    wanted = Wanted(names["weight"], names["activation"], names["gradient"], names["update"])
    with Probe(model, wanted) as probe:
        values = step(probe, model, torch.randn(5, 6), torch.optim.SGD(model.parameters(), 0.1)).values()
    for signal, statistics in names.items():
        for layer in ("0", "2"):
            expected = {f"{signal}_{one}/{layer}" for one in statistics if one != "saturation"}
            assert expected == {tag for tag in values if tag.startswith(f"{signal}_") and tag.endswith(f"/{layer}")}
    assert "activation_saturation/1" in values
    assert all(math.isfinite(value) for value in values.values())


def test_updates_are_measured_against_the_weights_before():
    model = mlp()
    before = model[0].weight.detach().double().clone()
    with Probe(model, Wanted(updates=("ratio", "norm", "max_abs"))) as probe:
        values = step(probe, model, torch.randn(5, 6), torch.optim.SGD(model.parameters(), 0.1)).values()
        change = model[0].weight.detach().double() - before
        assert values["update_norm/0"] == pytest.approx(change.norm().item(), rel=1e-5)
        assert values["update_max_abs/0"] == pytest.approx(change.abs().max().item(), rel=1e-5)
        assert values["update_ratio/0"] == pytest.approx((change.norm() / before.norm()).item(), rel=1e-5)
        assert values["weight_variance/0"] == pytest.approx(before.var(correction=0).item(), rel=1e-5)
        assert "update_ratio/0" in step(probe, model, torch.randn(5, 6)).values()


@pytest.mark.parametrize("names", [("norm", "ratio"), ("ratio", "variance"), ("variance", "norm", "std"), ("ratio",)])
def test_every_statistic_of_updates_is_there_whatever_stands_beside_it(names):
    model = mlp()
    before = model[0].weight.detach().double().clone()
    with Probe(model, Wanted(updates=names)) as probe:
        values = step(probe, model, torch.randn(5, 6), torch.optim.SGD(model.parameters(), 0.1)).values()
    change = model[0].weight.detach().double() - before
    expected = {
        "ratio": change.norm() / before.norm(),
        "norm": change.norm(),
        "variance": change.var(correction=0),
        "std": change.std(correction=0),
    }
    assert {tag for tag in values if tag.startswith("update")} == {f"update_{n}/{i}" for n in names for i in "02"}
    for name in names:
        assert values[f"update_{name}/0"] == pytest.approx(expected[name].item(), rel=1e-5)


def test_on_a_device_everything_travels_in_one_transfer(monkeypatch):
    """The way of other devices, walked on the CPU: tensors claim not to be there."""
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(5, 6)
    everything = Wanted(*(tuple(statistics_of(s)) for s in ("weight", "activation", "gradient", "update")))
    starts, start = [], Transfer.start
    monkeypatch.setattr(Transfer, "start", lambda self: (starts.append(self), start(self)))
    for wanted in (Wanted(), everything):
        with Probe(model, wanted) as here:
            expected = step(here, model, x).values()
        with monkeypatch.context() as patch, Probe(model, wanted) as away:
            patch.setattr(torch.Tensor, "is_cpu", False)
            reading = step(away, model, x)
            assert reading.travels
            assert len(starts) == 1
            step(away, model, x)  # the next point does not disturb what is on its way
            values = reading.values()
            starts.clear()
        assert list(values) == list(expected)
        assert values == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_weights_that_were_moved_to_a_device_behind_the_probe_are_measured(monkeypatch):
    model = mlp()
    with Probe(model) as probe:
        expected = step(probe, model, torch.ones(5, 6)).values()
        monkeypatch.setattr(torch.Tensor, "is_cpu", False)
        monkeypatch.setattr(torch.Tensor, "numpy", Mock(side_effect=TypeError("not on the CPU")))
        assert step(probe, model, torch.ones(5, 6)).values() == pytest.approx(expected, rel=1e-5)


def test_gradients_of_amp_are_divided_by_their_scale():
    model = mlp()
    with Probe(model, Wanted(gradients=("norm", "max_abs"))) as probe:
        plain = step(probe, model, torch.ones(5, 6)).values()
        probe.open()
        for parameter in model.parameters():
            parameter.grad *= 1024
        probe.before_update(scale=torch.tensor(1024.0))
        scaled = probe.close().values()
    for tag in ("gradient_norm/0", "gradient_norm_total", "gradient_max_abs/2"):
        assert scaled[tag] == pytest.approx(plain[tag], rel=1e-5)


def test_histograms_sample_all_three_signals():
    model = mlp()
    with Probe(model) as probe:
        step(probe, model, torch.randn(5, 6), histograms=True)
        assert {tag for tag in probe.samples if tag.endswith("/0")} == {
            "weight_histogram/0",
            "activation_histogram/0",
            "gradient_histogram/0",
        }
        assert probe.samples["activation_histogram/1"].numel() == 5 * 8
        step(probe, model, torch.randn(5, 6))
        assert probe.samples is None


def test_histograms_show_the_gradients_that_are_used_and_unscaled():
    model = mlp()
    with Probe(model) as probe:
        probe.open(histograms=True)
        model(torch.ones(2, 6)).sum().backward()
        probe.before_update(set(model[0].parameters()), torch.tensor(4.0))
        model[0].weight.grad.fill_(100.0)
        probe.before_update(set(model[2].parameters()))
        probe.close()
    samples = probe.samples
    gradients = [one.grad.flatten() for one in model[2].parameters()]
    assert torch.equal(samples["gradient_histogram/2"], torch.cat(gradients))
    assert samples["gradient_histogram/0"].abs().max() < 100.0
    assert samples["gradient_histogram/0"][-8:] == pytest.approx(model[0].bias.grad / 4)


def test_ranks_are_pooled_in_one_collective():
    model, calls = mlp(), []
    x = torch.randn(8, 6)
    with Probe(model) as probe:
        whole = step(probe, model, x).values()
        halves = [step(probe, model, part) for part in (x[:2], x[2:])]
        other = torch.tensor(halves[0]._activations.rows(), dtype=torch.float64)

        def gather(mine):
            calls.append(mine)
            return torch.stack([other, mine])

        pooled = halves[1].values(gather)
    assert len(calls) == 1
    for layer in ("0", "1", "2"):
        assert pooled[f"activation_variance/{layer}"] == pytest.approx(whole[f"activation_variance/{layer}"], rel=1e-5)


def test_without_layers_only_the_total_is_left():
    model = mlp()
    with Probe(model, layers=()) as probe:
        values = step(probe, model, torch.ones(5, 6)).values()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    assert values == {"gradient_norm_total": pytest.approx(norm)}


def test_the_total_is_of_the_whole_model_whatever_the_layers():
    model, x = mlp(), torch.ones(5, 6)
    with Probe(model) as every, Probe(model, layers="2") as some:
        some.open()
        every.open()
        model(x).square().sum().backward()
        some.before_update()
        every.before_update()
        a, b = some.close().values(), every.close().values()
    assert a["gradient_norm_total"] == b["gradient_norm_total"]
    assert a["activation_variance/2"] == b["activation_variance/2"]


def test_outputs_of_any_kind_are_read():
    class Output(dict):
        pass

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return Output(ids=torch.arange(3), logits=[self.inner(x)])

    class Top(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.model = nn.Parameter(torch.ones(1)), Model()

        def forward(self, x):
            return {"nested": (None, self.model(x)["logits"][0] * self.scale)}

    model = Top()
    with Probe(model) as probe:
        values = step(probe, model, torch.randn(3, 4)).values()
    assert values["activation_variance/Top"] == pytest.approx(values["activation_variance/model.inner"])
    assert values["gradient_norm/Top"] > 0
    assert values["weight_variance/scale"] == 0


def test_sizes_that_change_from_step_to_step_are_measured_all_the_same():
    model = mlp()
    with Probe(model) as probe:
        for rows in (5, 5, 3, 5, 2, 2, 2, 1):
            x = torch.randn(rows, 6)
            values = step(probe, model, x).values()
            expected = model[0](x).detach().double().var(correction=0).item()
            assert values["activation_variance/0"] == pytest.approx(expected, rel=1e-5)


def test_a_call_more_or_less_does_not_mix_up_the_layers():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x, skip=False):
            x = self.a(x)
            return self.c(x if skip else self.b(x))

    model = Sometimes()
    with Probe(model) as probe:
        for skip in (False, False, True, False, True, True):
            x = torch.randn(5, 4)
            probe.open()
            model(x, skip=skip)
            values = probe.close().values()
            expected = model(x, skip=skip).double().var(correction=0).item()
            assert values["activation_variance/c"] == pytest.approx(expected, rel=1e-5)
            assert ("activation_variance/b" in values) is not skip


def test_names_of_layers_that_do_not_exist_are_refused_with_the_closest():
    with pytest.raises(ValueError, match=r"layers: 'O' matches none of the 3 layers of Sequential; .*'0'"):
        Probe(mlp(), layers=["2", "O"])


def test_zero_fraction_of_activations_counts_units_that_are_zero_for_the_whole_batch():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.ReLU())
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[0].bias[0] = -1.0
        model[3].weight[:2] = 0.0
        model[3].bias[:2] = -1.0
        model[3].bias[2:] = 1.0
    with Probe(model, Wanted(activations=("zero_fraction", "sparsity"))) as probe:
        probe.open()
        outputs = [model(torch.randn(64, 1, 3, 3)) for _ in range(2)]
        values = probe.close().values()
    assert values["activation_zero_fraction/0"] == 0
    assert values["activation_zero_fraction/1"] == 0.25
    assert values["activation_zero_fraction/4"] == pytest.approx(0.4)
    assert values["activation_sparsity/4"] == pytest.approx((torch.cat(outputs) == 0).double().mean().item())
