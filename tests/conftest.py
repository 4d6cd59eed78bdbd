"""Every test works with a latency database of its own, not with the user's."""

import pytest

from onnx_fusion.runtime import latency


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv(latency.VARIABLE, str(tmp_path_factory.mktemp("cache", numbered=True)))
