"""What every calibration is: settings in a frozen dataclass, and a way to adjust a model's weights to its data."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import NoReturn

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_init import initializers
from lightning_init._names import clean
from lightning_init._running import Call, as_it_was, call_of, naming_layers, refuse_unready
from lightning_init.fans import Layout, layout
from lightning_init.initializers.base import Initializer, WholeModel
from lightning_init.parameter_roles import role_of
from lightning_init.placement import Place, places, restored_on_error
from lightning_init.rules import InitializerLike

Progress = Callable[[str, int, int], None]
"""Told what is calibrated at the moment, how many layers are done, and of how many."""


@dataclass(frozen=True)
class Adjustment:
    """What a calibration did to one layer; `factor` is None, and `why` says the reason, where it did nothing.

    Args:
        layer: path in the model.
        parameter: name of the weight.
        factor: that the std of the weight was multiplied by.
        before: variance of the layer's output as it was, with what stands before it calibrated.
        after: the same at the end.
        iterations: how often the weight was scaled.
        why: what happened, or why nothing did.
    """

    layer: str
    parameter: str
    factor: float | None
    before: float | None
    after: float | None
    iterations: int
    why: str


@dataclass(frozen=True)
class Adjustments:
    """What a calibration did, in the order in which the layers run; `str` is a table."""

    method: str
    layers: tuple[Adjustment, ...]

    def to_dict(self) -> dict[str, object]:
        """Return everything in plain JSON types."""
        return {"method": self.method, "layers": [asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        width = max((len(layer.parameter) for layer in self.layers), default=0)
        return "\n".join([self.method, *(f"{one.parameter.ljust(width)}  {one.why}" for one in self.layers)])


@dataclass(frozen=True)
class Calibration(WholeModel):
    """Adjusts weights to data; subclasses are frozen dataclasses whose fields are their settings.

    It goes wherever an initializer of a whole model goes, as long as there are data: `InitCallback`, `calibrate`.
    """

    def __post_init__(self) -> None:
        initializers.get(self.start)  # refused here, not when training begins

    @property
    def needs_data(self) -> bool:
        """Whether it does more than its start."""
        return True

    @property
    def brings(self) -> tuple[object, ...]:
        """The batches that it was made with, if any: they are used then, not those of the Trainer."""
        return ()

    def seeing(self, batch: object) -> Self:
        """Return the same with a batch to look at, if it looks at one before the weights are drawn."""
        del batch
        return self

    def on(self, model: nn.Module) -> Initializer:
        """Refuse: without data there is nothing to adjust to."""
        del model
        self._refuse()

    def _refuse(self) -> NoReturn:
        settings = self.label.partition("(")[2] or ")"
        call = f"{type(self).__name__}({settings}"
        raise ValueError(
            f"initializer {self.label} needs data and the whole model: use lightning_init.calibrate(model, {call}, "
            f"batches), or InitCallback({call}), which takes the Trainer's training data"
        )

    @property
    @abstractmethod
    def start(self) -> InitializerLike:
        """The initializer that the weights get first."""

    @property
    def takes(self) -> int:
        """How many batches it looks at, at most."""
        return 1

    @abstractmethod
    def adjust(
        self, model: nn.Module, calls: Sequence[Call], units: Sequence[Unit], progress: Progress
    ) -> list[Adjustment]:
        """Adjust the weights of `units` on the batches `calls`; the caller takes care of everything else."""

    def calibrate_(
        self,
        model: nn.Module,
        batches: Iterable[object],
        *,
        only: Collection[str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Adjustments:
        """Adjust the weights of `model` to the first of `batches` (`takes` of them), and return what was done.

        Train or eval mode, buffers (running statistics), gradients, hooks and random streams are as before.

        Args:
            model: initialized; it runs in the mode that it is in.
            batches: batches as `lightning_init.diagnose` takes them, such as a DataLoader.
            only: full names of the parameters that may be changed; None allows all that require a gradient.
            seed: of the random streams while the model runs (dropout).
            progress: called with the name of each layer, the number of those done, and of all.

        Raises:
            TypeError, ValueError: there is no batch, the model fails, or a layer cannot be moved; the layer is named
                and the model is exactly as it was.
        """
        calls = [call_of(model, batch) for batch in first(batches, self.takes)]
        refuse_unready(model)
        with as_it_was(model), torch.inference_mode(mode=False):
            torch.manual_seed(seed)
            units = _units(model, calls[0], only)
            with restored_on_error([unit.place for unit in units] + [place for u in units for place in u.others]):
                done = self.adjust(model, calls, units, progress or (lambda *_: None))
        return Adjustments(str(self), tuple(done))


def first(batches: Iterable[object], number: int = 1) -> list[object]:
    """Return the first `number` of `batches`; fewer, if there are no more."""
    if isinstance(batches, (torch.Tensor, dict)) or not isinstance(batches, Iterable):
        raise TypeError(f"batches must be an iterable of batches, got one {type(batches).__name__}: give [batch]")
    found = list(islice(batches, number))
    if not found:
        raise ValueError("batches is empty: the data loader has nothing left to calibrate with")
    return found


# --- what can be adjusted --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """One weight that can be scaled, and the module whose output shows it.

    Args:
        layer: path of the module.
        module: its output is linear in the weight.
        place: the weight.
        layout: of the weight.
        bias: None if there is none that may be changed.
        skip: why this one has to be left as it is; empty if it has not.
        calls: how often it runs in one forward pass.
    """

    layer: str
    module: nn.Module
    place: Place
    layout: Layout
    bias: Place | None
    skip: str
    calls: int

    @property
    def others(self) -> list[Place]:
        """What may change beside the weight."""
        return [] if self.bias is None else [self.bias]

    def kept(self) -> Adjustment:
        """Return the entry that says why nothing was done."""
        return Adjustment(self.layer, self.place.name, None, None, None, 0, f"kept: {self.skip}")


def _units(model: nn.Module, call: Call, only: Collection[str] | None) -> list[Unit]:
    """Return what can be adjusted, in the order in which it runs."""
    found = places(model)
    modules = {clean(name, model): module for name, module in model.named_modules(remove_duplicate=False)}
    names = {module: name for name, module in reversed(modules.items())}  # the first
    order = _execution(model, call)
    hosts: dict[nn.Module, nn.Module] = {
        m.out_proj: m for m in names if isinstance(m, nn.MultiheadAttention)
    }  # out_proj never runs by itself
    units = []
    for place in found:
        known = layout(place.module, place.leaf, place.shape)
        host = hosts.get(place.module, place.module)
        if known is None or role_of(place) != "weight" or len(place.shape) < 2:
            continue
        if isinstance(place.module, (nn.Embedding, nn.EmbeddingBag)) or place.leaf.startswith("in_proj"):
            continue
        bias = next((p for p in found if p.module is place.module and p.leaf == "bias"), None)
        if bias is not None and not _allowed(bias, only):
            bias = None
        skip = _reason(place, host, only, order, modules)
        units.append(Unit(names[host], host, place, known, bias, skip, len(order.get(host, ()))))
    return sorted(units, key=lambda unit: order[unit.module][0] if unit.calls else math.inf)


def _allowed(place: Place, only: Collection[str] | None) -> bool:
    return not place.frozen if only is None else any(name in only for name in place.names)


def _reason(
    place: Place,
    host: nn.Module,
    only: Collection[str] | None,
    order: dict[nn.Module, list[int]],
    modules: Mapping[str, nn.Module],
) -> str:
    """Return why a weight must be left as it is; empty if it need not."""
    if not _allowed(place, only):
        return "frozen" if place.frozen else "not to be calibrated"
    if isinstance(host, (nn.RNNBase, nn.RNNCellBase)):
        return "its output is bounded by its own nonlinearity"
    if host not in order:
        return "never runs in this forward pass"
    if place.tied_to:
        return f"shares {place.tied_to}"
    for name in place.also:
        other = modules[name.rpartition(".")[0]]
        if other in order and order[other][0] < order[host][0]:
            return f"tied with {name}, which runs before it"
    return ""


def _execution(model: nn.Module, call: Call) -> dict[nn.Module, list[int]]:
    """Return module -> when it runs."""
    order: dict[nn.Module, list[int]] = {}
    ticks = iter(range(1 << 62))

    def note(module: nn.Module, _args: object, _output: object) -> None:
        order.setdefault(module, []).append(next(ticks))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        run(model, call)
    finally:
        for handle in handles:
            handle.remove()
    return order


def run(model: nn.Module, call: Call) -> object:
    """Return the output of one forward pass without a graph; an error names the layer."""
    with torch.no_grad(), naming_layers(model):
        return call.copied()(model)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks at the end, whatever happens."""
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()
