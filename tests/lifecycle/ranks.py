"""Runs on two processes, each fit below in turn; started as a script by test_ranks.py, which reads what it leaves.

`python ranks.py FOLDER`: the first Trainer launches the second process by running this command again, as Lightning
does for every user of `strategy="ddp"`. Each rank writes `FOLDER/rank<n>.pt`: case -> what it saw.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lits import SEED, Lit, callback, layers, loader, same, trainer, weights
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, default_collate

from lightning_init import InitCallback, SignalMonitor, initialize, initializers

CPU = torch.device("cpu")


class CPUFSDP(FSDPStrategy):
    """FSDP over gloo: torch can, Lightning asks for a GPU (by this very class, so a subclass passes)."""

    def _setup_model(self, model):
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            return model
        return FullyShardedDataParallel(model, device_id=CPU, **self.kwargs)


class Flat(Lit):
    """For FSDP1, whose parameters are flat between the steps."""

    def __init__(self, build, meta=False, wrap=False):
        super().__init__("__init__" if build == "__init__" and not meta else build)
        self.meta, self.wrap = meta, wrap

    def configure_model(self):
        if not hasattr(self, "net"):
            with torch.device("meta" if self.meta else "cpu"):
                self.net = layers()
        if self.wrap:
            for i in (0, 2):
                self.net[i] = FullyShardedDataParallel(self.net[i], device_id=CPU, use_orig_params=True)

    def on_train_start(self):
        with FullyShardedDataParallel.summon_full_params(self.trainer.strategy.model, writeback=False):
            self.first = {k.replace("_fsdp_wrapped_module.", ""): v.clone() for k, v in weights(self).items()}

    def configure_optimizers(self):
        return torch.optim.Adam(self.trainer.strategy.model.parameters(), lr=self.lr)  # Lightning needs a state to load


class Sharded(Lit):
    """For ModelParallelStrategy: FSDP2 or tensor parallel, with memory or without."""

    def __init__(self, meta=False, tensor_parallel=False):
        super().__init__("configure_model")
        self.meta, self.tensor_parallel = meta, tensor_parallel

    def configure_model(self):
        if hasattr(self, "net"):
            return
        with torch.device("meta" if self.meta else "cpu"):
            self.net = layers()
        if self.tensor_parallel:
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)
        else:
            for layer in (self.net[0], self.net[2], self.net):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])


def fit(module, root, *callbacks, ckpt_path=None, batches=4, **options):
    runner = trainer(root, *callbacks, **{"devices": 2, **options})
    runner.fit(module, loader(batches), ckpt_path=ckpt_path)
    return runner


def ddp(root, build):
    """The ranks' global seeds differ, and so do their constructors' weights: rank 0's seed decides."""
    torch.manual_seed(100 + int(os.environ.get("LOCAL_RANK", 0)))
    module, init = Lit(build), callback(seed=None)
    fit(module, root, init, strategy="ddp")
    return {"first": module.first, "last": weights(module), "seed": init.report.seed}


def again(root, module, strategy):
    """A second fit, by another callback."""
    fit(module, root, callback(), strategy=strategy())
    trained = weights(module)
    fit(module, root, InitCallback("zeros", monitor=False), strategy=strategy())
    return {"trained": trained, "first": module.first}


def resume(root, make, strategy):
    """Train, then resume new modules from the checkpoint: by its path, as "last"."""
    options = {"strategy": strategy(), "enable_checkpointing": True}
    saver = ModelCheckpoint(dirpath=root / "saved", save_last=True)
    module = make()
    fit(module, root, callback(), saver, **options)
    seen = {"initial": module.first, "trained": whole(module)}
    for epochs, name, ckpt_path in ((2, "path", saver.last_model_path), (3, "last", "last")):
        module, saver = make(), ModelCheckpoint(dirpath=root / "saved", save_last=True)
        options["strategy"] = strategy()
        fit(module, root, callback(), saver, ckpt_path=ckpt_path, max_epochs=epochs, **options)
        seen |= {name: module.first, f"{name} trained": whole(module)}
    return seen


def whole(module):
    """The weights after a fit, also those that FSDP1 has flattened."""
    with FullyShardedDataParallel.summon_full_params(module.trainer.strategy.model, writeback=False):
        return {name.replace("_fsdp_wrapped_module.", ""): value for name, value in weights(module).items()}


def fsdp(root, build, *, use_orig_params=True, **options):
    module = Flat(build, **options)
    fit(module, root, callback(), strategy=CPUFSDP(use_orig_params=use_orig_params))
    return {"first": module.first, "last": whole(module)}


def model_parallel(root, sizes=(2, 1), **options):
    module, init = Sharded(**options), callback()
    fit(module, root, init, strategy=ModelParallelStrategy(*sizes))
    kinds = [type(parameter).__name__ for parameter in module.parameters()]
    return {"first": module.first, "kinds": kinds, "std": init.report.entries[0].achieved_std}


def fsdp2():
    return ModelParallelStrategy(2, 1)


def monitored(root):
    """Rank zero alone writes; sync_dist pools what both ranks saw."""
    module, monitor = Lit(), SignalMonitor(sync_dist=True)
    logger = TensorBoardLogger(root, name="", version="run")
    fit(module, root, callback(monitor=monitor), strategy="ddp", logger=logger, batches=2)
    return {"first": module.first, "point": monitor.last}


EVERYTHING = {
    "weights": ("variance", "mean", "kurtosis", "max_abs"),
    "gradients": ("norm", "mean", "max"),
    "updates": ("norm", "ratio"),
}


def norms(root, module, strategy, batches=2):
    """The signals of the parameters at the first step, as the monitor has them on rank zero."""
    monitor = SignalMonitor(**EVERYTHING)
    fit(module, root, callback(monitor=monitor), strategy=strategy, batches=batches)
    return {"point": monitor.last}


def calibrated(root):
    """Both ranks end with what rank zero calibrated to its data; a failure there ends both."""
    module = Lit()
    fit(module, root, InitCallback("lsuv", seed=SEED, monitor=False), strategy="ddp")
    first, module = module.first, Lit()
    module.net[0].weight.data.zero_()
    before, message = weights(module), ""
    try:
        fit(module, root, InitCallback("lsuv", rules={"net.0.*": None}, monitor=False), strategy="ddp")
    except (ValueError, RuntimeError) as error:
        message = str(error)
    return {"first": first, "message": message, "restored": same(weights(module), before)}


class Seen(Lit):
    """Remembers its batches and the random numbers beside them; `reads` counts what is taken before training."""

    def __init__(self, scale=None):
        super().__init__()
        self.seen, self.reads = [], 0
        if scale is not None:
            self.example_input_array = torch.full((4, 8), scale)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.seen += [batch[0], torch.rand(1, 8)]
        return super().training_step(batch, batch_idx)


def auto(root, initializer, scale=None, *, shy=False):
    """Values by the report, since DDP gives every rank the values of rank zero anyway."""
    torch.manual_seed(100 + int(os.environ.get("LOCAL_RANK", 0)))
    module = Seen(None if scale is None else scale + int(os.environ.get("LOCAL_RANK", 0)))

    def collate(items):
        if module.first is None:
            module.reads += len(items)
            if shy:
                raise ValueError("not yet")
        return default_collate(items)

    data = DataLoader(loader(4).dataset, batch_size=8, shuffle=True, collate_fn=collate)
    init = InitCallback(initializer, seed=SEED, monitor=False)
    trainer(root, init, devices=2, strategy="ddp").fit(module, data)
    report = json.dumps(init.report.to_dict())
    return {"first": module.first, "seen": torch.cat(module.seen), "reads": module.reads, "report": report}


def mechanism(root):
    """Every initializer on DTensors of every placement, and in uneven shards: what plain tensors get."""
    mesh = init_device_mesh("cpu", (2,))
    wrong, tried = [], 0
    for name in [name for name in initializers.names() if not initializers.get(name).needs_model]:
        for placement in (Shard(0), Shard(1), Replicate()):
            model = odd_layers()
            try:
                initialize(model, name, seed=SEED)
            except ValueError:  # dirac, eye, ...: not for these layers
                continue
            values = weights(model)
            model = odd_layers()
            for module in model.modules():
                for leaf, parameter in list(module.named_parameters(recurse=False)):
                    where = placement if parameter.ndim > 1 or placement != Shard(1) else Replicate()
                    setattr(module, leaf, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [where])))
            initialize(model, name, seed=SEED)
            tried += 1
            if not same(weights(model), values):
                wrong.append((name, str(placement)))
    return {"wrong": wrong, "tried": tried}


def odd_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Embedding(3, 5, padding_idx=0), nn.LSTM(5, 3), nn.LayerNorm(5))


CASES = {
    "ddp __init__": lambda root: ddp(root, "__init__"),
    "ddp setup": lambda root: ddp(root, "setup"),
    "ddp configure_model": lambda root: ddp(root, "configure_model"),
    "ddp again": lambda root: again(root, Lit(), lambda: "ddp"),
    "ddp resume": lambda root: resume(root, Lit, lambda: "ddp"),
    "ddp monitored": monitored,
    "ddp calibrated": calibrated,
    "ddp auto": lambda root: auto(root, "auto"),
    "ddp auto example": lambda root: auto(root, "auto", 3.0),
    "ddp auto shy": lambda root: auto(root, "auto", shy=True),
    "ddp not auto": lambda root: auto(root, "orthogonal"),
    "fsdp __init__": lambda root: fsdp(root, "__init__"),
    "fsdp setup": lambda root: fsdp(root, "setup"),
    "fsdp configure_model": lambda root: fsdp(root, "configure_model"),
    "fsdp flat": lambda root: fsdp(root, "configure_model", use_orig_params=False),
    "fsdp wrapped": lambda root: fsdp(root, "configure_model", wrap=True),
    "fsdp meta": lambda root: fsdp(root, "configure_model", meta=True),
    "fsdp meta flat": lambda root: fsdp(root, "configure_model", meta=True, use_orig_params=False),
    "fsdp resume": lambda root: resume(root, lambda: Flat("setup"), lambda: CPUFSDP(use_orig_params=True)),
    "model_parallel": model_parallel,
    "model_parallel meta": lambda root: model_parallel(root, meta=True),
    "model_parallel tensor": lambda root: model_parallel(root, (1, 2), tensor_parallel=True),
    "model_parallel tensor meta": lambda root: model_parallel(root, (1, 2), tensor_parallel=True, meta=True),
    "model_parallel again": lambda root: again(root, Sharded(), fsdp2),
    "model_parallel resume": lambda root: resume(root, lambda: Sharded(meta=True), fsdp2),
    "ddp norms": lambda root: norms(root, Lit(), "ddp"),
    "fsdp norms": lambda root: norms(root, Flat("setup"), CPUFSDP(use_orig_params=True)),
    "fsdp flat norms": lambda root: norms(root, Flat("setup"), CPUFSDP(use_orig_params=False)),
    "model_parallel norms": lambda root: norms(root, Sharded(), fsdp2()),
    "tensor_parallel norms": lambda root: norms(
        root, Sharded(tensor_parallel=True), ModelParallelStrategy(1, 2), batches=1
    ),
    "mechanism": mechanism,
}


def main(folder):
    warnings.simplefilter("ignore")
    seen = {}
    for i, (name, case) in enumerate(CASES.items()):
        if len(sys.argv) > 2 and name not in sys.argv[2:]:  # by hand: only these
            continue
        root = folder / str(i)
        torch.manual_seed(0)
        try:
            seen[name] = case(root)
        except Exception:  # noqa: BLE001 (one broken case must not hide the others)
            seen[name] = {"error": traceback.format_exc()}
    torch.save(seen, folder / f"rank{os.environ['LOCAL_RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
