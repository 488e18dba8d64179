"""What the tests of the monitor train, and the slow reference beside which its figures are held."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_init.callbacks._step import step_index
from lightning_init.callbacks.signal_monitor import SignalMonitor

FEATURES, BATCHES = 6, 8


# --- what is trained ------------------------------------------------------------------------------------------------


class Lit(LightningModule):
    """Trains `net` on the mean square of its output."""

    def __init__(self, net, lr=0.1):
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x):
        output = self.net(x)
        return output[0] if isinstance(output, tuple) else output

    def training_step(self, batch, batch_idx):
        loss = self(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(100 * batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Gan(LightningModule):
    """Two optimizers, manual optimization; the discriminator takes two steps for one of the generator."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = mlp(), mlp()

    def training_step(self, batch, batch_idx):
        generator, discriminator = self.optimizers()
        for _ in range(2):
            loss = (self.discriminator(batch[0]) - self.discriminator(self.generator(batch[0]).detach())).mean()
            discriminator.zero_grad()
            self.manual_backward(loss)
            discriminator.step()
        loss = self.discriminator(self.generator(batch[0])).square().mean()
        generator.zero_grad()
        self.manual_backward(loss)  # leaves gradients in the discriminator too, which nobody steps on
        generator.step()
        self.log("loss", loss)

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.05) for net in (self.generator, self.discriminator)]


class Shared(nn.Module):
    """One layer and one nonlinearity, each called three times."""

    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(FEATURES, FEATURES), nn.Tanh()

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.layer(x))
        return x


class Recurrent(nn.Module):
    """Outputs that are tuples: LSTM and attention; an embedding whose weight the decoder shares."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, FEATURES, batch_first=True)
        self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)
        self.inner = nn.Linear(FEATURES, FEATURES)
        self.outer = nn.Linear(FEATURES, FEATURES)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        x = self.lstm(x[:, None])[0]
        return self.outer(self.inner(self.attention(x, x, x)[0]))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.net, self.reentrant = mlp(), reentrant

    def forward(self, x):
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=self.reentrant)


def mlp(act=nn.ReLU, **kwargs):
    return nn.Sequential(nn.Linear(FEATURES, 8), act(**kwargs), nn.LayerNorm(8), nn.Linear(8, FEATURES))


def conv():
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 2, 3)),
        nn.PReLU(),
        nn.Flatten(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(2 * (FEATURES - 2), 3)),
    )


# --- the reference --------------------------------------------------------------------------------------------------


def leaves(module):
    """The layer's own stored parameters."""
    yield from module.parameters(recurse=False)
    if hasattr(module, "parametrizations"):
        yield from module.parametrizations.parameters()


class Reference(Callback):
    """Copies everything in float64 while it happens; computes when asked."""

    def __init__(self):
        self.outputs = defaultdict(list)  # (index, layer) -> copies
        self.weights = {}  # (index, name) -> copy before the first update of that index
        self.gradients = defaultdict(list)  # (index, layer) -> one energy per optimizer step that reached it
        self.index, self.in_step = 0, False

    def on_fit_start(self, trainer, pl_module):
        for name, module in pl_module.named_modules():
            if not name.endswith("parametrizations.weight"):
                module.register_forward_hook(self.hook(name.replace("_orig_mod.", "")))

    def hook(self, name):
        def keep(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            recomputed = torch._C._current_graph_task_id() != -1
            if self.in_step and not recomputed and isinstance(output, torch.Tensor):
                self.outputs[self.index, name].append(output.detach().double().clone().numpy().ravel())

        return keep

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.index, self.in_step = step_index(trainer), True

    def on_train_batch_end(self, *_):
        self.in_step = False

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        claimed = set()
        for name, module in pl_module.named_modules():
            if "parametrizations" in name:
                continue
            name = name.replace("_orig_mod.", "")
            tied = id(module._parameters.get("weight")) in claimed
            mine = [p for p in leaves(module) if id(p) in stepped - claimed and p.grad is not None]
            claimed |= {id(p) for p in leaves(module)}
            if mine:
                self.gradients[self.index, name].append(sum(p.grad.double().square().sum().item() for p in mine))
            for weight, value in [] if tied else self.weights_of(name, module):
                self.weights.setdefault((self.index, weight), value)

    def weights_of(self, name, module):
        if isinstance(module, nn.LSTM):
            return [(f"{name}.{k}", var(p)) for k, p in module.named_parameters() if "bias" not in k]
        if isinstance(module, nn.MultiheadAttention):
            return [(f"{name}.in_proj_weight", var(module.in_proj_weight))]
        if name and any(True for _ in leaves(module)):
            training = module.training
            weight = module.eval().weight  # eval: reading must not iterate spectral_norm
            module.train(training)
            return [(name, var(weight))]
        return []


def var(*arrays):
    arrays = [a.detach().double().numpy().ravel() if isinstance(a, torch.Tensor) else a for a in arrays]
    return np.concatenate(arrays).var()


def events(logger):
    """What TensorBoard reads in the logger's directory: tag -> {step: value}."""
    accumulator = EventAccumulator(str(logger.log_dir), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: {e.step: e.value for e in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]}


def loader(batches=BATCHES, seed=0):
    x = torch.randn(4 * batches, FEATURES, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x), batch_size=4)


def trainer_for(tmp_path, *callbacks, logger=None, **kwargs):
    kwargs = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False, "log_every_n_steps": 1, **kwargs}
    logger = TensorBoardLogger(tmp_path) if logger is None else logger
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(callbacks=list(callbacks), logger=logger, **quiet, **kwargs)


def fit(tmp_path, model, monitor=None, *, val=False, **kwargs):
    """Train `model`; return what the event file says and what it should say."""
    reference = Reference()
    trainer = trainer_for(tmp_path, monitor or SignalMonitor(), reference, **kwargs)
    trainer.fit(model, loader(), loader(seed=1) if val else None)
    return events(trainer.logger), reference


def check(logged, reference, every=1):
    """The event file holds exactly the reference's values, at exactly its indices."""
    expected = defaultdict(dict)
    for (index, name), values in reference.outputs.items():
        tag = f"activation_variance/{name}"
        if tag in logged:
            expected[tag][index] = var(*values)
    for (index, name), value in reference.weights.items():
        expected[f"weight_variance/{name}"][index] = value
    totals = defaultdict(float)
    for (index, name), energies in reference.gradients.items():
        expected[f"gradient_norm/{name}"][index] = np.sqrt(np.mean(energies))
        totals[index] += np.mean(energies)
    expected["gradient_norm_total"] = {index: np.sqrt(total) for index, total in totals.items()}
    ours = {tag: values for tag, values in logged.items() if tag.startswith(("weight_", "activation_", "gradient_"))}
    assert set(ours) == set(expected)
    for tag, values in expected.items():
        wanted = {index: value for index, value in values.items() if index % every == 0}
        assert ours[tag] == pytest.approx(wanted, rel=1e-4, abs=1e-12), tag
