"""Which CPUs sessions that are compared run on: the same for all, and one for each thread.

Left to the system, the threads of two sessions run on different CPUs, some of which are slower
together: two threads of one core, also where a virtual machine hides that they are (half the speed
each, for seconds at a time), or CPUs that others use. That is then taken for a difference between
the sessions. One thread alone moves between CPUs for both sessions alike, and is left to do so.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import onnxruntime

from onnx_fusion.runtime.library import get_library_path

AFFINITIES = "session.intra_op_thread_affinities"
MOST_SETS = 8
"""Sets of CPUs that are tried."""
TRIAL_ROUNDS = 400_000
"""What all CPUs of a set do at once: multiplications for a millisecond or two."""


def choose(
    threads: int, time_sets: Callable[[Sequence[int]], float] | None = None
) -> tuple[int, ...]:
    """Return a CPU for each thread, the fastest set of those tried.

    Nothing for one thread, or where this process may not use so many CPUs. `time_sets` returns the
    seconds that all CPUs of a set take for the same work at once.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if threads < 2 or threads > len(allowed):
        return ()
    sets = list_sets(allowed, threads)
    return sets[0] if len(sets) == 1 else min(sets, key=time_sets or time_set)


def list_sets(cpus: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Return sets of `count` CPUs: all if they are few, else neighbours and CPUs far apart."""
    if math.comb(len(cpus), count) <= MOST_SETS:
        return list(itertools.combinations(cpus, count))
    step = max(1, len(cpus) // count)
    found: dict[tuple[int, ...], None] = {}
    for turn in range(MOST_SETS // 2):
        begin = turn * len(cpus) // (MOST_SETS // 2)
        for stride in (1, step):
            picked = {cpus[(begin + k * stride) % len(cpus)] for k in range(count)}
            found[tuple(sorted(picked))] = None
    return list(found)


def time_set(cpus: Sequence[int]) -> float:
    """Return the seconds in which these CPUs, all at once, do some multiplications each."""
    try:
        loop = ctypes.CDLL(get_library_path()).onnx_fusion_multiply_add
    except (OSError, AttributeError):
        return 0.0
    loop.restype, loop.argtypes = ctypes.c_double, [ctypes.c_int64]
    ready = threading.Barrier(len(cpus))
    spent: list[float] = []

    def work(cpu: int) -> None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {cpu})
        ready.wait()
        start = time.perf_counter()
        loop(TRIAL_ROUNDS)
        spent.append(time.perf_counter() - start)

    # An interrupt may leave some of them waiting for those that were not started.
    workers = [threading.Thread(target=work, args=(cpu,), daemon=True) for cpu in cpus]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(spent)


def assign(options: onnxruntime.SessionOptions, cpus: Sequence[int]) -> None:
    """Give each thread of a session to come, but the caller's, its CPU; nothing without `cpus`.

    ONNX Runtime counts processors from 1. What it cannot set it reports, and goes on.
    """
    if cpus:
        options.add_session_config_entry(AFFINITIES, ";".join(str(cpu + 1) for cpu in cpus[1:]))


@contextlib.contextmanager
def held(cpus: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread on the first of these CPUs, then let it go where it might before.

    Threads made meanwhile would be kept there, too: sessions are made before.
    """
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpus[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
