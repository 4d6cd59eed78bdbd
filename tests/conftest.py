"""Every test works with a latency database and random numbers of its own, and with nothing that
ships."""

import itertools
import signal
import sys
import zlib

import numpy as np
import pytest
from cuda_fake import fake, fakes  # noqa: F401

from onnx_fusion.runtime import latency

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
    for module in (request.module, sys.modules.get("emit_models")):
        for value in vars(module).values() if module else ():
            if isinstance(value, np.random.Generator):
                value.bit_generator.state = state
