"""Named scalars of one step -> one TensorBoard event, in the logger's own event file.

TensorBoard's own way makes an event of each scalar, with a checksum computed in Python, byte by byte. Here the event
of a set of tags is serialised once; each step writes its numbers into it and corrects the checksum by what the written
bytes change. CRC-32C allows that because it is linear over bits: what a byte contributes depends on its value and on
its distance from the end alone (Warren, Hacker's Delight, section 14-1).
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

Words: TypeAlias = npt.NDArray[np.uint32]

_TABLE: Words = np.array(CRC_TABLE, np.uint32)
_ONES = 0xFFFFFFFF
_PATIENCE = 1.0  # seconds that an event waits for others at most
_MOST = 4096  # values that wait at most: what is serialised at a time stays in the cache
_LINES = 100  # the largest number of lines that a chart asks for one by one


class EventWriter:
    """Writes the scalars of a step as one event.

    Args:
        summary_writer: a `torch.utils.tensorboard.SummaryWriter`, such as `TensorBoardLogger.experiment`. Its queue is
            used, so events stay in order with whatever else is logged.
        prefix: put before each tag.
    """

    def __init__(self, summary_writer: SummaryWriter, prefix: str = "") -> None:
        self._summary_writer = summary_writer
        self._prefix = prefix
        self._templates: dict[tuple[str, ...], Template] = {}

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one event that holds every scalar; nothing if there is none."""
        if not scalars:
            return
        tags = tuple(scalars)
        template = self._templates.get(tags)
        if template is None:
            recent = list(self._templates.items())[-3:]
            template = Template(self._prefix + tag for tag in tags)
            self._templates = {**dict(recent), tags: template}
        point = Point(step, array("d", scalars.values()), time.time())
        # reopens the file that `close` closed; there is no public name for it
        file_writer = self._summary_writer._get_file_writer()  # type: ignore[no-untyped-call]  # noqa: SLF001 (not public)
        events = file_writer.event_writer
        outbox = getattr(events, "_async_writer", None)
        if not isinstance(outbox, Outbox):
            if not hasattr(getattr(outbox, "_writer", None), "_writer"):  # any other kind of writer
                file_writer.add_event(Event.FromString(template.records([point])[12:-4]))
                return
            outbox = events._async_writer = Outbox(outbox)  # noqa: SLF001 (see Outbox)
        outbox.post(template, point)

    def write_layout(self, title: str, tags: Iterable[str]) -> None:
        """Write what the custom-scalars tab shows: one chart for each series, one line for each of its tags."""
        charts = {name: ["Multiline", lines] for name, lines in chart_lines(self._prefix + tag for tag in tags).items()}
        self._summary_writer.add_custom_scalars({title: charts})

    def flush(self) -> None:
        """Wait until everything is in the file."""
        self._summary_writer.flush()


def chart_lines(tags: Iterable[str]) -> dict[str, list[str]]:
    r"""Return chart -> regular expressions of its lines, for tags of the form `series/name`.

    TensorBoard makes a request for each expression, so large charts have a single one.

    >>> chart_lines(["weight_variance/net.0", "weight_variance/net.1", "loss"])
    {'weight_variance': ['^weight_variance/net\\.0$', '^weight_variance/net\\.1$']}
    """
    charts: dict[str, list[str]] = {}
    for tag in tags:
        series, slash, _ = tag.partition("/")
        if slash:
            charts.setdefault(series, []).append(f"^{re.escape(tag)}$")
    return {series: lines if len(lines) <= _LINES else [f"^{series}/"] for series, lines in charts.items()}


class Record(bytes):
    """Finished records of an event file, checksums included."""


class Point(NamedTuple):
    """The numbers of one event.

    Args:
        step: its x.
        values: one for each tag.
        wall_time: in seconds since 1970.
    """

    step: int
    values: array[float]
    wall_time: float


class Template:
    """The record of events with these tags, all but the numbers.

    Args:
        tags: of the scalars, in the order of the values.

    >>> template = Template(["loss"])
    >>> Event.FromString(template.records([Point(7, array("d", [0.5]), 0.0)])[12:-4]).summary.value[0].simple_value
    0.5
    """

    def __init__(self, tags: Iterable[str]) -> None:
        values = [Summary.Value(tag=tag, simple_value=0.0).SerializeToString() for tag in tags]
        framed = [b"\x0a" + _varint(len(value)) + value for value in values]  # field 1 of Summary
        summary = b"".join(framed)
        start = b"\x2a" + _varint(len(summary))  # field 5 of Event
        self._body = np.frombuffer(start + summary, np.uint8).copy()
        ends = len(start) + np.cumsum([len(value) for value in framed])
        self._places = (ends[:, None] + np.arange(-4, 0)).ravel()  # where the bytes of the floats are
        self._fixed = _crc(self._body.tobytes())
        past = len(self._body) - 1 - self._places
        nibbles = np.arange(16, dtype=np.uint32)
        halves = np.stack([_TABLE[nibbles], _TABLE[nibbles << 4]])  # a byte contributes what its two halves do
        self._contributions = _advance(np.broadcast_to(halves, (len(past), 2, 16)), past[:, None, None]).ravel()
        self._rows = np.arange(2 * len(past)).reshape(-1, 2).T * 16
        self._head = [_advance(row, np.array(len(self._body))).tolist() for row in _BYTES]

    def records(self, points: Sequence[Point]) -> Record:
        """Return the records of some steps; values beyond float32 become infinite, as in any event file."""
        with np.errstate(over="ignore"):
            floats = np.array([point.values for point in points]).astype("<f4").view(np.uint8)
        bodies = np.repeat(self._body[None], len(points), 0)
        bodies[:, self._places] = floats
        changed = self._contributions[self._rows[0] + (floats & 15)]
        changed ^= self._contributions[self._rows[1] + (floats >> 4)]
        parts: list[bytes] = []
        for point, body, change in zip(points, bodies, np.bitwise_xor.reduce(changed, 1).tolist(), strict=True):
            head = struct.pack("<bd", 0x09, point.wall_time) + b"\x10" + _varint(point.step)  # fields 1 and 2 of Event
            crc = self._fixed ^ change
            register = _crc(head, _ONES)
            for byte, table in enumerate(self._head):
                crc ^= table[register >> 8 * byte & 0xFF]
            parts += [_framed(len(head) + len(body)), head, body.tobytes(), _masked(crc)]
        return Record(b"".join(parts))


class Outbox:
    """Stands before the queue of an event file and holds back points, so that they are written many at a time.

    Each item of the queue wakes the thread that writes, which opens and closes the file and, meanwhile, has the
    training wait for the interpreter lock. Whatever else is written, flushed or closed sends on what is held back.

    There is no public way: the writer takes events, not bytes, and computes their checksums anew. So its record writer
    is taught to write finished records as they are.

    Args:
        queue: the `_AsyncWriter` of a TensorBoard `EventFileWriter`.
    """

    def __init__(self, queue: Any) -> None:  # noqa: ANN401 (untyped in tensorboard)
        self._queue = queue
        self._lock = threading.RLock()
        self._held: list[tuple[Template, Point]] = []
        self._values = 0
        records = queue._writer  # noqa: SLF001 (not public)
        records.write = _WriteFinished(records.write, records._writer)  # noqa: SLF001 (not public)

    def post(self, template: Template, point: Point) -> None:
        """Hold `point` back, `_PATIENCE` seconds after the first or at `_MOST` values send on all."""
        with self._lock:
            self._held.append((template, point))
            self._values += len(point.values)
            if self._values >= _MOST or point.wall_time - self._held[0][1].wall_time > _PATIENCE:
                self._send()

    def write(self, data: bytes) -> None:
        """Write the serialised event of someone else."""
        with self._lock:
            self._send()
            self._queue.write(data)

    def flush(self) -> None:
        """Wait until everything is in the file."""
        with self._lock:
            self._send()
            self._queue.flush()

    def close(self) -> None:
        """Write everything and close the file."""
        with self._lock:
            self._send()
            self._queue.close()

    def _send(self) -> None:
        if self._held:
            held, self._held, self._values = self._held, [], 0
            for template, group in itertools.groupby(held, operator.itemgetter(0)):
                self._queue.write(template.records([point for _, point in group]))


class _WriteFinished:
    """`RecordWriter.write` that leaves finished records alone."""

    def __init__(self, unfinished: Callable[[bytes], None], file: BinaryIO) -> None:
        self._unfinished = unfinished
        self._file = file

    def __call__(self, data: bytes) -> None:
        if isinstance(data, Record):
            self._file.write(data)
        else:
            self._unfinished(data)


def _varint(number: int) -> bytes:
    """Return a protocol buffers varint; negative numbers as int64."""
    number &= 0xFFFFFFFFFFFFFFFF
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


# --- CRC-32C --------------------------------------------------------------------------------------------------------


def _crc(data: bytes, register: int = 0) -> int:
    """Return the register after `data`; the checksum is the complement of what starts from all ones."""
    for byte in data:
        register = CRC_TABLE[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


@functools.lru_cache
def _framed(length: int) -> bytes:
    """Return what stands before the data of a record."""
    data = struct.pack("<Q", length)
    return data + _masked(_crc(data, _ONES))


def _masked(register: int) -> bytes:
    """Return the checksum as event files store it."""
    crc = register ^ _ONES
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES)


_BYTES: Words = np.arange(256, dtype=np.uint32) << 8 * np.arange(4, dtype=np.uint32)[:, None]


def _look_up(tables: Words, registers: Words) -> Words:
    """Apply a linear map, given by its values on the four bytes of a register `(4, 256)`."""
    found: Words = tables[0][registers & 0xFF]
    for byte in (1, 2, 3):
        found = found ^ tables[byte][registers >> np.uint32(8 * byte) & 0xFF]
    return found


def _advance(registers: Words, distances: npt.NDArray[np.int64]) -> Words:
    """Return the registers after `distances` zero bytes (broadcast against them)."""
    registers = np.broadcast_to(registers, np.broadcast_shapes(registers.shape, distances.shape)).copy()
    tables = _BYTES >> np.uint32(8) ^ _TABLE[_BYTES & 0xFF]  # one zero byte, then 2, 4, 8, ...
    for bit in range(int(distances.max(initial=0)).bit_length()):
        chosen = np.broadcast_to(distances >> bit & 1, registers.shape).astype(bool)
        registers[chosen] = _look_up(tables, registers[chosen])
        tables = _look_up(tables, tables)
    return registers
