"""What monitoring costs: the same run with and without it, toggled every few steps, and the ratio of the step times.

    python -m benchmarks.monitor                          # everything, at 1 and 2 threads
    python -m benchmarks.monitor --workloads W1 --ways monitor --seconds 20
    python -m benchmarks.monitor --soak 20000             # memory and file size over many steps
    python -m benchmarks.monitor --layers 100 1000 10000  # cost over depth

Blocks of steps with and without hooks alternate inside one `Trainer.fit`, so that whatever else the machine does hits
both alike. The ratio is that of the median step times; its interval is a bootstrap over pairs of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import grad_norm
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.environment import environment
from lightning_init.callbacks.signal_monitor import SignalMonitor
from lightning_init.signals.probe import Probe

RESULTS = Path(__file__).parent / "results"
BLOCK = 6  # steps with or without monitoring before the other has its turn
PAIRS = 5  # blocks of each kind at least, however long they take; the first two pairs warm up


# --- workloads ------------------------------------------------------------------------------------------------------


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet18() -> nn.Module:
    from torchvision.models import resnet18 as build

    return build(num_classes=10)


WORKLOADS = {
    "W1": (lambda: mlp(784, 256, 256, 256, 256, 10), (128, 784)),
    "W2": (resnet18, (32, 3, 64, 64)),
    "W3": (lambda: mlp(*[64] * 101), (64, 64)),
}


class Lit(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        del batch_idx
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


# --- ways to monitor ------------------------------------------------------------------------------------------------


class Way:
    """One way to monitor, that can be switched on and off between steps."""

    def start(self, trainer: Trainer, model: LightningModule) -> None: ...
    def on(self) -> None: ...
    def off(self) -> None: ...
    def batch_start(self, trainer: Trainer, model: LightningModule) -> None: ...
    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None: ...
    def batch_end(self, trainer: Trainer, model: LightningModule) -> None: ...


class Monitor(Way):
    """SignalMonitor without alerts: variance of weights and activations, gradient norms, every layer, every step."""

    alerts = False

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        self.monitor = SignalMonitor(alerts=self.alerts)
        self.monitor.setup(trainer, model, "fit")
        self.monitor.on_fit_start(trainer, model)

    def on(self) -> None:
        self.monitor._probe.attach()  # noqa: SLF001 (the benchmark switches it step by step)

    def off(self) -> None:
        self.monitor._probe.detach()  # noqa: SLF001 (as above)

    def batch_start(self, trainer: Trainer, model: LightningModule) -> None:
        self.monitor.on_train_batch_start(trainer, model, None, 0)

    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self.monitor.on_before_optimizer_step(trainer, model, optimizer)

    def batch_end(self, trainer: Trainer, model: LightningModule) -> None:
        self.monitor.on_train_batch_end(trainer, model, None, None, 0)


class WithAlerts(Monitor):
    """SignalMonitor with its defaults, alerts included."""

    alerts = True


class Naive(Way):
    """Hooks that call `.item()`, and one `add_scalar` for each tag."""

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        self.model = model
        self.writer = trainer.logger.experiment
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def hook(self, name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def keep(module: nn.Module, args: object, output: torch.Tensor) -> None:
            del module, args
            self.log(f"activation_variance/{name}", output.detach().var(correction=0).item())

        return keep

    def log(self, tag: str, value: float) -> None:
        self.writer.add_scalar(tag, value, self.step)

    def on(self) -> None:
        for name, module in self.model.named_modules():
            if not list(module.children()):
                self.handles.append(module.register_forward_hook(self.hook(name)))

    def off(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def batch_start(self, trainer: Trainer, model: LightningModule) -> None:
        self.step = trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001 (as step_index in signal_monitor.py)

    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        total = 0.0
        for name, module in model.named_modules():
            grads = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
            if grads:
                self.log(f"weight_variance/{name}", module.weight.detach().var(correction=0).item())
                energy = sum(g.square().sum().item() for g in grads)
                self.log(f"gradient_norm/{name}", energy**0.5)
                total += energy
        self.log("gradient_norm_total", total**0.5)


class SelfLog(Naive):
    """`self.log` for each tag, and Lightning's `grad_norm`."""

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        super().start(trainer, model)

    def log(self, tag: str, value: float) -> None:
        self.model.log(tag, value)

    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        for name, module in model.named_modules():
            if isinstance(getattr(module, "weight", None), nn.Parameter):
                self.log(f"weight_variance/{name}", module.weight.detach().var(correction=0).item())
        model.log_dict(grad_norm(model, norm_type=2))


class Wandb(Way):
    """`wandb.watch(log="all")` at every step, offline."""

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        import wandb

        self.wandb = wandb
        self.model = model
        self.run = wandb.init(mode="offline", dir=tempfile.mkdtemp())

    def on(self) -> None:
        self.wandb.watch(self.model, log="all", log_freq=1)

    def off(self) -> None:
        self.wandb.unwatch(self.model)

    def batch_end(self, trainer: Trainer, model: LightningModule) -> None:
        self.run.log({})


class Delve(Way):
    """delve's `SaturationTracker`: variance of activations alone."""

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        from delve import SaturationTracker

        self.tracker = SaturationTracker(tempfile.mkdtemp(), save_to="csv", modules=model, stats=["lsat"])

    def on(self) -> None:
        self.tracker.resume()

    def off(self) -> None:
        self.tracker.stop()


WAYS = {
    "monitor": Monitor,
    "with alerts": WithAlerts,
    "naive": Naive,
    "self.log": SelfLog,
    "wandb": Wandb,
    "delve": Delve,
}
PEERS = {"wandb": "wandb", "delve": "delve"}


# --- measurement ----------------------------------------------------------------------------------------------------


class Toggle(Callback):
    """Switches a way of monitoring on and off, and takes the time of each step."""

    def __init__(self, way: Way, seconds: float) -> None:
        self.way, self.seconds = way, seconds
        self.blocks: dict[bool, list[list[float]]] = {True: [], False: []}
        self.active, self.count, self.began = False, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.way.start(trainer, pl_module)
        self.way.off()
        self.until = time.perf_counter() + self.seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        now = time.perf_counter()
        if self.count % BLOCK == 0:
            self.active = not self.active
            (self.way.on if self.active else self.way.off)()
            self.blocks[self.active].append([])
            trainer.should_stop = now > self.until and len(self.blocks[True]) > PAIRS
        elif self.count:
            self.blocks[self.active][-1].append(now - self.began)
        self.count += 1
        self.began = time.perf_counter()
        if self.active:
            self.way.batch_start(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.active:
            self.way.before_step(trainer, pl_module, optimizer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self.active:
            self.way.batch_end(trainer, pl_module)


def trainer_for(directory: str, *callbacks: Callback, **options: object) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(directory),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **options,
    )


def measure(workload: str, way: str, threads: int, seconds: float) -> dict[str, object]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    build, shape = WORKLOADS[workload]
    data = TensorDataset(torch.randn(shape).repeat(4, *[1] * (len(shape) - 1)), torch.randint(10, (4 * shape[0],)))
    toggle = Toggle(WAYS[way](), seconds)
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_for(directory, toggle, max_epochs=-1)
        trainer.fit(Lit(build()), DataLoader(data, batch_size=shape[0]))
    pairs = [(on, off) for on, off in zip(toggle.blocks[True], toggle.blocks[False], strict=False) if on and off][2:]
    ratio, low, high = bootstrap(pairs)
    off = float(np.median([t for _, block in pairs for t in block]))
    means = [float(np.mean([t for pair in pairs for t in pair[which]])) for which in (0, 1)]
    return {
        "workload": workload,
        "way": way,
        "threads": threads,
        "ratio": round(ratio, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "ratio_of_means": round(means[0] / means[1], 4),
        "step_ms": round(1e3 * off, 3),
        "added_us": round(1e6 * off * (ratio - 1), 1),
        "steps": sum(len(on) + len(off) for on, off in pairs),
    }


def bootstrap(pairs: list[tuple[list[float], list[float]]], draws: int = 1000) -> tuple[float, float, float]:
    """Ratio of the median step times, and its 95 % interval."""

    def ratio(chosen: list[tuple[list[float], list[float]]]) -> float:
        on = np.median(np.concatenate([a for a, _ in chosen]))
        return float(on / np.median(np.concatenate([b for _, b in chosen])))

    generator = np.random.default_rng(0)
    drawn = [ratio([pairs[i] for i in generator.integers(len(pairs), size=len(pairs))]) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return ratio(pairs), float(low), float(high)


# --- many steps, many layers ----------------------------------------------------------------------------------------


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(steps: int) -> dict[str, object]:
    """Train for `steps` steps: resident memory every tenth of the way, and the size of the event file."""
    torch.manual_seed(0)
    memory: list[float] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            if trainer.global_step % max(1, steps // 10) == 0:
                memory.append(round(resident_mib(), 1))

    data = TensorDataset(torch.randn(64, 16), torch.randint(10, (64,)))
    monitor = SignalMonitor(alerts=False)
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_for(directory, monitor, Look(), max_steps=steps)
        trainer.fit(Lit(mlp(16, 16, 16, 16, 10)), DataLoader(data, batch_size=16))
        size = sum(file.stat().st_size for file in Path(directory).rglob("*.tfevents.*"))
    tags = list(monitor.last[1])
    return {
        "steps": steps,
        "tags": len(tags),
        "resident_mib": memory,
        "bytes_per_value_without_tag": round(size / steps / len(tags) - sum(map(len, tags)) / len(tags), 2),
    }


def depth(layers: int, *, totals: bool) -> dict[str, object]:
    """Time what monitoring adds to a step of a model of `layers` linear layers of width 8."""
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])
    x = torch.randn(4, 8)
    probe = Probe(net, layers=() if totals else None)
    times: dict[bool, list[float]] = {True: [], False: []}
    for step in range(20):
        on = step % 2 == 0
        (probe.attach if on else probe.detach)()
        began = time.perf_counter()
        if on:
            probe.open()
        net.zero_grad()
        net(x).sum().backward()
        if on:
            probe.before_update()
            probe.close().values()
        times[on].append(time.perf_counter() - began)
    added = float(np.median(times[True][2:]) - np.median(times[False][2:]))
    return {"layers": layers, "totals_only": totals, "added_us_per_layer": round(1e6 * added / layers, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--soak", type=int, metavar="STEPS", help="only this: memory and file size")
    parser.add_argument("--layers", type=int, nargs="+", metavar="N", help="only this: cost over depth")
    parser.add_argument("--out", type=Path, default=RESULTS / "monitor.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found, rows = environment(), []
    for row in results(options):
        rows.append(row)
        print(row, flush=True)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({"environment": found, "rows": rows}, indent=1) + "\n")


def results(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    if options.soak:
        yield soak(options.soak)
    for layers in options.layers or ():
        for totals in (True, False):
            yield depth(layers, totals=totals)
    if options.soak or options.layers:
        return
    for workload, way, threads in itertools.product(options.workloads, options.ways, options.threads):
        if way in PEERS and importlib.util.find_spec(PEERS[way]) is None:
            yield {"workload": workload, "way": way, "threads": threads, "skipped": f"{PEERS[way]} is not installed"}
        else:
            yield measure(workload, way, threads, options.seconds)


if __name__ == "__main__":
    main()
