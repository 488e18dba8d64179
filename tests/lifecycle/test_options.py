"""What the Trainer is told changes neither the values nor their number."""

import contextlib

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from lits import SEED, Lit, callback, expected, layers, loader, same, trainer, weights
from torch import nn

from lightning_init import InitCallback, SignalMonitor, initialize, initializers

BUILDS = ["__init__", "setup", "configure_model"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling"),
]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32", torch.float32),
        ("bf16-mixed", torch.float32),
        ("bf16-true", torch.bfloat16),
        ("16-true", torch.float16),
        ("64", torch.float64),
    ],
)
def test_every_precision_gets_the_drawn_values_rounded_once(tmp_path, precision, dtype, build):
    module = Lit(build)
    monitor = SignalMonitor()
    trainer(tmp_path, callback(monitor=monitor), precision=precision).fit(module, loader())
    assert {value.dtype for value in module.first.values()} == {dtype}
    drawn_in = torch.float64 if build == "configure_model" and dtype == torch.float64 else torch.float32
    assert same(module.first, {k: v.to(dtype) for k, v in expected(dtype=drawn_in).items()})
    index, values = monitor.last
    assert index == 3
    assert {"weight_variance/net.0", "activation_variance/net.1", "gradient_norm/net.2"} <= values.keys()


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"accumulate_grad_batches": 2}, 4),
        ({"gradient_clip_val": 0.1}, 4),
        ({"overfit_batches": 1}, 1),
        ({"fast_dev_run": True}, 1),
        ({"limit_train_batches": 2}, 2),
        ({"limit_train_batches": 0.5}, 2),
        ({"limit_val_batches": 1}, 4),
        ({"max_steps": 3}, 3),
        ({"inference_mode": False}, 4),
        ({"deterministic": True}, 4),
        ({"detect_anomaly": True}, 4),
        ({"use_distributed_sampler": False}, 4),
        ({"reload_dataloaders_every_n_epochs": 1}, 4),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_every_option_of_the_trainer(tmp_path, options, batches):
    seen = []

    class Counts(Lit):
        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            return super().training_step(batch, batch_idx)

    module = Counts()
    trainer(tmp_path, callback(monitor=SignalMonitor()), **options).fit(module, loader(), loader())
    torch.use_deterministic_algorithms(mode=False)
    assert same(module.first, expected())
    assert not same(weights(module), expected())
    assert len(seen) == batches


def test_manual_optimization_of_two_networks(tmp_path):
    class Adversarial(Lit):
        def __init__(self):
            super().__init__("elsewhere")
            self.automatic_optimization = False
            self.net, self.critic = layers(), nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                loss = self.critic(self.net(batch[0])).square().mean()
                self.manual_backward(loss)
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net, self.critic)]

    module, monitor = Adversarial(), SignalMonitor()
    trainer(tmp_path, callback(monitor=monitor)).fit(module, loader())
    reference = Adversarial()
    initialize(reference, "orthogonal", seed=SEED)
    assert same(module.first, weights(reference))
    assert {"gradient_norm/net.0", "gradient_norm/critic"} <= monitor.last[1].keys()


@pytest.mark.filterwarnings("ignore:SignalMonitor logs nothing")
@pytest.mark.filterwarnings("ignore:`Trainer.barebones=True.* is configured")
def test_barebones_initializes_and_says_that_it_logs_nothing(tmp_path):
    module = Lit()
    runner = Trainer(barebones=True, callbacks=[InitCallback("orthogonal", seed=SEED)], max_epochs=1,
                     accelerator="cpu", default_root_dir=tmp_path)  # fmt: skip
    with pytest.warns(UserWarning, match="SignalMonitor logs nothing: Trainer"):
        runner.fit(module, loader())
    assert same(module.first, expected())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_number_of_loggers(tmp_path, count):
    loggers = [TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv", flush_logs_every_n_steps=1)]
    module = Lit()
    trainer(tmp_path, callback(monitor=SignalMonitor()), logger=loggers[:count] or False).fit(module, loader())
    assert same(module.first, expected())
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == min(count, 1)
    for table in tmp_path.rglob("metrics.csv"):
        assert "gradient_norm/net.0" in table.read_text().splitlines()[0]


@pytest.mark.parametrize("name", initializers.names())
def test_default_device_and_dtype_of_configure_model_change_nothing(name):
    """Lightning enters both around `configure_model`: the strategy's device, the precision's dtype."""

    def model():
        torch.manual_seed(0)
        weight_normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(5, 3), nn.LSTM(3, 4), nn.Embedding(9, 3, 0), weight_normed)

    plain, inside = model(), model()
    refused = (ValueError, NotImplementedError)  # dirac, eye, ...: not for all of these layers; then nothing is written
    with contextlib.suppress(*refused):
        initialize(plain, name, seed=SEED)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), contextlib.suppress(*refused):
            initialize(inside, name, seed=SEED)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(weights(inside), weights(plain))


@pytest.mark.parametrize("whole", [False, True], ids=["submodule", "LightningModule"])
def test_compiled_modules_get_the_same_values(tmp_path, whole):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    module = Lit()
    if whole:
        trainer(tmp_path, callback()).fit(torch.compile(module, backend=backend), loader())
    else:
        module.net = torch.compile(module.net, backend=backend)
        trainer(tmp_path, callback()).fit(module, loader())
    assert graphs
    assert same({name.replace("_orig_mod.", ""): value for name, value in module.first.items()}, expected())


@pytest.mark.parametrize(
    ("refuses", "advice"),
    [
        (callback(), r"end it with lightning_init.initialize\(self"),
        (SignalMonitor(), "Train without it, or train with"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unsupported_strategies_are_refused_by_name(tmp_path, refuses, advice):
    runner, module = trainer(tmp_path, refuses), Lit()
    initial = weights(module)
    # DeepSpeed is not installed here, so the strategy cannot be made in the regular way.
    runner._accelerator_connector.strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    with pytest.raises(NotImplementedError, match=f"DeepSpeedStrategy.*{advice}"):
        runner.callbacks[0].setup(runner, module, "fit")
    assert same(weights(module), initial)
    assert "configure_model" not in vars(module)


def test_memory_that_nobody_allocates_is_refused(tmp_path):
    with torch.device("meta"):
        module = Lit()
    with pytest.raises(NotImplementedError) as raised:  # Lightning's own cleaning up fails, too
        trainer(tmp_path, callback()).fit(module, loader())
    assert "on the meta device: there is no memory to initialize" in str(raised.value.__context__)
    assert "configure_model" not in vars(module)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true"])
@pytest.mark.parametrize("build", BUILDS)
def test_on_a_gpu_all_ways_to_build_get_a_finite_start_and_train(tmp_path, precision, build):
    module = Lit(build)
    trainer(tmp_path, callback(), precision=precision, accelerator="gpu").fit(module, loader())
    assert all(value.isfinite().all() for value in module.first.values())
    if build != "configure_model":  # drawn on the CPU, then moved
        dtype = next(iter(module.first.values())).dtype
        assert same({k: v.cpu() for k, v in module.first.items()}, {k: v.to(dtype) for k, v in expected().items()})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_strategies_themselves_on_a_gpu(tmp_path, strategy):
    module = Lit("setup")
    runner = trainer(tmp_path, callback(), strategy=strategy, accelerator="gpu")
    runner.fit(module, loader())
    assert runner.global_step == 4
    if strategy == "ddp":
        assert same({k: v.cpu() for k, v in module.first.items()}, expected())
