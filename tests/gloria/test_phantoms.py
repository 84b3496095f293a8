"""Phantoms: the same for the same seed, with the finding where mask and report say it is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gloria.data import FINDINGS, draw_phantom, find_problems, read_table, write_five_by_200, write_phantoms
from gloria.data.layouts.chexpert import COMPETITION
from gloria.data.phantoms import KINDS, rows_of_finding
from gloria.data.phantoms.reports import ABSENT, NAMES, SENTENCES, Finding, write_report
from gloria.images import read_mask


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


@pytest.mark.parametrize(
    ("finding", "rows", "columns"),
    [
        ("cardiomegaly", slice(48, 120), slice(36, 104)),
        ("edema", slice(30, 100), slice(20, 108)),
        ("left atelectasis", slice(56, 112), slice(60, 118)),
        ("right atelectasis", slice(56, 112), slice(10, 68)),
    ],
)
def test_masks_lie_where_the_finding_belongs(finding, rows, columns):
    for seed in range(10):
        mask = draw_phantom(finding, seed, size=128).mask
        assert mask[rows, columns].sum() == mask.sum() > 0


def test_severity_shows():
    """The worse the finding, the larger its mask, on average."""
    for name in ("cardiomegaly", "edema", "left pleural effusion", "right pneumothorax", "left atelectasis"):
        areas = {0: [], 1: [], 2: []}
        for seed in range(30):
            phantom = draw_phantom(name, seed, size=64)
            areas[phantom.findings[0].severity].append(phantom.mask.sum())
        assert np.mean(areas[0]) < np.mean(areas[1]) < np.mean(areas[2]), name


def test_several_findings_are_all_drawn_and_told():
    names = ["cardiomegaly", "left pleural effusion"]
    phantom = draw_phantom(names, 4, size=128)
    assert phantom.finding == "cardiomegaly and left pleural effusion"
    assert [finding.kind for finding in phantom.findings] == ["cardiomegaly", "pleural effusion"]
    assert all(mask.any() for mask in phantom.masks)
    assert np.array_equal(phantom.mask, phantom.masks[0] | phantom.masks[1])
    words = set(phantom.report.lower().replace(".", "").replace(",", "").split())
    assert words & NAMES["cardiomegaly"]
    assert words & NAMES["pleural effusion"]


def test_reports_tell_every_finding_in_every_way_and_never_deny_it():
    for kind in SENTENCES:
        reports = [
            write_report([Finding(kind, "left", 1, "mid")], np.random.default_rng(seed)).lower() for seed in range(300)
        ]
        for sentence in SENTENCES[kind]:
            told = sentence.split("{")[0].strip().lower() or sentence.split("}")[-1].strip().lower()
            assert any(told in report for report in reports), sentence
        for denial in ABSENT.get(kind, ()):
            assert not any(denial.lower() in report for report in reports)
        assert all(
            any(denial.lower() in report for report in reports)
            for other in ABSENT
            if other != kind
            for denial in ABSENT[other]
        )


def test_every_sentence_names_its_finding():
    """The words by which a picture's finding is looked up in its report are in each way to tell it."""
    for kind, names in NAMES.items():
        for sentence in SENTENCES[kind]:
            assert names & set(sentence.lower().replace(",", "").split()), sentence


def test_typing_errors_and_long_sentences_occur_but_never_in_a_side():
    reports = [draw_phantom("right pleural effusion", seed, size=32).report for seed in range(200)]
    known = {word.strip(".,:").lower() for report in reports for word in report.split()}
    counted = Counter(word.strip(".,:").lower() for report in reports for word in report.split())
    assert "right" in known
    assert counted["right"] >= 200
    assert {word for word in known if counted[word] == 1}  # nobody makes the same mistake twice, as a rule
    assert any(len(sentence.split()) > 14 for report in reports for sentence in report.split(". "))


@pytest.mark.parametrize(
    ("finding", "size", "message"),
    [
        ("left foot", 64, "finding is 'left foot'; expected one of 'no finding'"),
        (["no finding", "edema"], 64, r"findings are \['no finding', 'edema'\]; expected different kinds, and"),
        (["left nodule", "right nodule"], 64, "expected different kinds"),
        ([], 64, r"findings are \[\]"),
        ("no finding", 8, "size is 8; expected at least 32 pixels"),
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


def test_every_finding_keeps_its_own_mask_and_label(tmp_path):
    rows = read_table(write_phantoms(tmp_path, 60, seed=4, size=48, second=0.5))
    assert find_problems(rows) == []
    masks = {kind: rows_of_finding(rows, kind) for kind in KINDS}
    for number, row in enumerate(rows):
        shown = {kind for kind in KINDS if kind in row.label}
        assert row.labels == {kind.title(): int(kind in shown) for kind in KINDS}
        of_row = {kind: read_mask(masks[kind][number].mask) for kind in KINDS}
        assert {kind for kind in KINDS if of_row[kind].any()} == shown
        assert all(masks[kind][number].labels == {kind.title(): int(kind in shown)} for kind in KINDS)
        assert np.array_equal(np.logical_or.reduce(list(of_row.values())), read_mask(row.mask))
    assert sum(" and " in row.label for row in rows) > 5
    with pytest.raises(ValueError, match="kind is 'left nodule'; expected one of 'cardiomegaly'"):
        rows_of_finding(rows, "left nodule")
    with pytest.raises(ValueError, match="line 2 has no mask; expected a table that `gloria phantoms` wrote"):
        rows_of_finding([replace(rows[0], mask=None)], "nodule")


def test_seeds_give_other_phantoms(tmp_path):
    tables = [read_table(write_phantoms(tmp_path / str(seed), 3, seed, size=32)) for seed in (0, 1)]
    assert not {row.image.read_bytes() for row in tables[0]} & {row.image.read_bytes() for row in tables[1]}
    assert not {row.patient for row in tables[0]} & {row.patient for row in tables[1]}


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_impossible_counts(tmp_path, count, seed):
    with pytest.raises(ValueError, match=f"count is {count} and seed {seed}; expected at least one phantom"):
        write_phantoms(tmp_path, count, seed)


def test_second_findings_are_as_many_as_asked_for(tmp_path):
    rows = read_table(write_phantoms(tmp_path, 130, size=32, second=0.5))
    several = [row for row in rows if " and " in row.label]
    assert 40 < len(several) < 80
    assert not any("no finding" in row.label for row in several)
    with pytest.raises(ValueError, match=r"second is 1\.5; expected a share of the phantoms, 0 to 1"):
        write_phantoms(tmp_path, 3, second=1.5)


def test_five_by_200_shows_one_class_each_and_is_the_same_for_a_seed(tmp_path):
    tables = [
        read_table(write_five_by_200(tmp_path / str(run), seed, 48, of_each=4)) for run, seed in enumerate((0, 0, 1))
    ]
    for rows in tables:
        assert find_problems(rows) == []
        assert Counter(row.label for row in rows) == dict.fromkeys(COMPETITION, 4)
        assert len({row.patient for row in rows}) == 20
        for row in rows:
            assert row.patient.endswith(row.label)
    first, again, other = ([row.image.read_bytes() for row in rows] for rows in tables)
    assert first == again
    assert not set(first) & set(other)
    sides = Counter(
        line.split(",")[-4].split()[0] for line in (tmp_path / "0" / "phantoms.csv").read_text().splitlines()[1:]
    )
    assert sides["left"] == sides["right"] == 6
    trained_on = read_table(write_phantoms(tmp_path / "training", 40, 0, size=48))
    assert not set(first) & {row.image.read_bytes() for row in trained_on}
    with pytest.raises(ValueError, match="of_each is 0 and seed 0; expected at least 1"):
        write_five_by_200(tmp_path, of_each=0)
