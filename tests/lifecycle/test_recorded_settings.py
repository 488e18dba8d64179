"""The callback's settings: in checkpoints, from YAML, under both names of Lightning."""

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from lits import SEED, Lit, callback, expected, loader, same, trainer, weights

from lightning_init import InitCallback, Rule
from lightning_init.initializers import KaimingNormal, Normal

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def saved(tmp_path, module, init):
    runner = trainer(tmp_path, init)
    runner.fit(module, loader())
    runner.save_checkpoint(tmp_path / "trained.ckpt")
    return torch.load(tmp_path / "trained.ckpt", weights_only=True)


class WithHparams(Lit):
    def __init__(self, build="__init__", lr=0.1, width=3):
        super().__init__(build, lr)
        self.save_hyperparameters()


class TakesAnything(Lit):
    def __init__(self, lr=0.1, **options):
        super().__init__(lr=lr)
        self.save_hyperparameters()
        if set(options) - {"width"}:
            raise TypeError(f"unexpected {options}")


class TakesOne(Lit):
    def __init__(self, hparams):
        super().__init__()
        self.save_hyperparameters(hparams)
        if set(hparams) != {"width"}:
            raise TypeError(f"unexpected {hparams}")


def test_the_settings_are_among_the_checkpoints_hyperparameters(tmp_path):
    init = InitCallback(
        Normal(std=0.02),
        rules=[Rule("net.2.*", "zeros", module=torch.nn.Linear), Rule(initializer=None)],
        nonlinearity=torch.nn.functional.gelu,
        monitor=False,
    )
    checkpoint = saved(tmp_path, WithHparams(width=5), init)
    assert checkpoint["hyper_parameters"] == {
        "build": "__init__",
        "lr": 0.1,
        "width": 5,
        "init_callback": {
            "initializer": {"name": "normal", "mean": 0.0, "std": 0.02},
            "rules": [
                {"pattern": "net.2.*", "initializer": "zeros", "module": "Linear"},
                {"pattern": "*", "initializer": None},
            ],
            "nonlinearity": "gelu",
            "bias": "zeros",
            "frozen": "skip",
            "seed": 0,  # the one that was used
            "strict": False,
            "fans": "module",
        },
    }


@pytest.mark.parametrize(
    ("module", "beside"),
    [(Lit(), False), (WithHparams(), False), (TakesAnything(width=2), True), (TakesOne({"width": 2}), True)],
    ids=lambda value: type(value).__name__,
)
def test_load_from_checkpoint_never_gets_them_as_arguments(tmp_path, module, beside):
    checkpoint = saved(tmp_path, module, callback())
    place = checkpoint if beside else checkpoint["hyper_parameters"]
    assert place["init_callback"]["initializer"] == "orthogonal"
    assert place["init_callback"]["seed"] == SEED
    loaded = type(module).load_from_checkpoint(tmp_path / "trained.ckpt")
    assert same(weights(loaded), weights(module))
    assert "init_callback" not in module.hparams


def test_the_record_tells_how_the_weights_began_whoever_trains_them_later(tmp_path):
    module = Lit()
    began = saved(tmp_path, module, callback())["hyper_parameters"]["init_callback"]
    again = saved(tmp_path, module, InitCallback("zeros", seed=1, monitor=False))
    assert again["hyper_parameters"]["init_callback"] == began
    resumed = trainer(tmp_path, InitCallback("zeros", seed=2, monitor=False), max_epochs=2)
    resumed.fit(Lit(), loader(), ckpt_path=tmp_path / "trained.ckpt")
    resumed.save_checkpoint(tmp_path / "resumed.ckpt")
    found = torch.load(tmp_path / "resumed.ckpt", weights_only=True)
    assert found["hyper_parameters"]["init_callback"] == began


def quiet(monkeypatch, folder):
    """LightningCLI warns of `args` beside a command line, which pytest has; jsonargparse warns of Lightning's ways."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.chdir(folder)


def run(tmp_path, init_args, monkeypatch):
    quiet(monkeypatch, tmp_path)
    config = {
        "trainer": {
            "callbacks": [{"class_path": "lightning_init.InitCallback", "init_args": init_args}],
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    cli = LightningCLI(
        Lit, args=["--config", str(file)], run=False, save_config_callback=None, seed_everything_default=False
    )
    cli.trainer.fit(cli.model, loader())
    return cli.model.first, next(c for c in cli.trainer.callbacks if isinstance(c, InitCallback))


@pytest.mark.parametrize(
    ("init_args", "initializer"),
    [
        ({"initializer": "orthogonal"}, "orthogonal"),
        (
            {
                "initializer": {
                    "class_path": "lightning_init.initializers.KaimingNormal",
                    "init_args": {"mode": "fan_out"},
                }
            },
            KaimingNormal(mode="fan_out"),
        ),
    ],
    ids=["name", "class_path"],
)
def test_lightning_cli_takes_a_name_or_a_class_path(tmp_path, monkeypatch, init_args, initializer):
    first, _ = run(tmp_path, {**init_args, "seed": SEED}, monkeypatch)
    assert same(first, expected(initializer))


def test_lightning_cli_takes_rules_options_and_a_monitor(tmp_path, monkeypatch):
    zeros = {"class_path": "lightning_init.initializers.Constant", "init_args": {"value": 0.5}}
    first, init = run(
        tmp_path,
        {
            "initializer": "orthogonal",
            "rules": {"net.2.weight": zeros, "net.0.bias": "ones", "net.2.bias": None},
            "nonlinearity": "gelu",
            "seed": SEED,
            "monitor": {"class_path": "lightning_init.SignalMonitor", "init_args": {"every_n_steps": 2}},
        },
        monkeypatch,
    )
    assert (first["net.2.weight"] == 0.5).all()
    assert (first["net.0.bias"] == 1).all()
    assert first["net.2.bias"].any()
    assert init.monitor.every_n_steps == 2


def test_a_checkpoint_of_lightning_cli_loads_again(tmp_path, monkeypatch):
    quiet(monkeypatch, tmp_path)
    cli = LightningCLI(
        WithHparams,
        args=["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.max_epochs=1", "--model.width=7",
              "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"],
        trainer_defaults={"callbacks": [callback()]},
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
    )  # fmt: skip
    cli.trainer.fit(cli.model, loader())
    cli.trainer.save_checkpoint("trained.ckpt")
    assert torch.load("trained.ckpt", weights_only=True)["init_callback"]["seed"] == SEED
    loaded = WithHparams.load_from_checkpoint("trained.ckpt")
    assert loaded.hparams.width == 7
    assert same(weights(loaded), weights(cli.model))


def test_trainers_of_pytorch_lightning_work(tmp_path):
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.loggers import TensorBoardLogger

    class Old(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.first = Lit().net, None

        on_train_start, loss, training_step = Lit.on_train_start, Lit.loss, Lit.training_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module, init = Old(), InitCallback("orthogonal", seed=SEED)
    runner = pl.Trainer(
        callbacks=[init],
        accelerator="cpu",
        max_epochs=1,
        logger=TensorBoardLogger(tmp_path, name="", version="run"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    runner.fit(module, loader())
    assert same(module.first, expected())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()
    assert "initialization/text_summary" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]
    assert set(init.monitor.history()) >= set(tags["scalars"])
    assert "gradient_norm/net.0" in tags["scalars"]
    trained = weights(module)
    runner.fit_loop.max_epochs = 2
    runner.fit(module, loader())
    assert same(module.first, trained)
