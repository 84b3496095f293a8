"""`pytest bench/ --benchmark` measures and records; without the flag the same suites check the same code, small."""

from __future__ import annotations

from typing import Any

import pytest

from bench import chart, record, report, step_chart

Rows = dict[str, list[dict[str, Any]]]
ROWS = pytest.StashKey[Rows]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gloria_ops")
    group.addoption(
        "--benchmark", action="store_true", help="Measure at full size; write bench/results/<machine>.json."
    )
    group.addoption("--backend", default="cpu", help="The gloria_ops backend that is timed. Default: %(default)s.")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}
    config.addinivalue_line("markers", "measured: runs with --benchmark alone, for it takes the full sizes")
    config.addinivalue_line("markers", "checked: runs without --benchmark alone, for it measures nothing")
    if not config.getoption("--benchmark"):
        config.option.benchmark_disable = True  # pytest-benchmark's own fixture then runs its function once


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the other kind of run: they are not missing, so they are not skipped."""
    other = "checked" if config.getoption("--benchmark") else "measured"
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(other)])
    items[:] = [item for item in items if not item.get_closest_marker(other)]


@pytest.fixture(scope="session")
def timed(pytestconfig: pytest.Config) -> bool:
    """Whether this run measures, or only checks."""
    return bool(pytestconfig.getoption("--benchmark"))


@pytest.fixture(scope="session")
def backend(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--backend"))


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Rows:
    """The rows of this run by table; written to the results file at the end of a measuring run."""
    return pytestconfig.stash[ROWS]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not (config.getoption("--benchmark") and rows):
        return
    machine_info = config.hook.pytest_benchmark_generate_machine_info(config=config)
    commit_info = config.hook.pytest_benchmark_generate_commit_info(config=config)
    results, path = record.write(machine_info, commit_info, rows)
    terminalreporter.section("gloria_ops")
    terminalreporter.write_line(report.render(results))
    terminalreporter.write_line(f"\nwritten to {path}")
    for table, draw in (("roofline", chart.draw), ("step", step_chart.draw)):
        if table in results:
            picture = path.with_name(f"{path.stem}-{table}.png")
            draw(results, picture)
            terminalreporter.write_line(f"drawn in {picture}")
