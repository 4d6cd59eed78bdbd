"""Every test works with a latency database of its own, and with nothing that ships."""

import pytest

from onnx_fusion.runtime import latency


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(latency, "SHIPPED", latency.SHIPPED.with_name("nothing_ships.jsonl"))
    monkeypatch.setenv(latency.VARIABLE, str(tmp_path_factory.mktemp("cache", numbered=True)))
