"""The model of many GPUs: the documentation quotes what the script prints, and a row agrees with a count by hand."""

from pathlib import Path

import pytest

from bench import communication
from bench.cases import CASES
from bench.communication import SCHEMES, Assumptions, compute_seconds, hidden_up_to

DOCUMENT = Path(__file__).parents[2] / "docs" / "distributed.md"


def test_the_documentation_quotes_the_script(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["communication"])
    communication.main()
    assert capsys.readouterr().out in DOCUMENT.read_text()


def test_two_nodes_by_hand():
    case, assumed = CASES[0], Assumptions(tflops=100.0, node_link=300.0, network=25.0)
    words, regions = 2233 * 768, 48 * 361 * 768
    affinities = 48 * 361 * 2233
    assert compute_seconds(case, 16, assumed) == pytest.approx(16 * affinities * (8 * 768 + 6 * 361) / 1e14)
    gathered, ring, images = (SCHEMES[name](case, 16, assumed) for name in SCHEMES)
    assert gathered.received == 2 * 15 * words * 2
    assert gathered.exposed == pytest.approx(15 * words * 2 / 200e9 + 15 * words * 2 / 25e9)
    assert ring.received == 15 * words * (2 + 2) + 16 * words * 4
    assert ring.held == words * (3 * 2 + 2 * 4)
    assert ring.exposed == pytest.approx(words * 4 / 25e9)
    assert images.received == images.held == 2 * 15 * regions * 2
    assert images.exposed == pytest.approx(2 * 15 * regions * 2 / 200e9)


def test_a_ring_that_is_slower_than_the_kernels_shows():
    case = CASES[0]
    limit = hidden_up_to(case, Assumptions())
    words = 2233 * 768
    for factor in (0.99, 1.01):
        late = SCHEMES["ring of words"](case, 16, Assumptions(tflops=factor * limit)).exposed - words * 4 / 50e9
        assert (late > 1e-9) == (factor > 1)
    within_a_node = SCHEMES["words gathered"](case, 8, Assumptions())
    assert within_a_node.exposed == pytest.approx(2 * 7 * words * 2 / 450e9)
