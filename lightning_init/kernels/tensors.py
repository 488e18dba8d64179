"""Where the values of torch's tensors lie, as it tells other libraries (DLPack's exchange API, dlpack.h, version 1).

A kernel that is given tensors asks torch itself, in a fraction of the time that Python's ways to ask would take.
"""

from __future__ import annotations

import ctypes
from array import array
from typing import Any

import torch
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from lightning_init.kernels.memory import compiled, integers

_CPU, _FLOAT32 = 1, 2 | 32 << 8 | 1 << 16  # as the fields of a DLTensor tell them
_HALF = (1 << 32) - 1
_LOW, _LOWEST = 1 << 32, 1 << 16  # below lies the heap of few programs, and of none
_FIELDS = 6  # of eight bytes: address, device, number of dimensions and dtype, shape, strides, offset


class _ExchangeAPI(ctypes.Structure):
    """`DLPackExchangeAPI` of dlpack.h."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("older", "allocate", "give", "take", "describe", "stream")),
    )


def _functions() -> array[int]:
    """Return the addresses of the functions that describe a tensor and forget Python's error, and a floor.

    A view whose memory was given back is said to lie at its own offset. So nothing below the floor is believed.
    """
    content = ctypes.pythonapi.PyCapsule_GetPointer
    content.restype, content.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    api = _ExchangeAPI.from_address(content(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api"))
    if api.major != 1 or not api.describe:
        raise ImportError(f"torch describes tensors by version {api.major}.{api.minor} of DLPack, and 1 is known here")
    forget = ctypes.cast(ctypes.pythonapi.PyErr_Clear, ctypes.c_void_p).value
    low = torch.empty(1).data_ptr() < _LOW
    return array("q", [api.describe, forget or 0, _LOWEST if low else _LOW])


_ADDRESSES = _functions()
TORCH = _ADDRESSES.buffer_info()[0]
"""First argument of every kernel that is given tensors: addresses of functions are others in each process."""


@intrinsic
def _described(typing: Any, function: Any, tensor: Any) -> Any:
    """Return the status of `dltensor_from_py_object_no_sync`, 0 for success, and the fields of the DLTensor."""
    del typing, function, tensor

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number, status = ir.IntType(64), ir.IntType(32)
        fields = cgutils.alloca_once(builder, number, _FIELDS)
        describe = builder.inttoptr(values[0], ir.FunctionType(status, [number, number.as_pointer()]).as_pointer())
        found = [builder.sext(builder.call(describe, [values[1], fields]), number)]
        found += [builder.load(cgutils.gep_inbounds(builder, fields, field)) for field in range(_FIELDS)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.int64, 1 + _FIELDS)(types.int64, types.int64), generate


@intrinsic
def _call(typing: Any, function: Any) -> Any:
    """Call a function that takes and returns nothing."""
    del typing, function

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        builder.call(builder.inttoptr(values[0], ir.FunctionType(ir.VoidType(), []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@compiled("int64(int64, int64, int64)")
def _size(dimensions: int, shape: int, strides: int) -> int:
    """Return how many values there are; -1 if they do not lie one after the other, in any order of the dimensions."""
    sizes, steps = carray(integers(shape), dimensions), carray(integers(strides), dimensions)
    longer, total = 0, 1
    for size in sizes:
        longer += size != 1
        total *= size
    step = 1
    for _ in range(longer if total else 0):
        for k in range(dimensions - 1, -1, -1):
            if steps[k] == step and sizes[k] != 1:
                step *= sizes[k]
                break
        else:
            return -1
    return total


@compiled("UniTuple(int64, 2)(int64, int64)")
def lying(functions: int, tensor: int) -> tuple[int, int]:
    """Return where the values of a tensor lie, and how many there are; -1 if not as float32, on the CPU, dense.

    Args:
        functions: `TORCH`.
        tensor: the `id` of a `torch.Tensor` or `Parameter`, that is not negative lazily (`is_neg`).
    """
    describe, forget, floor = carray(integers(functions), 3)
    status, address, device, kind, shape, strides, offset = _described(describe, tensor)
    if status != 0:  # no strided tensor, or one inside torch.func
        _call(forget)
        return 0, -1
    if device & _HALF != _CPU or kind >> 32 != _FLOAT32:
        return 0, -1
    size = _size(kind & _HALF, shape, strides)
    return address + offset, size if size == 0 or address + offset >= floor else -1


@compiled("boolean(int64, int64, int64, int64, int64)")
def find_each(functions: int, count: int, tensors: int, addresses: int, sizes: int) -> bool:
    """Write where the values of each of `count` tensors lie, and how many there are; the `id`s lie at `tensors`.

    Returns:
        Whether all are such that `lying` tells; if not, what was written means nothing.
    """
    each, address, size = (
        carray(integers(tensors), count),
        carray(integers(addresses), count),
        carray(integers(sizes), count),
    )
    for i in range(count):
        address[i], size[i] = lying(functions, each[i])
        if size[i] < 0:
            return False
    return True
