"""On two processes, under every strategy: the values that the same seed gives without sharding, on every rank."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lits import Lit, callback, expected, loader, same, trainer
from ranks import CASES, EVERYTHING, Flat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_init import SignalMonitor

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
FSDP = [f"fsdp {case}" for case in ("__init__", "setup", "configure_model", "flat", "wrapped", "meta", "meta flat")]
BUILDS = ["__init__", "setup", "configure_model"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the two processes have left what they saw; one launch serves every test."""
    folder = tmp_path_factory.mktemp("ranks")
    seeds = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # which a sweep in this process leaves behind
    inherited = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", *seeds)}
    script = Path(__file__).with_name("ranks.py")
    run = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**inherited, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture
def ranks(folder):
    def of(case):
        seen = [torch.load(folder / f"rank{rank}.pt", weights_only=True)[case] for rank in (0, 1)]
        errors = [rank["error"] for rank in seen if "error" in rank]
        assert not errors, errors[0]
        return seen

    return of


@pytest.mark.parametrize("build", BUILDS)
def test_ddp_takes_rank_zeros_seed_and_ranks_stay_identical(ranks, build):
    zero, one = ranks(f"ddp {build}")
    assert zero["seed"] == one["seed"] == 100
    assert same(zero["first"], expected(seed=100))
    assert same(zero["first"], one["first"])
    assert same(zero["last"], one["last"])
    assert not same(zero["first"], zero["last"])


def test_a_calibration_is_the_same_on_every_rank_and_fails_on_every_rank(ranks):
    zero, one = ranks("ddp calibrated")
    assert same(zero["first"], one["first"])
    assert not same(zero["first"], expected())
    assert "layer net.2: its output is constant over the batch" in zero["message"]
    assert "the calibration on rank zero has failed: ValueError: layer net.2" in one["message"]
    assert zero["restored"]
    assert one["restored"]


@pytest.mark.parametrize("case", ["", " example", " shy"])
def test_auto_chooses_the_same_on_every_rank(ranks, case):
    zero, one = ranks(f"ddp auto{case}")
    assert zero["report"] == one["report"]
    assert same(zero["first"], one["first"])
    assert ("not known" in zero["report"]) == (case == " shy")


def test_auto_takes_one_batch_on_rank_zero_and_training_sees_nothing_of_it(ranks):
    batch = loader(1).batch_size
    for case, reads in (("auto", batch), ("auto example", 0), ("auto shy", batch), ("not auto", 0)):
        zero, one = ranks(f"ddp {case}")
        assert (zero["reads"], one["reads"]) == (reads, 0), case
        for rank, plain in zip((zero, one), ranks("ddp not auto"), strict=True):
            assert torch.equal(rank["seen"], plain["seen"]), case


def test_auto_scales_to_the_example_of_rank_zero(ranks):
    entries = json.loads(ranks("ddp auto example")[1]["report"])["parameters"]
    assert "inputs of mean square 9" in entries[0]["why"]


@pytest.mark.parametrize("case", FSDP)
def test_fsdp_shards_the_values_of_the_unsharded_model(ranks, case):
    for rank in ranks(case):
        assert same(rank["first"], expected())
        assert not same(rank["first"], rank["last"])


@pytest.mark.parametrize("case", ["", " meta", " tensor", " tensor meta"])
def test_model_parallel_shards_the_values_of_the_unsharded_model(ranks, case):
    for rank in ranks(f"model_parallel{case}"):
        assert "DTensor" in rank["kinds"]
        assert same(rank["first"], expected())
        assert rank["std"] == pytest.approx(float(expected()["net.0.weight"].std(correction=0)))


@pytest.mark.parametrize("strategy", ["ddp", "model_parallel"])
def test_a_second_fit_never_initializes_again(ranks, strategy):
    for rank in ranks(f"{strategy} again"):
        assert same(rank["first"], rank["trained"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "model_parallel"])
def test_a_checkpoint_wins(ranks, strategy):
    for rank in ranks(f"{strategy} resume"):
        assert same(rank["initial"], expected())
        assert not same(rank["initial"], rank["trained"])
        assert same(rank["path"], rank["trained"])
        assert not same(rank["last"], rank["trained"])  # the second fit has trained an epoch more


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "model_parallel"])
def test_resuming_from_last_starts_where_the_fit_before_it_ended(ranks, strategy):
    for rank in ranks(f"{strategy} resume"):
        assert same(rank["last"], rank["path trained"])


def test_every_initializer_gives_shards_of_what_it_gives_plain_tensors(ranks):
    for rank in ranks("mechanism"):
        assert rank["wrong"] == []
        assert rank["tried"] > 50


def test_rank_zero_alone_writes(ranks, folder):
    ranks("ddp monitored")
    root = folder / str(list(CASES).index("ddp monitored"))
    assert len(list(root.rglob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(root / "run")).Reload()
    assert [event.step for event in events.Scalars("activation_variance/net.0")] == [0]


def test_sync_dist_pools_the_activations_of_all_ranks(ranks):
    zero, _ = ranks("ddp monitored")
    module = Lit()
    module.load_state_dict(zero["first"])
    with torch.no_grad():
        pooled = module.net[0](loader(2).dataset.tensors[0]).var(correction=0)  # each rank saw half of it, once
    index, values = zero["point"]
    assert index == 0
    assert values["activation_variance/net.0"] == pytest.approx(float(pooled), rel=1e-5)


BATCH = {"ddp": 16, "fsdp": 16, "model_parallel": 16, "tensor_parallel": 8}  # of all ranks together


@pytest.mark.parametrize("strategy", BATCH)
def test_signals_of_divided_parameters_are_those_of_the_whole_model(ranks, tmp_path, strategy):
    zero, one = ranks(f"{strategy} norms")
    alone = SignalMonitor(**EVERYTHING)
    module = Lit() if strategy != "fsdp" else Flat("setup")  # the one that trains with Adam
    fit = trainer(tmp_path, callback(monitor=alone))
    fit.fit(module, loader(1, BATCH[strategy]))
    step, values = zero["point"]
    assert step == 0
    assert values.keys() == alone.last[1].keys()
    for tag, value in alone.last[1].items():
        if not tag.startswith("activation"):
            assert values[tag] == one["point"][1][tag] == pytest.approx(value, rel=1e-4, abs=1e-7), tag


def test_a_flat_parameter_is_shown_as_one_weight(ranks):
    zero, one = ranks("fsdp flat norms")
    values, of_slices = zero["point"][1], ranks("fsdp norms")[0]["point"][1]
    assert values["gradient_norm_total"] == pytest.approx(of_slices["gradient_norm_total"], rel=1e-4)
    assert values["gradient_norm/Flat"] == values["gradient_norm_total"] == one["point"][1]["gradient_norm_total"]
    flat = torch.cat([value.flatten() for value in expected().values()])
    assert values["weight_variance/_flat_param"] == pytest.approx(float(flat.var(correction=0)), rel=0.02)  # padded
