"""The probe inside graphs of torch.compile: the same figures, and no graph or work that nobody asked for."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.probe import Probe


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def compiled_points(model, batches, activations):
    """Probe the compiled `model`, one point for each batch, run twice; return their values, and how many graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    points = []
    with Probe(model, Wanted(activations=activations)) as probe:
        run = torch.compile(model, backend=counter, fullgraph=True)
        for batch in batches:
            run(batch + 9)  # before the point: does not count
            probe.open()
            (run(batch).sum() + run(-batch).sum()).backward()
            points.append(probe.close().values())
    return points, counter.frame_count


def test_zero_fraction_of_activations_inside_compiled_graphs_is_the_same_and_takes_no_more_graphs():
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 40), nn.ReLU())
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0.0, -1.0
        model[3].weight[:8], model[3].bias[:8] = 0.0, -1.0
    batches = [torch.randn(size, 1, 3, 3) for size in (2, 5, 3)]
    statistics = ("variance", "zero_fraction")
    _, graphs = compiled_points(model, batches, ("variance",))
    assert compiled_points(model, batches, statistics)[1] == graphs
    points, _ = compiled_points(model, batches, statistics)
    expected = []
    with Probe(model, Wanted(activations=statistics)) as probe:
        for batch in batches:
            probe.open()
            (model(batch).sum() + model(-batch).sum()).backward()
            expected.append(probe.close().values())
    tags = [f"activation_zero_fraction/{name}" for name in ("0", "1", "3", "4")]
    for point, reference in zip(points, expected, strict=True):
        assert [point[tag] for tag in tags] == [reference[tag] for tag in tags]
        assert point[tags[1]] >= 0.25
        assert point[tags[3]] >= 0.2


def test_forwards_in_eval_mode_do_not_count_in_compiled_graphs_either():
    model = mlp()
    points = {}
    for way, forward in (("eager", model), ("compiled", torch.compile(model, backend="eager"))):
        with Probe(model) as probe:
            probe.open()
            model.eval()
            forward(torch.full((9, 6), 50.0))
            model.train()
            forward(torch.ones(1, 6)).sum().backward()
            probe.before_update()
            points[way] = probe.close().values()
        torch._dynamo.reset()
    assert points["compiled"]["activation_variance/0"] == pytest.approx(
        points["eager"]["activation_variance/0"], rel=1e-4
    )


def test_steps_that_are_not_logged_run_a_graph_that_measures_nothing():
    model, x, sizes = mlp(), torch.randn(5, 6), []

    def backend(graph, _):
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    torch.compile(model, backend=backend)(x)
    torch._dynamo.reset()
    variances = []
    with Probe(model) as probe:
        run = torch.compile(model, backend=backend)
        for logged in (True, False, False, True, False):
            if logged:
                probe.open()
            run(x if logged else 9 * x).sum().backward()
            if logged:
                variances.append(probe.close().values()["activation_variance/0"])
    torch._dynamo.reset()
    bare, measuring, unmeasured = sizes
    assert bare == unmeasured < measuring
    assert variances == pytest.approx([model[0](x).detach().var(correction=0).item()] * 2, rel=1e-5)


def test_zero_fraction_is_left_out_in_graphs_where_an_output_has_more_units_than_any_parameter():
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.ReLU())
    (values,), _ = compiled_points(model, [torch.randn(3, 10, 4)], ("zero_fraction", "sparsity"))
    assert "activation_zero_fraction/2" not in values
    assert values["activation_zero_fraction/0"] == 0
    assert values["activation_sparsity/2"] > 0
