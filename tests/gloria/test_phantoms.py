"""Phantoms: the same for the same seed, with the finding where mask and report say it is."""

import numpy as np
import pytest
from PIL import Image

from gloria.data import FINDINGS, draw_phantom, find_problems, read_table, write_phantoms


@pytest.mark.parametrize("finding", FINDINGS)
def test_same_seed_same_phantom(finding):
    one, again, other = (draw_phantom(finding, seed, size=64) for seed in (1, 1, 2))
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.mask, again.mask)
    assert one.report == again.report
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("seed", range(5))
def test_findings_are_seen_on_their_side_and_told(finding, seed):
    phantom = draw_phantom(finding, seed, size=128)
    assert phantom.image.shape == phantom.mask.shape == (128, 128)
    assert (phantom.image.dtype, phantom.mask.dtype) == (np.uint8, bool)
    if finding == "no finding":
        assert not phantom.mask.any()
        return
    columns = np.flatnonzero(phantom.mask.any(0))
    assert phantom.mask.sum() >= 10
    side, *_ = finding.split()
    if side in ("left", "right"):
        assert side in phantom.report.lower()
        assert (columns > 60).all() if side == "left" else (columns < 68).all()  # the patient's left is on the right
    report = phantom.report.lower()
    assert phantom.report[0].isupper()
    assert "{" not in report


@pytest.mark.parametrize(("finding", "brighter"), [("left pneumothorax", False), ("right pleural effusion", True)])
def test_findings_change_the_density_under_the_mask(finding, brighter):
    for seed in range(5):
        phantom = draw_phantom(finding, seed, size=128)
        opposite = np.fliplr(phantom.image)  # the healthy lung
        difference = phantom.image[phantom.mask].mean() - opposite[phantom.mask].mean()
        assert difference > 10 if brighter else difference < -10


def test_reports_do_not_deny_their_finding():
    denials = {
        "effusion": "no pleural",
        "pneumothorax": "no pneumo",
        "consolidation": "no consol",
        "cardiomegaly": "size is",
    }
    for finding in FINDINGS:
        for seed in range(20):
            report = draw_phantom(finding, seed, size=32).report.lower()
            for name, denial in denials.items():
                assert not (finding.endswith(name) and denial in report), report


@pytest.mark.parametrize(
    ("finding", "size", "message"),
    [
        ("left foot", 64, "finding is 'left foot'; expected one of 'no finding'"),
        ("no finding", 8, "size is 8; expected 32"),
    ],
)
def test_impossible_phantoms(finding, size, message):
    with pytest.raises(ValueError, match=message):
        draw_phantom(finding, 0, size)


def test_written_phantoms_are_a_good_table(tmp_path):
    rows = read_table(write_phantoms(tmp_path / "new" / "folder", len(FINDINGS) + 2, seed=3, size=48))
    assert find_problems(rows) == []
    assert [row.label for row in rows] == [*FINDINGS, *FINDINGS[:2]]
    assert len({row.patient for row in rows}) == len(rows)
    for row in rows:
        assert (np.asarray(Image.open(row.mask)).any()) == (row.label != "no finding")


def test_seeds_give_other_phantoms(tmp_path):
    tables = [read_table(write_phantoms(tmp_path / str(seed), 3, seed, size=32)) for seed in (0, 1)]
    assert not {row.image.read_bytes() for row in tables[0]} & {row.image.read_bytes() for row in tables[1]}
    assert not {row.patient for row in tables[0]} & {row.patient for row in tables[1]}


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_impossible_counts(tmp_path, count, seed):
    with pytest.raises(ValueError, match=f"count is {count} and seed {seed}; expected one phantom at least"):
        write_phantoms(tmp_path, count, seed)
