"""What every test shares: the same random numbers and the same hypothesis cases on every run."""

import gc
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A shell lets its background jobs ignore Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Every run of training draws two figures: in fewer pixels, in the processes that tests start too.
os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))
# Hypothesis must not depend on how busy the machine is, nor a run on chance; `make fuzz` searches on, anew each time.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("long", deadline=None, max_examples=2500, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _modules_are_no_garbage():
    """Accelerate collects garbage with every run of training, and would walk through all of torch each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_unconfigure(config):
    """Print as the last line why tests were skipped: for want of a GPU, or of what else."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):  # a process of pytest-xdist's leaves it to the first one
        return
    reports = [report for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    said = "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
    reporter.write_line(f"tests skipped: {said or 'none'}")
