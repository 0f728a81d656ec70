"""What every test of a model needs: no network, and one thread for each call of torch."""

import huggingface_hub
import pytest
import torch
from transformers.utils import logging as transformers_logging


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """One thread for each call of torch: those of one call wait for one another in a busy loop.

    That is slow where others use the cores as well. The embedder still makes batches on several cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
