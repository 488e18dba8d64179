"""The pictures of a comparison: each twice, none from an older one, and nothing in them that the run did not log."""

import itertools
import threading

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend.queues import Queue
from making import made_up
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from examples import compare, launch, plots, runs, tables
from examples.comparison import compare as compared
from examples.plots import final_accuracy, heat_map, learning_curves, style
from examples.result import checksums
from lightning_init.signals.pictures import colour_limits

JOBLIB = {
    "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "n_jobs": 2,
    "prefer": "processes",
    "verbose": 0,
    "temp_folder": None,
    "max_nbytes": None,
    "mmap_mode": "r",
}


def test_every_picture_is_there_twice_and_old_ones_go(sweep):
    (sweep / "heat_map.svg").write_text("of an older comparison")
    _, files = compare.write([sweep])
    for file in files:
        assert file.exists()
        assert file.suffix != ".png" or file.with_suffix(".svg").read_text().startswith("<?xml")
    assert not (sweep / "heat_map.svg").exists()


def test_processes_of_joblib_draw_the_same_bytes_and_are_gone_afterwards(sweep, tmp_path):
    one, two = (tmp_path / name for name in ("one", "two"))
    for place in (one, two):
        place.mkdir()
    pictures = plots.draw(compared([sweep]), one)
    with launch.processes(OmegaConf.create(JOBLIB)):
        assert plots.draw(compared([sweep]), two) == [two / picture.name for picture in pictures]
        executor = get_reusable_executor(reuse=True)
        workers = list(executor._processes.values())
        assert len(workers) == 2
        with pytest.raises(FileNotFoundError):
            plots.draw(compared([sweep]), tmp_path / "nowhere")
    assert not any(worker.is_alive() for worker in workers)
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {f.name: f.read_bytes() for f in two.iterdir()}


def test_the_thread_that_fed_the_processes_has_ended_too(sweep, monkeypatch):
    """It frees a semaphore at last, of which Python warns if this process is gone by then: once in twenty sweeps."""
    ended, feed = [], Queue._feed

    def slowly(*arguments):
        feed(*arguments)
        threading.Event().wait(0.2)
        ended.append(True)

    monkeypatch.setattr(Queue, "_feed", staticmethod(slowly))
    with launch.processes(OmegaConf.create(JOBLIB)):
        plots.draw(compared([sweep]), sweep)
    assert ended == [True]


def test_an_axis_within_one_decade_has_its_own_labels():
    assert [style.power(value) for value in (1e-12, 1, 2.5, 300)] == ["10⁻¹²", "10⁰", "2.5·10⁰", "3·10²"]


@pytest.mark.parametrize("epochs", [1, 2, 9])
def test_lines_that_coincide_are_all_seen(tmp_path, epochs):
    """Of three that lie upon each other each has pixels of its colour, about as many as the others; so do markers."""
    for name in ("zeros", "ones", "eye"):
        made_up(tmp_path / name, initializer=name, accuracy=[0.1] * epochs)
    made_up(tmp_path / "he_normal", initializer="he_normal", accuracy=np.linspace(0.3, 0.9, epochs).tolist())
    comparison = compared([tmp_path])
    figure = learning_curves.figure(comparison)
    (axis,), (legend,) = figure.axes, figure.legends
    looks = style.looks(comparison)
    assert [text.get_text() for text in legend.get_texts()] == ["he_normal", "zeros", "ones", "eye"]
    assert {handle.get_linestyle() for handle in legend.get_lines()} == {"-"}
    assert "coincide" in legend.get_title().get_text()
    seen = {name: pixels(figure, axis, looks[name].color) for name in ("zeros", "ones", "eye")}
    assert min(seen.values()) > 0.3 * max(seen.values()) > 0, seen


def pixels(figure, axis, colour):
    """Return how many pixels within `axis` have nearly this colour."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = axis.get_window_extent()
    rows = np.asarray(canvas.buffer_rgba())[::-1, :, :3][int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
    return int((np.abs(rows - 255 * np.array(to_rgb(colour))).max(axis=2) < 12).sum())


def test_lines_that_part_somewhere_do_not_take_turns(tmp_path):
    made_up(tmp_path / "zeros", initializer="zeros", accuracy=[0.1, 0.1, 0.1])
    made_up(tmp_path / "ones", initializer="ones", accuracy=[0.1, 0.1, 0.2])
    (legend,) = learning_curves.figure(compared([tmp_path])).legends
    assert legend.get_title().get_text() == ""


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


def test_zeros_are_hatched_in_heat_maps():
    """The colours have a grey in their middle, and are grey in print."""
    (axis,) = style.grid(1, columns=1, width=5, height=3)[1]
    mesh = heat_map._draw(axis, np.arange(2), np.array([[1.0, 0.0], [np.nan, 2.0]]), heat_map._norm([np.ones((1, 2))]))
    assert mesh.get_array().mask.tolist() == [[False, True], [True, False]]
    assert axis.patch.get_hatch()


@pytest.mark.parametrize("steps", [[0], [0, 1], [0, 50]])
def test_steps_of_heat_maps_are_whole_and_were_logged(steps):
    (axis,) = style.grid(1, columns=1, width=5, height=3)[1]
    heat_map._draw(axis, np.array(steps), np.ones((2, len(steps))), heat_map._norm([np.ones((1, 2))]))
    low, high = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert ticks == np.round(ticks).tolist()
    assert ticks == steps or steps == [0, 50]


def test_one_setting_that_explodes_does_not_darken_the_heat_maps_of_the_others():
    grids = [np.array([[1.0, 4.0]]), np.array([[2.0, 1e14]]), np.array([[0.0, np.nan]])]
    for some in (grids, [np.ones((1, 2))], [np.zeros((1, 2))]):
        norm = heat_map._norm(some)
        assert (norm.vmin, norm.vmax) == colour_limits(np.concatenate(some))  # written twice, so that no torch comes
    norm = heat_map._norm(grids)
    assert (norm.vmin, norm.vmax) == (1.0, 3e6)


def test_only_depths_that_are_numbers_are_on_the_axis(tmp_path):
    for depth in (2, 3, None, "deep"):
        made_up(tmp_path / str(depth), overrides=[f"model.depth={depth}"], **{"model.depth": depth})
    (axis,) = plots.accuracy_by_depth.figure(compared([tmp_path])).axes
    assert axis.get_xticks().tolist() == [2, 3]
    made_up(tmp_path / "2", overrides=["model.depth=flat"], **{"model.depth": "flat"})
    made_up(tmp_path / "3", overrides=["model.depth=high"], **{"model.depth": "high"})
    assert plots.accuracy_by_depth.figure(compared([tmp_path])) is None


def test_depths_have_a_panel_for_each_of_the_rest(tmp_path):
    for number, (depth, width, name) in enumerate(itertools.product((2, 3), (8, 16), ("zeros", "ones"))):
        settings = {"model.depth": depth, "model.width": width}
        overrides = [f"{key}=..." for key in settings]
        made_up(tmp_path / name / str(number), initializer=name, overrides=overrides, **settings)
    axes = plots.accuracy_by_depth.figure(compared([tmp_path])).axes
    assert [axis.get_title() for axis in axes] == ["width=8", "width=16"]
    for axis in axes:
        assert sorted(axis.get_legend_handles_labels()[1]) == ["ones", "zeros"]
    (axis,) = plots.accuracy_by_depth.figure(compared([tmp_path / "ones"])).axes
    assert sorted(axis.get_legend_handles_labels()[1]) == ["width=16", "width=8"]


def test_a_long_legend_is_within_its_picture(tmp_path):
    for number in range(40):
        made_up(tmp_path / str(number), initializer=f"initializer_{number}", accuracy=[0.1, number / 40])
    figure = learning_curves.figure(compared([tmp_path]))
    FigureCanvasAgg(figure).draw()
    box, (width, height) = figure.legends[0].get_window_extent(), figure.bbox.size
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height


def test_pictures_say_what_they_leave_out(tmp_path):
    for number, name in itertools.product(range(70), ("zeros", "ones")):
        settings = {"overrides": ["model.width=..."], "model.width": number}
        made_up(tmp_path / name / str(number), initializer=name, **settings)
    comparison = compared([tmp_path])
    titles = [draw(comparison).get_suptitle() for draw in (learning_curves.figure, final_accuracy.figure)]
    assert titles[0].endswith("6 of 70 panels")
    assert titles[1].endswith("60 of 140 settings, the best")
    assert "the best 40 of 140" in tables.terminal(comparison).title


def test_layers_that_networks_do_not_share_are_numbered():
    same, other = [["a", "b"], ["a", "b"]], [["a", "b"], ["c"]]
    for networks, label in [(same, "layer, input to output"), (other, "weight layer, counted")]:
        (axis,) = style.grid(1, columns=1, width=5, height=3)[1]
        plots.depth_profile._name_layers(axis, networks)
        assert axis.get_xlabel().startswith(label)
