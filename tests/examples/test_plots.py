"""The pictures of a comparison: each twice, none from an older one, and nothing in them that the run did not log."""

import numpy as np
from making import made_up
from torch.utils.tensorboard import SummaryWriter

from examples import compare, runs
from examples.comparison import compare as compared
from examples.plots import heat_map, learning_curves
from examples.result import checksums


def test_every_picture_is_there_twice_and_old_ones_go(sweep):
    (sweep / "heat_map.svg").write_text("of an older comparison")
    _, files = compare.write([sweep])
    for file in files:
        assert file.exists()
        assert file.suffix != ".png" or file.with_suffix(".svg").read_text().startswith("<?xml")
    assert not (sweep / "heat_map.svg").exists()


def test_the_curve_of_one_epoch_has_one_tick(tmp_path):
    made_up(tmp_path / "run", accuracy=[0.5])
    (axis,) = learning_curves.figure(compared([tmp_path])).axes
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]


def test_foreign_event_files_are_not_drawn(tmp_path):
    def log(directory, value):
        with SummaryWriter(str(directory)) as writer:
            for signal in ("activation_variance", "gradient_norm"):
                writer.add_scalar(f"{signal}/a", value, 0)

    result = made_up(tmp_path / "run")
    log(tmp_path / "run", 2.0)
    result.layers, result.profile, result.events = ["a"], {"first": {"any": [1.0]}}, checksums(tmp_path / "run")
    result.write(tmp_path / "run")
    log(tmp_path / "foreign", 7.0)
    (file,) = (tmp_path / "foreign").iterdir()
    file.rename(tmp_path / "run/events.out.tfevents.9999999999.elsewhere")
    (run,) = runs.find([tmp_path]).runs
    assert heat_map._grids(run)["activation_variance"].tolist() == [[2.0]]


def test_one_setting_that_explodes_does_not_darken_the_heat_maps_of_the_others():
    norm = heat_map._norm([np.array([[1.0, 4.0]]), np.array([[2.0, 1e14]]), np.array([[0.0, np.nan]])])
    assert norm.vmin == 1.0
    assert norm.vmax == np.median([1.0, 4.0, 2.0, 1e14]) * 10.0 ** (heat_map.DECADES / 2)
    flat = heat_map._norm([np.ones((1, 2))])
    assert flat.vmin < flat.vmax
