"""Ask the processor for a row that a loop will read soon.

A pass over the cells reads rows of a block of vectors in an order that only the data know; where the block
is larger than the caches, it would otherwise wait for the memory at every cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import Late

if TYPE_CHECKING:
    from llvmlite import ir
    from numba import types
    from numba.core.base import BaseContext
    from numba.core.typing.context import BaseContext as TypingContext
    from numba.core.typing.templates import Signature

__all__ = ["AHEAD", "prefetch"]

AHEAD = 16  # cells; 8 to 32 were measured to be about as fast
_LINE = 64  # bytes that come at once


def _intrinsic() -> object:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    def prefetch(
        typingctx: TypingContext, array: types.Array, row: types.Integer
    ) -> tuple[Signature, Callable[..., ir.Value]]:
        signature = types.void(array, types.int64)

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: Signature, arguments: list[ir.Value]
        ) -> ir.Value:
            values = context.make_array(signature.args[0])(context, builder, arguments[0])
            stride = cgutils.unpack_tuple(builder, values.strides, 2)[0]
            byte = ir.IntType(8).as_pointer()
            base = builder.bitcast(values.data, byte)
            start = builder.gep(base, [builder.mul(arguments[1], stride)])
            flag = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            # for reading, to be kept, data
            settings = [ir.Constant(flag, 0), ir.Constant(flag, 3), ir.Constant(flag, 1)]
            builder.call(function, [start, *settings])
            with builder.if_then(builder.icmp_signed(">", stride, ir.Constant(stride.type, _LINE))):
                second = builder.gep(start, [ir.Constant(stride.type, _LINE)])
                builder.call(function, [second, *settings])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(prefetch)


# prefetch(array, row): bring the first 128 bytes of array[row], or what it has, into the cache. `array` is
# two-dimensional in C order. Nothing is read: any row is allowed.
prefetch = Late(_intrinsic)
