"""A numba type for an LLVM vector of sixteen float32 values, and operations on it.

LLVM maps the vector to the registers of the CPU (two AVX, one AVX-512 or four NEON registers), so this
module does not depend on the machine. Loads and stores take a one-dimensional array and an element offset
and are not bounds-checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.registry import register_default
from numba.extending import models, overload

from cgal_plugin.export.engine.jit import Float32s, Lanes, intrinsic

#: values in a vector; feature sizes are padded to multiples of this number
LANES = 16
#: coefficients of a filter in one table interval
ORDER = 6
#: numba's code generation helpers, which have no types
_utils: Any = cgutils
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_FAST = ("contract", "reassoc", "nsz")


class VectorType(types.Type):
    """``LANES`` float32 values."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector = VectorType()


@register_default(VectorType)
class VectorModel(models.PrimitiveModel):
    """Represent a vector by one LLVM value."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)  # type: ignore[no-untyped-call] # untyped in numba


def pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of element ``offset`` of an array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def load_vector(builder: Any, address: Any) -> Any:
    """Load a vector from an address of any alignment."""
    return builder.load(builder.bitcast(address, _VECTOR.as_pointer()), align=4)


def store_vector(builder: Any, value: Any, address: Any) -> None:
    """Store a vector to an address of any alignment."""
    builder.store(value, builder.bitcast(address, _VECTOR.as_pointer()), align=4)


def splat_scalar(builder: Any, value: Any) -> Any:
    """Broadcast a scalar to every lane."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_INT, 0))
    zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a·b + c with one rounding."""
    name = f"llvm.fma.v{LANES}f32"
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(_utils.get_or_insert_function(builder.module, kind, name), [a, b, c])


@intrinsic
def _load(typingctx: Any, array: Any, offset: Any) -> Any:
    """``array[offset : offset + LANES]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return load_vector(builder, pointer(context, builder, signature.args[0], args[0], args[1]))

    return vector(array, types.intp), codegen


load: Callable[[Float32s, int], Lanes] = _load


@intrinsic
def _store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """``array[offset : offset + LANES] = value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store_vector(builder, args[2], pointer(context, builder, signature.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


store: Callable[[Float32s, int, Lanes], None] = _store


@intrinsic
def _splat(typingctx: Any, value: Any) -> Any:
    """A float in every lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat_scalar(builder, args[0])

    return vector(types.float32), codegen


splat: Callable[[np.float32], Lanes] = _splat


@intrinsic
def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return fused(builder, *args)

    return vector(vector, vector, vector), codegen


fma: Callable[[Lanes, Lanes, Lanes], Lanes] = _fma


@intrinsic
def _total(typingctx: Any, a: Any) -> Any:
    """Sum of the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            low = ir.Constant(ir.VectorType(_INT, width), list(range(width)))
            high = ir.Constant(ir.VectorType(_INT, width), list(range(width, 2 * width)))
            value = builder.fadd(
                builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high)
            )
        return builder.extract_element(value, ir.Constant(_INT, 0))

    return types.float32(vector), codegen


total: Callable[[Lanes], float] = _total


def _unary(name: str) -> Any:
    """Return the intrinsic of a unary LLVM function."""

    @intrinsic
    def operation(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(_VECTOR, [_VECTOR])
            function = _utils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
            return builder.call(function, args)

        return vector(vector), codegen

    return operation


absolute: Callable[[Lanes], Lanes] = _unary("fabs")
rounded: Callable[[Lanes], Lanes] = _unary("rint")


def _binary(name: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args, flags=_FAST)

        return vector(vector, vector), codegen

    return operation


def _operator(function: Any, name: str) -> None:
    operation = _binary(name)

    # numba compares the signature of this function with that of the lambda, which has no annotations
    @overload(function)
    def choose(a, b):  # type: ignore[no-untyped-def]
        both = isinstance(a, VectorType) and isinstance(b, VectorType)
        return (lambda a, b: operation(a, b)) if both else None


for _function, _name in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    _operator(getattr(operator, _function), _name)


@intrinsic
def _where_less(typingctx: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """Lane by lane ``yes if a < b else no``; NaN in ``a`` gives ``no``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return vector(vector, vector, vector, vector), codegen


where_less: Callable[[Lanes, Lanes, Lanes, Lanes], Lanes] = _where_less


@intrinsic
def _power_of_two(typingctx: Any, n: Any) -> Any:
    """2ⁿ of integers −126 ≤ n ≤ 127, by setting the exponent bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bias = ir.Constant(_INTS, [127] * LANES)
        shift = ir.Constant(_INTS, [23] * LANES)
        bits = builder.shl(builder.add(builder.fptosi(args[0], _INTS), bias), shift)
        return builder.bitcast(bits, _VECTOR)

    return vector(vector), codegen


power_of_two: Callable[[Lanes], Lanes] = _power_of_two


def make_tile(rows: int) -> Any:
    """Return the inner loop of a matrix product for ``rows`` rows and ``LANES`` columns.

    ``tile(x, x_offset, size, w, w_offset, y_offset, width, bias_offset, add)`` computes
    y[r, :] = bias + Σ_k x[r, k] w[k, :], plus the old y if ``add`` is 1. y is in the array of x and the bias
    in that of w. Rows of x are ``size`` apart and rows of y ``width``; w is packed as ``(size, LANES)``. All
    sums stay in registers; ``size`` is a multiple of four.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        # args: x 0, x_offset 1, size 2, w 3, w_offset 4, y_offset 5, width 6, bias_offset 7, add 8
        x, y = (pointer(context, builder, kinds[0], args[0], args[i]) for i in (1, 5))
        w, b = (pointer(context, builder, kinds[3], args[3], args[i]) for i in (4, 7))
        size, width, add = args[2], args[6], args[8]
        step = ir.Constant(size.type, 4)
        bias = load_vector(builder, b)
        sums = [_utils.alloca_once(builder, _VECTOR) for _ in range(rows)]
        at_y = [builder.gep(y, [builder.mul(width, ir.Constant(width.type, r))]) for r in range(rows)]
        at_x = [builder.gep(x, [builder.mul(size, ir.Constant(size.type, r))]) for r in range(rows)]
        for place in sums:
            builder.store(bias, place)
        with builder.if_then(_utils.is_not_null(builder, add)):
            for place, address in zip(sums, at_y, strict=True):
                builder.store(builder.fadd(bias, load_vector(builder, address)), place)
        with _utils.for_range(builder, builder.udiv(size, step), intp=size.type) as loop:
            first = builder.mul(loop.index, step)
            for k in range(4):
                at = builder.add(first, ir.Constant(size.type, k))
                row = builder.gep(w, [builder.mul(at, ir.Constant(size.type, LANES))])
                weights = load_vector(builder, row)
                for place, address in zip(sums, at_x, strict=True):
                    value = splat_scalar(builder, builder.load(builder.gep(address, [at])))
                    builder.store(fused(builder, value, weights, builder.load(place)), place)
        for place, address in zip(sums, at_y, strict=True):
            store_vector(builder, builder.load(place), address)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        typingctx: Any,
        x: Any,
        x_offset: Any,
        size: Any,
        w: Any,
        w_offset: Any,
        y_offset: Any,
        width: Any,
        bias_offset: Any,
        add: Any,
    ) -> Any:
        n = types.intp
        return types.void(x, n, n, w, n, n, n, n, types.int64), emit

    return tile
