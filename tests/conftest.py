"""What holds for all tests: which are left out here, and that the end of a run says so."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long one example takes says how busy the machine is.
settings.register_profile("any-load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-load")

# Torch's threads sleep where they wait for one another, instead of looping: other tests need the core.
# It counts for the processes that tests start, too; and it is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_LEFT_OUT = pytest.StashKey[dict[str, str]]()
"""Why a test does not run on this machine, by its name."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the GPU tests where there is no GPU: they are run where there is one."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
        config.stash[_LEFT_OUT] |= {item.nodeid: "it needs a CUDA device" for item in gpu}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, if this is one of several that run tests."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash[_LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what one of several processes left out; they all collect the same tests."""
    node.config.stash[_LEFT_OUT] |= getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name what was left out, just before the last line."""
    left_out = config.stash[_LEFT_OUT]
    if not left_out:
        return
    terminalreporter.section("left out on this machine")
    for name, reason in left_out.items():
        terminalreporter.write_line(f"{name}: {reason}")
