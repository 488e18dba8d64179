"""Statistics equal a float64 reference to 1e-4, for tensors that are easy to get wrong."""

import copy
import itertools
import math
import pickle
from array import array
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from lightning_init import kernels
from lightning_init.signals import fast
from lightning_init.signals.catalogue import FULL, LEAN
from lightning_init.signals.gauge import Gauge
from lightning_init.signals.gauges import Gauges
from lightning_init.signals.statistics import Summary, pooled, summarize


@pytest.fixture(params=["with Numba", "without"], autouse=True)
def way(request, monkeypatch):
    """Both of the ways to read float32, whatever else has run in this process."""
    kernel = kernels.load("moments") if request.param == "with Numba" else None
    if kernel is None and request.param == "with Numba":
        pytest.skip("Numba is not installed: pip install lightning-init[fast]")
    monkeypatch.setattr(fast, "_kernel", kernel)


def drawn(n, mean=0.0, std=1.0, dtype=torch.float32, seed=0):
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * std + mean
    return values.to(dtype)


TENSORS = {
    "ordinary": drawn(1000),
    "large": drawn(3 * 10**5, 1.0),
    "several chunks": drawn(20001, -0.5, 2.0),
    "mean 1e3, std 1e-3": drawn(5000, 1e3, 1e-3),
    "the first far from the others": torch.cat([torch.tensor([1e3]), drawn(10**5)]),
    "runs that underflow, overflow and neither": torch.cat([drawn(9000, std=s) for s in (1e-25, 1.0, 1e18)]),
    "mean 1e3, std 1e-3, large": drawn(2 * 10**5, 1e3, 1e-3, seed=1),
    "mean 1, std 1e-2": drawn(5000, 1.0, 1e-2),
    "an outlier in front": torch.cat([torch.tensor([1e4]), drawn(999, 3.0, 1e-2)]),
    "one element": torch.tensor([3.7]),
    "fp16 near overflow": drawn(5000, 0.0, 2e4, torch.float64).clamp(-65000, 65000).half(),
    "bf16": drawn(5000, 1.0, 0.1, torch.bfloat16),
    "float64": drawn(5000, 1e6, 1e-2, torch.float64),
    "tiny": drawn(5000, 0.0, 1e-25),
    "huge": drawn(5000, 0.0, 1e25),
    "transposed": drawn(6000).view(60, 100).t(),
    "strided": drawn(6000).view(60, 100)[::3, 5:50],
    "channels last": drawn(4 * 3 * 5 * 5).view(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
    "channels last, large": drawn(40_000, 2.0).view(8, 8, 25, 25).contiguous(memory_format=torch.channels_last),
    "complex": torch.complex(drawn(3000, 2.0), drawn(3000, -1.0, 3.0, seed=1)),
    "half zero": drawn(3000).relu(),
}


def reference(values):
    dense = values.to_dense() if values.layout is not torch.strided else values
    x = dense.detach().to(torch.complex128 if values.is_complex() else torch.float64).numpy().ravel()
    size = np.abs(x) if values.is_complex() else x
    return {
        "variance": np.var(x),
        "mean": abs(np.mean(x)) if values.is_complex() else np.mean(x),
        "std": np.std(x),
        "rms": np.sqrt(np.mean(np.abs(x) ** 2)),
        "norm": np.sqrt(np.sum(np.abs(x) ** 2)),
        "min": size.min(),
        "max": size.max(),
        "max_abs": np.abs(x).max(),
        "sparsity": np.mean(x == 0),
        "nonfinite": np.sum(~np.isfinite(x)),
    } | ({} if values.is_complex() or np.var(x) == 0 else {"kurtosis": np.mean((x - x.mean()) ** 4) / np.var(x) ** 2})


def measured(statistics, *parts):
    gauge = Gauge({name: name for name in statistics})
    gauges = Gauges([gauge])
    for part in parts:
        gauge.add(part)
    return gauges.take().values()


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("statistics", [tuple(LEAN), (*LEAN, *FULL)], ids=["fast", "exact"])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_statistic_equals_the_reference(name, statistics, parts):
    values = TENSORS[name]
    expected = reference(values)
    pieces = values.chunk(parts) if values.numel() >= parts else [values]
    got = measured(statistics, *pieces)
    for statistic in set(statistics) & set(expected):
        tolerance = {"rel": 1e-4, "abs": 1e-9 if statistic == "mean" and abs(expected["mean"]) < 1e-6 else 1e-60}
        assert got[statistic] == pytest.approx(expected[statistic], **tolerance), statistic


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1e3, 1e30])
@pytest.mark.parametrize("n", [1, 7, 8192, 8193, 300_001])
def test_constants_have_a_variance_of_exactly_zero(value, n):
    for statistics in (("variance",), ("variance", "max")):
        assert measured(statistics, torch.full((n,), value), torch.full((3,), value))["variance"] == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [8192, 1_000_003])
def test_ones_in_low_precision_have_a_mean_of_exactly_one(dtype, n):
    """Summed in their own precision the count would stop at 256, or overflow."""
    for statistics in (("mean", "variance", "rms"), ("mean", "variance", "rms", "max")):
        got = measured(statistics, torch.ones(n, dtype=dtype))
        assert (got["mean"], got["variance"], got["rms"]) == (1.0, 0.0, 1.0)
    assert energies([torch.ones(n, dtype=dtype)]) == [n]


def test_nothing_is_said_about_empty_tensors():
    for statistics in (("variance", "norm"), ("variance", "min", "kurtosis")):
        assert measured(statistics, torch.empty(0, 3)) == {}
        assert measured(statistics, torch.empty(0), torch.tensor([1.0, 3.0]))["variance"] == 1.0
    assert energies([torch.empty(0)]) == [0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_and_is_counted(bad):
    values = torch.tensor([1.0, bad, 2.0])
    got = measured(("variance", "mean", "nonfinite", "max"), values)
    assert math.isnan(got["variance"])
    assert not math.isfinite(got["mean"])
    assert got["nonfinite"] == 1
    assert math.isnan(measured(("variance",), values)["variance"])
    assert energies([values]) == pytest.approx([math.inf if math.isinf(bad) else math.nan], nan_ok=True)


def test_an_extreme_that_is_not_a_number_stays_so_whichever_call_it_came_from():
    finite, broken = torch.tensor([1.0, 2.0]), torch.tensor([3.0, math.nan])
    for parts in itertools.permutations([finite, broken, finite]):
        assert all(math.isnan(one) for one in measured(("min", "max", "max_abs"), *parts).values())


def test_conjugates_and_negatives_that_torch_has_not_carried_out_are_read():
    lazy = torch.complex(drawn(50), drawn(50, seed=1)).conj()
    for one in (lazy, lazy.imag):
        wide = one.resolve_conj().resolve_neg().to(torch.complex128).numpy()
        assert measured(("variance",), one)["variance"] == pytest.approx(wide.var(), rel=1e-5)
        assert energies([one]) == pytest.approx([(abs(wide) ** 2).sum()], rel=1e-5)


def test_sparse_tensors_are_read():
    sparse = torch.sparse_coo_tensor([[0, 2, 2]], [1.0, 3.0, 1.0], (4,), check_invariants=True)
    assert energies([sparse]) == [17.0]
    assert fast.summary(sparse)[:2] == (2, 2.5)


MIXED = [
    *TENSORS.values(),
    *(torch.full((n,), value) for n in (3, 200_000) for value in (0.0, 0.1, 1e-30)),
    *(torch.empty(0, 2), drawn(300) * math.nan, drawn(90_000) * math.inf, drawn(9000).view(90, 100).T),
    drawn(9000).view(90, 100)[:, ::3],
]


@pytest.mark.parametrize("n", [100, 1000, 4096, 10**6])
def test_the_mean_is_good_where_it_is_but_chance(n):
    """Most weights have a mean of 0, but for the draw: std / sqrt(n) is all that there is to be seen."""
    for seed in range(5):
        values = drawn(n, seed=seed)
        assert measured(("mean",), values)["mean"] == pytest.approx(values.double().mean().item(), abs=1e-5 / n**0.5)


def test_the_energies_of_many_equal_the_reference_and_those_of_each():
    plain = [one for one in MIXED if one.dtype is torch.float32 and one.is_contiguous()]
    assert len(plain) > 10
    for tensors in (plain, MIXED, []):
        wide = [one.detach().to(torch.complex128 if one.is_complex() else torch.float64) for one in tensors]
        expected = [(one.abs() ** 2).sum().item() for one in wide]
        assert energies(tensors) == pytest.approx(expected, rel=1e-4, abs=0, nan_ok=True)
        each = [energies([one])[0] for one in tensors]
        assert each == pytest.approx(expected, rel=1e-4, abs=0, nan_ok=True)


def energies(tensors):
    totals = array("d", bytes(8 * len(tensors)))
    fast.add_energies(tensors, array("q", range(len(tensors))), totals)
    return totals.tolist()


def moments_of_each(tensors):
    table = fast.Table(len(tensors))
    fast.add_each([table.row(index) for index in range(len(tensors))], tensors)
    return list(zip(*table.take(), strict=True))


def test_energies_are_added_to_the_totals_of_their_owners_times_a_factor():
    for last in (torch.ones(3), torch.ones(3, dtype=torch.float64)):
        totals = array("d", [1.0, 2.0, 3.0])
        fast.add_energies([torch.ones(2), torch.full((5,), 2.0), last], array("q", [2, 0, 2]), totals, 0.5)
        assert totals.tolist() == [11.0, 2.0, 5.5]


def test_the_moments_of_many_are_those_of_each():
    plain = [drawn(n, seed=n) for n in (10, 9000, 100_000)] + [drawn(3) * math.nan, torch.empty(0)]
    for tensors in (plain, MIXED, []):
        for one, got in zip(tensors, moments_of_each(tensors), strict=True):
            assert got == pytest.approx(fast.summary(one)[:4], rel=1e-9, abs=1e-60, nan_ok=True)


def test_what_another_thread_pools_in_the_meantime_counts_too(monkeypatch):
    table, moments = fast.Table(1), fast._moments

    def slowly(values):
        if len(values) == 2:
            table.row(0).add(torch.ones(3, dtype=torch.float64))
        return moments(values)

    monkeypatch.setattr(fast, "_moments", slowly)
    table.row(0).add(torch.ones(2, dtype=torch.float64))
    assert list(table.take()[0]) == [5.0]


def test_the_kernel_does_not_give_way_to_threads_that_run_the_same_layer():
    """Without the GIL, what two of them pool at once may get lost."""
    kernel = pytest.importorskip("lightning_init.kernels.moments")
    for pool in (kernel.pool_one, kernel.pool_all):
        assert not pool.targetoptions.get("nogil", False)


def test_what_has_lost_its_memory_has_no_values():
    for dtype in (torch.float32, torch.float64):
        whole = torch.ones(100_000, dtype=dtype)
        views = whole[90_000:], whole[90_000:].view(100, 100).T, whole[::2]
        whole.untyped_storage().resize_(0)
        for freed in (whole, *views):
            assert fast.summary(freed).number == 0
            assert [one[0] for one in moments_of_each([freed, torch.ones(2)])] == [0, 2]
            assert energies([freed, torch.ones(2)]) == [0.0, 2.0]


def test_pooling_is_the_same_in_any_order():
    drawings = [drawn(n, mean, seed=n) for n, mean in ((10, 0.0), (500, 5.0), (33, -2.0))]
    whole = Summary(*summarize(torch.cat(drawings)).tolist())
    parts = [Summary(*summarize(one).tolist()) for one in drawings]
    for order in itertools.permutations(parts):
        assert pooled(order) == pytest.approx(whole, rel=1e-9)


def test_channels_last_takes_the_short_way_beside_others(monkeypatch):
    monkeypatch.setattr(fast, "flattened", Mock(side_effect=AssertionError("the long way")))
    for size in (4, 40):
        plain = torch.randn(2, 3, size, 5 * size)
        tensors = [plain, plain.contiguous(memory_format=torch.channels_last), plain[0]]
        first, last, _ = moments_of_each(tensors)
        assert last == pytest.approx(first, rel=1e-5)
        first, last, _ = energies(tensors)
        assert last == pytest.approx(first, rel=1e-5)


def test_saturation_counts_what_is_near_the_bounds():
    gauge = Gauge({"activation_saturation/0": "saturation"}, bounds=(-1.0, 1.0))
    gauges = Gauges([gauge])
    gauge.add(torch.tensor([-1.0, -0.99, 0.0, 0.5, 0.97, 0.985, 1.0, 0.2]))
    assert gauges.take().values() == {"activation_saturation/0": 0.5}


def test_unguarded_sums_would_be_wrong():
    """The mutant: without the guard, the dot product cancels."""
    values = TENSORS["mean 1e3, std 1e-3"].numpy()
    naive = float(values.dot(values)) / values.size - float(values.mean()) ** 2
    assert naive != pytest.approx(np.var(values.astype(np.float64)), rel=0.1)


def test_a_copied_row_writes_to_the_copy_of_its_table():
    """The kernel writes to an address: a copy must not keep that of the first."""
    table = fast.Table(1)
    row = table.row(0)
    for copied in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        copied(row).add(torch.ones(3))
        assert copied(row).address != row.address
        again, (kept,) = copied((table, [row]))
        kept.add(torch.ones(3))
        assert list(again.take()[0]) == [3.0]
    assert list(table.take()[0]) == [0.0]


@pytest.mark.parametrize("n", [5000, 24_001, 300_007])
def test_large_constants_have_no_variance_and_one_other_value_shows(n):
    """The mean of the first values has few digits, from which all others lie equally far."""
    generator = torch.Generator().manual_seed(n)
    for value in torch.randn(20, generator=generator).tolist():
        constant = torch.full((n,), value)
        assert fast.summary(constant) == (n, constant[0].item(), *Summary()[2:])
        constant[n // 2] = constant[0].nextafter(torch.tensor(9.0))
        exact = constant.double().sub(constant[0]).var(correction=0).item() * n
        assert fast.summary(constant).m2 == pytest.approx(exact, rel=1e-6)


def test_first_values_that_lie_far_from_the_others_cost_no_digits():
    for n, value in itertools.product((2000, 5000, 24_001), drawn(20).tolist()):
        values = torch.full((n,), value)
        values[:256] = 0.0
        wide = values.double()
        found = fast.summary(values)
        assert found.m2 / n == pytest.approx(wide.var(correction=0).item(), rel=2e-5)
        assert found.mean == pytest.approx(wide.mean().item(), rel=2e-6)
