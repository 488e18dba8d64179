"""Events are what TensorBoard itself would have written, checksum and all."""

import math
import struct
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter

from lightning_init.event_writer import EventWriter, Outbox, Point, Template, chart_lines


def stock(tags, values, step, wall_time):
    summary = Summary(
        value=[Summary.Value(tag=tag, simple_value=value) for tag, value in zip(tags, values, strict=True)]
    )
    return Event(wall_time=wall_time, step=step, summary=summary)


@pytest.mark.parametrize("count", [1, 2, 17, 400, 12_345])
def test_a_record_equals_what_protobuf_and_crc_give(count):
    tags = [f"weight_variance/layer.{i}" * (1 + i % 3) for i in range(count)]
    template = Template(tags)
    for step in (0, 1, 127, 128, 300, 2**40):
        values = [math.sin(i + step) * 10.0 ** (i % 30 - 15) for i in range(count)]
        record = template.records([Point(step, array("d", values), 1.7e9 + step)])
        data = record[12:-4]
        assert Event.FromString(data) == stock(tags, values, step, 1.7e9 + step)
        assert struct.unpack("<QI", record[:12]) == (len(data), masked_crc32c(record[:8]))
        assert struct.unpack("<I", record[-4:])[0] == masked_crc32c(data)


def test_a_wrong_checksum_would_be_noticed(tmp_path):
    """The reader that the other tests rely on refuses a record with one flipped bit."""
    record = bytearray(Template(["a"]).records([Point(0, array("d", [1]), 0.0)]))
    record[20] ^= 1
    file = tmp_path / "x.tfevents.0"
    file.write_bytes(record)
    assert list(RawEventFileLoader(str(file)).Load()) == []


def scalars(directory):
    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_events_keep_their_order_with_what_others_write(tmp_path):
    writer = SummaryWriter(tmp_path)
    events = EventWriter(writer, prefix="p-")
    for step in range(30):
        events.write(step, {"a/x": step / 2, "a/y": -step})
        writer.add_scalar("loss", step, step)
    events.flush()
    (file,) = tmp_path.glob("*.tfevents.*")
    order = [[v.tag for v in Event.FromString(raw).summary.value] for raw in RawEventFileLoader(str(file)).Load()]
    assert order[1:] == [["p-a/x", "p-a/y"], ["loss"]] * 30
    got = scalars(tmp_path)
    assert got["p-a/x"] == [(step, step / 2) for step in range(30)]
    assert got["loss"] == [(step, step) for step in range(30)]
    writer.close()


def test_tags_may_come_and_go_and_writing_goes_on_after_close(tmp_path):
    writer = SummaryWriter(tmp_path)
    events = EventWriter(writer)
    for step in range(12):
        events.write(step, {f"a/{i}": float(i) for i in range(step % 6)})
    writer.close()
    events.write(12, {"a/0": 1.0})
    writer.close()
    got = scalars(tmp_path)
    assert [step for step, _ in got["a/0"]] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert [step for step, _ in got["a/4"]] == [5, 11]


def test_what_is_not_finite_or_beyond_float32_is_kept(tmp_path):
    writer = SummaryWriter(tmp_path)
    EventWriter(writer).write(0, {"nan": math.nan, "inf": -math.inf, "big": 1e300, "small": 1e-300})
    writer.close()
    got = {tag: values[0][1] for tag, values in scalars(tmp_path).items()}
    assert math.isnan(got["nan"])
    assert (got["inf"], got["big"], got["small"]) == (-math.inf, math.inf, 0.0)


def test_a_value_takes_at_most_12_bytes_and_its_tag(tmp_path):
    tags = [f"activation_variance/net.{i}" for i in range(1000)]
    record = Template(tags).records([Point(10**6, array("d", [1]) * 1000, 1.7e9)])
    assert len(record) <= 12 * 1000 + sum(map(len, tags)) + 50


def test_the_layout_has_a_line_for_each_layer_of_a_series(tmp_path):
    writer = SummaryWriter(tmp_path)
    EventWriter(writer).write_layout("signals", ["weight_variance/a", "weight_variance/b", "gradient_norm_total"])
    writer.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert "custom_scalars__config__" in accumulator.Tags()["tensors"]
    assert chart_lines(f"s/{i}" for i in range(1000)) == {"s": ["^s/"]}


def test_writers_of_another_make_get_the_event_itself():
    class FileWriter:
        def __init__(self):
            self.event_writer, self.events = object(), []

        def add_event(self, event):
            self.events.append(event)

    class Other:
        file_writer = FileWriter()

        def _get_file_writer(self):
            return self.file_writer

    EventWriter(Other()).write(3, {"a": 0.5})
    (event,) = Other.file_writer.events
    assert (event.step, event.summary.value[0].simple_value) == (3, 0.5)


def test_the_file_is_the_loggers_own(tmp_path):
    writer = SummaryWriter(tmp_path)
    EventWriter(writer).write(0, {"a": 1.0})
    writer.add_scalar("b", 1.0, 0)
    writer.close()
    assert len(list(Path(tmp_path).iterdir())) == 1


class Queue:
    """What `Outbox` uses of tensorboard's `_AsyncWriter`."""

    def __init__(self):
        self._writer = SimpleNamespace(write=None, _writer=None)
        self.items = []

    def write(self, data):
        self.items.append(data)

    def flush(self):
        self.items.append("flush")


def test_points_wait_for_each_other_but_not_long_and_nothing_overtakes_them():
    queue, template = Queue(), Template(["a"])
    outbox = Outbox(queue)

    def post(step, wall_time):
        outbox.post(template, Point(step, array("d", [1]), wall_time))
        return len(queue.items)

    assert [post(step, 100 + step / 4) for step in range(8)] == [0, 0, 0, 0, 0, 1, 1, 1]
    outbox.write(b"loss")
    post(8, 110.0)
    outbox.flush()
    outbox.flush()
    first, second, loss, third, *flushes = queue.items
    size = len(third)
    assert (len(first), len(second), loss, flushes) == (6 * size, 2 * size, b"loss", ["flush", "flush"])
    assert Event.FromString(second[size + 12 : 2 * size - 4]).step == 7


def test_a_thousand_values_do_not_wait_for_more_than_a_few_points():
    queue, template = Queue(), Template([f"a/{i}" for i in range(1000)])
    outbox = Outbox(queue)
    for step in range(50):
        outbox.post(template, Point(step, array("d", [1]) * 1000, 0.0))
    assert len(queue.items) == 10
