"""Workers that the Trainer spawns or forks train a copy of the module; what they initialized is never wiped."""

import pickle

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lits import SEED, Lit, callback, expected, layers, loader, same, trainer, weights
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_init import InitCallback, initialize
from lightning_init.callbacks import _marks
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.probe import Probe
from lightning_init.signals.shards import make_shards

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


class Recorder(Lit):
    """Leaves its first weights in a file: nothing else comes back from a worker."""

    def __init__(self, path, build="__init__", lr=0.1):
        super().__init__(build, lr)
        self.path = path

    def on_train_start(self):
        super().on_train_start()
        torch.save(self.first, self.path / f"rank{self.trainer.global_rank}.pt")

    def read(self, rank=0):
        return torch.load(self.path / f"rank{rank}.pt", weights_only=True)


class HalfLate(Recorder):
    """The trunk is built at once, the head in `setup`: the main process never has it."""

    def setup(self, stage):
        if not hasattr(self, "head"):
            self.head = torch.nn.Linear(1, 1)

    def loss(self, batch):
        return self.head(self.net(batch[0])).square().mean()


@pytest.mark.parametrize(("strategy", "devices"), [("ddp_fork", 2), ("ddp_spawn", 1)])
def test_a_second_fit_keeps_the_trained_weights(tmp_path, strategy, devices):
    module, options = Recorder(tmp_path), {"strategy": strategy, "devices": devices}
    init = callback()
    trainer(tmp_path, init, **options).fit(module, loader())
    trained = weights(module)
    assert all(same(module.read(rank), expected()) for rank in range(devices))
    assert not same(trained, expected())
    again = pickle.loads(pickle.dumps(init)) if strategy == "ddp_spawn" else InitCallback("zeros", monitor=False)
    trainer(tmp_path, again, **options).fit(module, loader())
    assert all(same(module.read(rank), trained) for rank in range(devices))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("strategy", "devices"), [("ddp_fork", 2), ("ddp_spawn", 1)])
def test_a_checkpoint_wins_in_workers(tmp_path, strategy, devices):
    """By path, and as "last" in the folder of an earlier fit."""
    options = {"strategy": strategy, "devices": devices, "enable_checkpointing": True}
    module = Recorder(tmp_path)
    for epochs, ckpt_path in enumerate((None, tmp_path / "saved" / "last.ckpt", "last"), start=1):
        trained, module = weights(module), Recorder(tmp_path)
        saver = ModelCheckpoint(dirpath=tmp_path / "saved", save_last=True)
        runner = trainer(tmp_path, callback(), saver, max_epochs=epochs, **options)
        runner.fit(module, loader(), ckpt_path=ckpt_path)
        assert all(same(module.read(rank), trained if ckpt_path else expected()) for rank in range(devices))
        assert not same(weights(module), module.read())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_nor_where_the_worker_trains_in_another_precision(tmp_path, precision):
    module, options = Recorder(tmp_path), {"strategy": "ddp_fork", "precision": precision}
    trainer(tmp_path, callback(), **options).fit(module, loader())
    trained = weights(module)
    trainer(tmp_path, callback(), **options).fit(module, loader())
    assert same({name: value.float() for name, value in module.read().items()}, trained)


def test_what_a_worker_never_gave_back_is_initialized_again(tmp_path):
    module, options = Recorder(tmp_path, "setup"), {"strategy": "ddp_fork"}
    for _ in range(2):  # Lightning drops layers that the main process has not built
        trainer(tmp_path, callback(), **options).fit(module, loader())
        assert same(module.read(), expected())


def test_a_head_that_is_built_in_each_worker_is_initialized_beside_the_trained_trunk(tmp_path):
    module, options = HalfLate(tmp_path), {"strategy": "ddp_fork"}
    heads = []
    for _ in range(2):
        trained = weights(module)
        trainer(tmp_path, callback(), **options).fit(module, loader())
        heads.append({k: v for k, v in module.read().items() if k.startswith("head")})
    assert same({k: v for k, v in module.read().items() if k.startswith("net")}, trained)
    assert same(*heads)


def test_other_modules_are_not_mistaken_for_trained_ones(tmp_path):
    init, options = callback(), {"strategy": "ddp_fork"}
    for _ in range(2):
        module = Recorder(tmp_path)
        trainer(tmp_path, init, **options).fit(module, loader())
        assert same(module.read(), expected())


def test_the_ledger_forgets_the_oldest():
    entries = torch.zeros(1 + _marks._FITS, dtype=torch.int64)
    for number in range(1, _marks._FITS + 2):
        _marks.enter(entries, number)
    assert not _marks.entered(entries, 1)
    assert all(_marks.entered(entries, number) for number in (2, _marks._FITS + 1))


def test_a_fingerprint_changes_with_every_bit_name_and_shape():
    module = layers()
    wanted = _marks.dtypes(module)
    before = _marks.fingerprint(module, wanted)
    assert before == _marks.fingerprint(module, wanted) != 0
    assert _marks.fingerprint(torch.nn.Sequential(), {}) is None
    assert _marks.fingerprint(torch.nn.Sequential(), wanted) is None
    module[2].bias.data.view(torch.int32).bitwise_xor_(1)
    assert _marks.fingerprint(module, wanted) != before


def test_a_machine_without_shared_memory_can_train(monkeypatch):
    def refuse(self):
        raise RuntimeError("unable to open shared memory object")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    entries = _marks.ledger.__wrapped__()
    _marks.enter(entries, 5)
    assert _marks.entered(entries, 5)


def two_dimensional(rank, folder):
    store = torch.distributed.FileStore(str(folder / "store"), 4)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    right = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = layers()
        parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for part in (model[0], model[2], model):
            fully_shard(part, mesh=mesh["data"])
        if device == "meta":
            model.to_empty(device="cpu")
        initialize(torch.nn.ModuleDict({"net": model}), "orthogonal", seed=SEED)
        right.append(same({f"net.{name}": value for name, value in weights(model).items()}, expected()))
    torch.save(right, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_four_ranks_that_shard_in_two_dimensions_hold_the_same_values(tmp_path):
    torch.multiprocessing.start_processes(two_dimensional, (tmp_path,), 4, start_method="fork")
    assert [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(4)] == [[True, True]] * 4


def stack():
    """Layers of every kind of place; their parts are replicated over one of the two dimensions, said or unsaid."""
    torch.manual_seed(0)
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 5))
    return torch.nn.Sequential(torch.nn.Linear(4, 6), normed, torch.nn.LayerNorm(5), torch.nn.Linear(5, 3))


def point(model, shards, gather):
    """The signals of an update that halves every parameter, whose gradient is itself."""
    everything = Wanted(("variance", "kurtosis"), (), ("norm", "mean"), ("ratio",))
    probe = Probe(model, everything, shards=shards)
    probe.open()
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    probe.before_update()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    return probe.close().values(gather)


def divided(rank, folder):
    store = torch.distributed.FileStore(str(folder / "store"), 4)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))

    def gather(mine):
        ranks = [torch.empty_like(mine) for _ in range(4)]
        torch.distributed.all_gather(ranks, mine)
        return torch.stack(ranks)

    seen = []
    for where, how in (
        (mesh, [Shard(0), Replicate()]),
        (mesh, [Replicate(), Shard(0)]),
        (mesh, [Shard(0), Shard(0)]),
        (mesh["data"], [Shard(0)]),
        (mesh["tensor"], [Replicate()]),
    ):
        model = stack()
        for module in model.modules():
            for leaf, parameter in list(module.named_parameters(recurse=False)):
                if module is not model[3]:  # which stays on every rank, whole
                    shared = torch.nn.Parameter(distribute_tensor(parameter.detach(), where, how))
                    module._parameters[leaf] = shared
        seen.append(point(model, make_shards(model), gather))
    torch.save(seen, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_every_value_counts_once_however_parameters_are_divided(tmp_path):
    torch.multiprocessing.start_processes(divided, (tmp_path,), 4, start_method="fork")
    whole = point(stack(), None, None)
    assert "weight_variance/1" in whole
    assert "gradient_norm_total" in whole
    for rank in range(4):
        for seen in torch.load(tmp_path / f"rank{rank}.pt"):
            assert seen == pytest.approx(whole, rel=1e-5, abs=1e-9, nan_ok=True)
