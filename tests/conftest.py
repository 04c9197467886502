from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core a worker
settings.register_profile("forethought", deadline=None)  # a busy machine is no failure
settings.load_profile("forethought")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def fp32() -> Iterator[None]:
    """Local models in fp32 on the CPU, whatever the machine has. Tests of other placements ask for them."""
    from forethought.engine import placement, weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "best", lambda parameters: placement.PLAIN)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator's files. Modules that want others have a `folder` of their own."""
    from tests import tiny

    path = tmp_path_factory.mktemp("generator")
    tiny.generator(path)
    return path
