"""Every test works with a latency database and random numbers of its own, and with nothing that
ships."""

import functools
import itertools
import pathlib
import signal
import sys
import zlib

import numpy as np
import pytest
from cuda_fake import fake, fakes  # noqa: F401
from cuda_library import blas, dnn  # noqa: F401

from onnx_fusion.runtime import latency

HERE = pathlib.Path(__file__).parent
NUMBERS = itertools.count()

# A suite in the background is started with Ctrl-C ignored, and its processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def _own_cache(_caches, monkeypatch):
    # The folder is made when something is put in: most tests measure nothing.
    monkeypatch.setattr(latency, "SHIPPED", latency.SHIPPED.with_name("nothing_ships.jsonl"))
    monkeypatch.setenv(latency.VARIABLE, str(_caches / str(next(NUMBERS))))


@pytest.fixture(autouse=True)
def _own_numbers(request):
    """Random numbers depend on the test alone, not on those that ran before it."""
    state = np.random.default_rng(zlib.crc32(request.node.nodeid.encode())).bit_generator.state
    for module in list(sys.modules.values()):
        for generator in generators(module):
            generator.bit_generator.state = state


@functools.cache
def generators(module):
    """Return what a test or a file beside it draws its numbers from, its own or another's."""
    if pathlib.Path(getattr(module, "__file__", None) or "").parent != HERE:
        return []
    return [value for value in vars(module).values() if isinstance(value, np.random.Generator)]
