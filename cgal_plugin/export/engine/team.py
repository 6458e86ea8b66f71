"""Threads inside compiled code: atomic operations, a barrier, and the counters that threads share.

All threads of a call run the same function. The shared array ``control`` holds one counter per cache line,
at the offsets below. Waiting threads read a counter a few times, then give their core to other threads, and
sleep in the end, so that waiting costs little where there are more threads than cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from cgal_plugin.export.engine.jit import Int64s, entry, intrinsic, kernel
from cgal_plugin.export.engine.simd import pointer

#: elements between counters: two cache lines, since some CPUs fetch lines in pairs
LINE = 16
#: calls announced and calls begun so far, threads at the barrier, barriers so far, next chunk, next slot,
#: 1 if a thread found more pairs than it can store
ANNOUNCED, CALL, ARRIVED, PHASE, NEXT_CHUNK, NEXT_SLOT, TOO_MANY, _FIRST_STATE = (LINE * k for k in range(8))
#: state of a thread: in compiled code, or no longer
AWAKE, ASLEEP = 0, 1
#: reads of a counter before a waiting thread gives up its core
_READS = 200
#: turns before a waiting thread sleeps: more threads than cores, or threads with less work than others
_TURNS = 1000
_utils: Any = cgutils


def control_array(n_threads: int) -> Int64s:
    """Return the shared counters for ``n_threads`` threads; all of them are asleep."""
    control = np.zeros(_FIRST_STATE + LINE * n_threads, dtype=np.int64)
    control[_FIRST_STATE::LINE] = ASLEEP
    return control


@kernel
def state_of(thread: int) -> int:
    """Return the offset of the state of a thread in ``control``."""
    return _FIRST_STATE + LINE * thread


@intrinsic
def _add(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Add to an element; return the old value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", address, args[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def _exchange(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Replace an element; return the old value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("xchg", address, args[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def _read(typingctx: Any, array: Any, offset: Any) -> Any:
    """Return an element that other threads change."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.load_atomic(address, "seq_cst", 8)

    return types.int64(array, types.intp), codegen


def _call_system(posix: str, windows: str, *values: int) -> Any:
    """Return the intrinsic that calls a function of the C library with 32-bit arguments."""

    @intrinsic
    def call(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number = ir.IntType(32)
            kind = ir.FunctionType(number, [number] * len(values))
            name = windows if os.name == "nt" else posix
            function = _utils.get_or_insert_function(builder.module, kind, name)
            builder.call(function, [ir.Constant(number, value) for value in values])
            return context.get_dummy_value()

        return types.void(), codegen

    return call


add: Callable[[Int64s, int, int], int] = _add
exchange: Callable[[Int64s, int, int], int] = _exchange
read: Callable[[Int64s, int], int] = _read
#: let another thread run on this core
give_way: Callable[[], None] = _call_system("sched_yield", "SwitchToThread")
#: sleep for 50 µs (Windows: 1 ms)
doze: Callable[[], None] = _call_system("usleep", "Sleep", 50 if os.name != "nt" else 1)


@kernel
def wait_while(control: Int64s, at: int, value: int, patience: int) -> bool:
    """Wait until an element differs from ``value``; return False after ``patience`` turns (< 0: forever)."""
    turn = 0
    while patience < 0 or turn < patience:
        for _ in range(_READS):
            if read(control, at) != value:
                return True
        if turn < _TURNS:
            give_way()
        else:
            doze()
        turn += 1
    return False


@kernel
def barrier(control: Int64s, n_threads: int) -> None:
    """Wait until all threads are here; what they wrote before is then visible to all."""
    if n_threads == 1:
        return
    phase = read(control, PHASE)
    if add(control, ARRIVED, 1) == n_threads - 1:
        exchange(control, ARRIVED, 0)
        add(control, PHASE, 1)
    else:
        wait_while(control, PHASE, phase, -1)


@kernel
def next_call(control: Int64s, thread: int, call: int, patience: int) -> bool:
    """Wait for the call after number ``call``; return False if none is announced for ``patience`` turns."""
    while not wait_while(control, CALL, call, patience):
        exchange(control, state_of(thread), ASLEEP)
        # a call announced meanwhile: thread 0 may or may not have seen that this thread is asleep
        if read(control, ANNOUNCED) == call or exchange(control, state_of(thread), AWAKE) == AWAKE:
            return False
    return True


@entry
def announce(control: Int64s, n_threads: int, woken: Int64s) -> int:
    """Announce a call: no thread falls asleep until it has taken part. List those to be started.

    Return the number of calls before.
    """
    add(control, ANNOUNCED, 1)
    woken[0] = 0
    for thread in range(1, n_threads):
        if exchange(control, state_of(thread), AWAKE) == ASLEEP:
            woken[0] += 1
            woken[woken[0]] = thread
    return read(control, CALL)
