"""How kernels reach memory by its address, and are kept on disk once they are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import config, njit, types
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., object])

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


def compiled(signature: str, **options: Any) -> Callable[[_Function], _Function]:
    """Compile a function for one signature; keep the outcome on disk, where there is a place for it."""

    def compiled(function: _Function) -> _Function:
        made: _Function
        try:
            made = njit(signature, cache=True, **options)(function)
        except Exception:  # noqa: BLE001 (of many kinds: no place for a cache, one that is damaged or of other versions)
            made = njit(signature, **options)(function)
        return made

    return compiled


def entry(function: Any) -> Any:
    """Return what Python calls of a `compiled` function, without the dispatcher that would look at the types first."""
    (made,) = function.overloads.values()
    return made.entry_point


def _cast(instruction: str, given: Any, made: Any) -> Any:
    """Return what takes a value of one type for one of another, by an instruction of LLVM's."""

    def cast(typing: Any, value: Any) -> Any:
        del typing, value

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, instruction)(values[0], context.get_value_type(signature.return_type))

        return made(given), generate

    return intrinsic(cast)


floats, doubles, integers, words = (
    _cast("inttoptr", types.int64, types.CPointer(kind))
    for kind in (types.float32, types.float64, types.int64, types.uint32)
)
"""The pointer to float32, float64, int64 or uint32 at an address, for `numba.carray`."""
bits = _cast("bitcast", types.float32, types.int32)
"""The bits of a float32, as an int32."""
of_bits = _cast("bitcast", types.int32, types.float32)
"""The float32 of these bits."""


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return `a * b + c` of float32, rounded once."""
    del typing, a, b, c
    single = types.float32
    return single(single, single, single), lambda _context, builder, _signature, values: builder.fma(*values)
