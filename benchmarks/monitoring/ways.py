"""Ways to monitor, each of which can be switched on and off between steps: ours, the usual ones, and those of peers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import grad_norm
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_init.callbacks._step import step_index
from lightning_init.callbacks.signal_monitor import SignalMonitor
from lightning_init.signals import fast
from lightning_init.signals.layers import find_layers


class Way:
    """One way to monitor; `needs` is the package that it comes from, if that is neither ours nor Lightning's."""

    needs: str | None = None

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
        self.monitor._probe.detach()  # noqa: SLF001 (the benchmark switches it step by step)

    def batch_start(self, trainer: Trainer, model: LightningModule) -> None:
        self.monitor.on_train_batch_start(trainer, model, None, 0)

    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self.monitor.on_before_optimizer_step(trainer, model, optimizer)

    def batch_end(self, trainer: Trainer, model: LightningModule) -> None:
        self.monitor.on_train_batch_end(trainer, model, None, None, 0)


class WithAlerts(Monitor):
    """SignalMonitor with its defaults, alerts included."""

    alerts = True


class WithoutNumba(Monitor):
    """SignalMonitor as it is where Numba is not installed."""

    def on(self) -> None:
        super().on()
        fast._kernel = None  # noqa: SLF001 (which attaching the hooks has just set)


class EmptyHooks(Way):
    """Forward hooks that do nothing, on the modules that have SignalMonitor's: no monitor with hooks can cost less."""

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        self.modules = [layer.module for layer in find_layers(model)]
        self.handles: list[RemovableHandle] = []

    def on(self) -> None:
        self.handles = [module.register_forward_hook(_nothing) for module in self.modules]

    def off(self) -> None:
        for handle in self.handles:
            handle.remove()


def _nothing(module: nn.Module, args: object, output: object) -> None: ...


class Naive(Way):
    """Hooks that call `.item()`, and one `add_scalar` for each tag."""

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        self.model = model
        self.writer = trainer.logger.experiment
        self.handles: list[RemovableHandle] = []

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
        self.step = step_index(trainer)

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

    def log(self, tag: str, value: float) -> None:
        self.model.log(tag, value)

    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        for name, module in model.named_modules():
            if isinstance(getattr(module, "weight", None), nn.Parameter):
                self.log(f"weight_variance/{name}", module.weight.detach().var(correction=0).item())
        model.log_dict(grad_norm(model, norm_type=2))


class Wandb(Way):
    """`wandb.watch(log="all")` at every step, offline."""

    needs = "wandb"

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
    """delve's `SaturationTracker`: covariance of the activations of linear and convolutional layers, never saved."""

    needs = "delve"

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        from delve import SaturationTracker

        self.tracker = SaturationTracker(tempfile.mkdtemp(), save_to="csv", modules=model, device="cpu")

    def on(self) -> None:
        self.tracker.resume()

    def off(self) -> None:
        self.tracker.stop()


class Fastai(Way):
    """What fastai's `ActivationStats` does outside of its own Learner: mean, std, share near zero; kept in memory."""

    needs = "fastai"

    def start(self, trainer: Trainer, model: LightningModule) -> None:
        from fastai.callback.hook import ActivationStats, Hooks

        self.make = lambda: Hooks([layer.module for layer in find_layers(model)], ActivationStats().hook, cpu=True)
        self.on()
        self.stats: list[object] = []

    def on(self) -> None:
        self.hooks = self.make()

    def off(self) -> None:
        self.hooks.remove()

    def batch_end(self, trainer: Trainer, model: LightningModule) -> None:
        self.stats.append(self.hooks.stored)


WAYS: dict[str, type[Way]] = {
    "monitor": Monitor,
    "with alerts": WithAlerts,
    "without numba": WithoutNumba,
    "empty hooks": EmptyHooks,
    "naive": Naive,
    "self.log": SelfLog,
    "wandb": Wandb,
    "delve": Delve,
    "fastai": Fastai,
}
