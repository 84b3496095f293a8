"""Public data sets: each layout becomes rows, and what is left out is named with the reason."""

import csv
import gzip
import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from public_texts import CHEXPERT_PLUS, MIMIC_REPORT

from gloria.data import Row, find_problems, split_rows
from gloria.data.layouts import (
    decode_runs,
    encode_runs,
    five_by,
    read_chexpert,
    read_mimic,
    read_openi,
    read_rsna,
    read_siim,
    released_labels,
    released_split,
)
from gloria.data.layouts.chexpert import COMPETITION
from gloria.data.layouts.imported import CLASSES, class_labels
from gloria.images import read_mask

FINDINGS = "There is no focal consolidation, pleural effusion or pneumothorax. A 2.5 cm opacity is seen."
IMPRESSION = "1. No acute cardiopulmonary process. 2. Clear lungs."


def test_mimic_jpg(mimic_tree):
    imported = read_mimic(mimic_tree)
    assert [(row.line, row.patient, row.split, row.image.suffix) for row in imported.rows] == [
        (2, "p10000032", "train", ".jpg"),
        (4, "p10000032", "train", ".jpg"),
        (5, "p11000764", "test", ".jpg"),
    ]
    assert [row.report for row in imported.rows] == [
        f"{FINDINGS} {IMPRESSION}",
        "The heart is enlarged. There is edema.",  # no section: the last paragraph
        "Small effusion.",
    ]
    assert [row.labels for row in imported.rows] == [
        {"No Finding": 1},
        {"Atelectasis": -1, "Cardiomegaly": 1, "Edema": 0},
        {},
    ]
    assert imported.left_out == {
        "not a frontal view": ["174413ec-4ec4c1f7"],
        "no report": ["s56699142"],
    }
    assert imported.summary()[1] == "left out 1: not a frontal view (first: 174413ec-4ec4c1f7)"
    assert find_problems(imported.rows) == []
    assert [len(part) for part in split_rows(imported.rows)] == [2, 1]


def test_mimic_sections_and_views(mimic_tree):
    imported = read_mimic(mimic_tree, section="findings", all_views=True)
    assert [row.report for row in imported.rows] == [FINDINGS, FINDINGS, "The heart is enlarged. There is edema."]
    assert imported.left_out == {"no findings in the report": ["s53911762"], "no report": ["s56699142"]}


def test_mimic_dicom_with_reports_elsewhere(tmp_path, dicom_file, pictures):
    root, reports = tmp_path / "mimic-cxr", tmp_path / "reports"
    path = "files/p10/p10000032/s50414267/02aa804e.dcm"
    dicom_file(root / path, pictures[0], bits=8)
    (root / "cxr-record-list.csv").write_text(f"subject_id,study_id,dicom_id,path\n10000032,50414267,02aa804e,{path}\n")
    text = reports / "files" / "p10" / "p10000032" / "s50414267.txt"
    text.parent.mkdir(parents=True)
    text.write_text(MIMIC_REPORT)
    (row,) = read_mimic(root, reports, section="impression").rows
    assert (row.image, row.report, row.split) == (root / path, IMPRESSION, "")
    assert find_problems([row]) == []


def test_mimic_says_what_is_missing(tmp_path, mimic_tree):
    with pytest.raises(FileNotFoundError, match=r"holds no folder files; unpack mimic-cxr-reports\.zip"):
        read_mimic(mimic_tree, tmp_path / "nowhere")
    for table in mimic_tree.glob("*metadata*"):
        table.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no mimic-cxr-2\.0\.0-metadata\.csv \(nor .*\.gz\)"):
        read_mimic(mimic_tree)
    (mimic_tree / "mimic-cxr-2.0.0-metadata.csv").write_text("dicom_id,subject_id\na,1\n")
    with pytest.raises(ValueError, match="expected one named 'study_id'"):
        read_mimic(mimic_tree)


def test_chexpert_has_labels_and_no_reports(chexpert_tree):
    imported = read_chexpert(chexpert_tree)
    assert len(imported.rows) == 19
    first, last = imported.rows[0], imported.rows[-1]
    assert (first.line, first.patient, first.split, first.report) == (2, "patient00001", "train", "")
    assert first.labels == {"Atelectasis": 1, "Pneumothorax": 0}
    assert (last.patient, last.split) == ("patient00030", "validation")
    assert imported.left_out == {
        "not a frontal view": ["CheXpert-v1.0-small/train/patient00001/study1/view1_lateral.jpg"]
    }
    assert find_problems(imported.rows, need_reports=False) == []
    assert {problem.what for problem in find_problems(imported.rows)} == {"the report is empty"}
    assert len(read_chexpert(chexpert_tree, all_views=True).rows) == 20


def test_chexpert_with_the_reports_of_plus(chexpert_tree):
    (chexpert_tree / "df_chexpert_plus_240401.csv").write_text(CHEXPERT_PLUS)
    reports = {row.patient: row.report for row in read_chexpert(chexpert_tree).rows}
    assert reports["patient00001"] == "Low volumes. Atelectasis."
    assert reports["patient00030"] == ""
    assert read_chexpert(chexpert_tree, section="impression").rows[0].report == "Atelectasis."
    assert read_chexpert(chexpert_tree, section="whole").rows[-1].report == "Edema."


def test_chexpert_plus_by_itself(tmp_path, picture_file):
    (tmp_path / "df_chexpert_plus_240401.csv").write_text(CHEXPERT_PLUS)
    kept = tmp_path / "PNG" / "PNG" / "train" / "patient00001" / "study1" / "view1_frontal.png"
    picture_file(kept, 1)
    imported = read_chexpert(tmp_path)
    (one,) = imported.rows
    assert (one.line, one.image, one.split, one.patient) == (2, kept, "train", "patient00001")
    assert imported.left_out["the image is not there"] == ["valid/patient00030/study1/view1_frontal.jpg"]
    picture_file(tmp_path / "valid" / "patient00030" / "study1" / "view1_frontal.png", 2)
    _, other = read_chexpert(tmp_path).rows
    assert (other.split, other.report) == ("validation", "")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "./CheXpert-v1.0-small/",
        "chexpert/",
        "data/CheXpert-v1.0/",
        "patients/patient_data_v/",
        "ROOT/",
        "/gone/CheXpert-v1.0-small/",
        "D:\\CheXpert-v1.0-small\\",
    ],
)
def test_chexpert_patients_are_found_behind_any_prefix(chexpert_tree, prefix):
    shipped = read_chexpert(chexpert_tree).rows
    assert len({row.patient for row in shipped}) == 19

    def prefixed(path):
        whole = prefix.replace("ROOT", str(chexpert_tree)) + path[1]
        return whole.replace("/", "\\") if "\\" in prefix else whole

    for table in chexpert_tree.glob("*.csv"):
        table.write_text(re.sub(r"CheXpert-v1\.0-small/([^,]*)", prefixed, table.read_text()))
    assert read_chexpert(chexpert_tree).rows == shipped


def test_chexpert_images_at_the_path_of_the_table_go_first(chexpert_tree, tmp_path, picture_file):
    elsewhere = tmp_path / "resized" / "train" / "patient00001" / "study1" / "view1_frontal.jpg"
    picture_file(elsewhere, 1)
    table = chexpert_tree / "train.csv"
    inside = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    table.write_text(table.read_text().replace(inside, str(elsewhere)))
    first, second, *_ = read_chexpert(chexpert_tree).rows
    assert (first.image, first.patient) == (elsewhere, "patient00001")
    assert second.image == chexpert_tree / "train" / "patient00002" / "study1" / "view1_frontal.jpg"


@pytest.mark.parametrize("path", ["patient00001_study1_view1.jpg", "train/view1.jpg", "patients/a.jpg", "a/\x1b"])
def test_chexpert_paths_without_a_patient_are_named(chexpert_tree, path):
    table = chexpert_tree / "train.csv"
    table.write_text(table.read_text().replace("CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg", path))
    message = rf"train\.csv, line 4: the path is {re.escape(repr(path))}; expected one with the folder of a patient"
    with pytest.raises(ValueError, match=message):
        read_chexpert(chexpert_tree)


def test_chexpert_in_the_folders_of_its_batches(chexpert_tree, tmp_path):
    shipped = [(row.patient, row.split, row.image.read_bytes()) for row in read_chexpert(chexpert_tree).rows]
    full = tmp_path / "CheXpert-v1.0"
    batches = ("1 (validate & csv)", "2 (train 1)", "3 (train 2)")
    tables, one, two = (full / f"CheXpert-v1.0 batch {name}" for name in batches)
    tables.mkdir(parents=True)
    for name in ("train.csv", "valid.csv", "valid"):
        (chexpert_tree / name).rename(tables / name)
    for number, patient in enumerate(sorted((chexpert_tree / "train").iterdir())):
        target = (one, two / "train")[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        patient.rename(target / patient.name)
    for root in (full, tables):
        rows = read_chexpert(root).rows
        assert [(row.patient, row.split, row.image.read_bytes()) for row in rows] == shipped


def test_every_layout_counts_images_that_are_not_there(mimic_tree, chexpert_tree, openi_tree, rsna_tree, siim_tree):
    for root, read in (
        (mimic_tree, read_mimic), (chexpert_tree, read_chexpert), (openi_tree, read_openi), (rsna_tree, read_rsna),
        (siim_tree, read_siim),
    ):  # fmt: skip
        whole = read(root)
        gone = whole.rows[0].image
        gone.unlink()
        imported = read(root)
        assert imported.rows == whole.rows[1:]
        missing = imported.left_out["the image is not there"]
        assert len(missing) == len(whole.left_out.get("the image is not there", [])) + 1
        assert any(gone.stem in name for name in missing)
        assert f"left out {len(missing)}: the image is not there (first: {missing[0]})" in imported.summary()


def test_mimic_says_which_reports_lost_a_section(mimic_tree):
    folder = mimic_tree / "files" / "p10" / "p10000032"
    (folder / "s50414267.txt").write_text("WET READ: Edema.\n FINAL REPORT\n FINDINGS: Clear.\n ADDENDUM: Nodule.\n")
    (folder / "s53189527.txt").write_text("FINDINGS: Early.\n IMPRESSION: Clear.\n ADDENDUM: None.\n FINDINGS: Late.\n")
    imported = read_mimic(mimic_tree)
    assert imported.lost == {"s50414267": ["wet read", "addendum"], "s53189527": ["findings", "addendum"]}
    assert imported.summary()[-1] == (
        "2 reports lost a section that had text (first: s50414267); most often: addendum 2, wet read 1, findings 1"
    )
    assert read_mimic(mimic_tree, section="whole").lost == {}


def test_mimic_leaves_out_reports_that_are_no_text(mimic_tree):
    (mimic_tree / "files" / "p11" / "p11000764" / "s53911762.txt").write_bytes(b"IMPRESSION: \xff")
    imported = read_mimic(mimic_tree)
    assert [row.patient for row in imported.rows] == ["p10000032", "p10000032"]
    assert imported.left_out["the report cannot be read"] == ["s53911762"]


def test_mimic_ids_that_passed_through_a_float(mimic_tree):
    shipped = read_mimic(mimic_tree).rows
    for path in mimic_tree.glob("*.csv*"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt") as file:
            text = file.read()
        with opened(path, "wt") as file:
            file.write(re.sub(r"\b([15]\d{7})\b", r"\1.0", text) + ("a,nan,,\n" if "split" in path.name else ""))
    imported = read_mimic(mimic_tree)
    assert imported.rows == shipped
    with gzip.open(mimic_tree / "mimic-cxr-2.0.0-metadata.csv.gz", "at") as file:
        file.write("an-image,nan,1,x,PA,24,20\n")
    assert read_mimic(mimic_tree).left_out["no dicom_id, subject_id or study_id"] == ["line 7"]


def test_five_by_takes_images_that_show_one_thing_and_no_patient_of_theirs_stays(chexpert_tree):
    rows = read_chexpert(chexpert_tree, all_views=True).rows
    chosen, rest = five_by(rows, of_each=2, seed=1)
    assert [row.label for row in chosen] == [name for name in COMPETITION for _ in range(2)]
    assert {row.split for row in chosen} == {"test"}
    for row in chosen:
        assert [name for name in CLASSES if row.labels.get(name)] == [row.label]
    assert not {row.patient for row in chosen} & {row.patient for row in rest}
    assert len({row.image for row in chosen}) == 10
    assert five_by(rows, 2, 1) == (chosen, rest)
    assert five_by(rows, 2, 2) != (chosen, rest)
    with pytest.raises(ValueError, match=r"4 images of the training part show Atelectasis alone, .* ask for 1 to 4"):
        five_by(rows, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",1.0,", ",yes,", 1), r"train\.csv, line 2: Atelectasis is 'yes'; expected 1\.0"),
        (lambda text: text.replace("Frontal/Lateral", "View", 1), "expected one named 'Frontal/Lateral'"),
        (lambda text: text + "cut,off\n", r"line 21: 2 fields where the header has 19; .*; download the file again"),
    ],
)
def test_broken_tables_are_named(chexpert_tree, change, message):
    table = chexpert_tree / "train.csv"
    table.write_text(change(table.read_text()))
    with pytest.raises(ValueError, match=message):
        read_chexpert(chexpert_tree)


def test_a_folder_without_chexpert(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none of train\.csv, .* expected CheXpert's folder"):
        read_chexpert(tmp_path)


def test_labels_keep_what_is_uncertain():
    assert class_labels({"Edema": "-1.0", "Fracture": "", "Sex": "F", "Pneumonia": "0"}) == {
        "Edema": -1,
        "Pneumonia": 0,
    }


def test_openi(openi_tree):
    imported = read_openi(openi_tree)
    assert [(row.line, row.patient, row.image.name, row.report) for row in imported.rows] == [
        (1, "CXR1", "CXR1_1_IM-0001-3001.png", "Clear lungs. Normal chest."),
        (1, "CXR1", "CXR1_1_IM-0001-4001.png", "Clear lungs. Normal chest."),
        (2, "CXR2", "CXR2_IM-0652-1001.png", "Borderline cardiomegaly."),
    ]
    reasons = dict(imported.left_out)
    assert reasons.pop("the image is not there") == ["CXR2_IM-0652-2001"]
    assert reasons.pop("no both in the report") == ["3.xml"]
    assert reasons.pop("no image in the report") == ["10.xml"]
    ((reason, names),) = reasons.items()
    assert reason.startswith("not valid XML")
    assert names == ["4.xml"]


def test_openi_sections_and_dicom_names(openi_tree, dicom_file, pictures):
    for path in openi_tree.rglob("*.png"):
        path.unlink()
    dicom_file(openi_tree / "NLMCXR_dcm" / "1" / "1_IM-0001-3001.dcm", pictures[0], bits=8)
    (row,) = read_openi(openi_tree, section="impression").rows
    assert (row.image.name, row.report) == ("1_IM-0001-3001.dcm", "Normal chest.")
    assert read_openi(openi_tree, section="whole").rows[0].report == "None. Cough Clear lungs. Normal chest."
    with pytest.raises(FileNotFoundError, match=r"holds no ecgen-radiology/\*\.xml; unpack NLMCXR_reports\.tgz"):
        read_openi(openi_tree / "NLMCXR_dcm")


def test_rsna(rsna_tree):
    healthy, ill = read_rsna(rsna_tree).rows
    assert (healthy.line, healthy.label, healthy.labels, healthy.boxes) == (2, "No Pneumonia", {"Pneumonia": 0}, ())
    assert (ill.line, ill.label, ill.labels) == (3, "Pneumonia", {"Pneumonia": 1})
    assert ill.boxes == ((2, 3, 8, 9), (20, 3.5, 8, 9))
    assert find_problems([healthy, ill], need_reports=False) == []


def test_rsna_has_the_released_split(rsna_tree):
    names = [f"{number:04d}" for number in range(40)]
    (rsna_tree / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\n" + "".join(f"{name},,,,,0\n" for name in reversed(names))
    )
    for name in names:
        (rsna_tree / "stage_2_train_images" / f"{name}.dcm").touch()
    rows = sorted(read_rsna(rsna_tree).rows, key=lambda row: row.patient)
    # The indices that scikit-learn 1.9.1 gives, as the released code calls it.
    assert [n for n in range(40) if rows[n].split == "test"] == sorted([20, 11, 29, 4, 22, 15])
    assert [n for n in range(40) if rows[n].split == "validation"] == sorted([28, 35, 10, 27, 25, 18])


def test_the_released_split_of_all_26684_images():
    """SHA-256 of the sorted indices that scikit-learn 1.9.1 gives, as the released code calls it."""
    split = released_split(f"{number:05d}" for number in reversed(range(26_684)))
    digests = {}
    for part in ("test", "validation"):
        indices = sorted(int(name) for name in split if split[name] == part)
        assert len(indices) == 4003
        digests[part] = hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()
    assert digests == {
        "test": "5b91c9bf20cc741315dd506870e1b55a9dc3e272829c54829a820cd3b6bab954",
        "validation": "edf05bbeba4642909e4d509483982e95b185f14f739bab92ef783a558c1f7c18",
    }


def test_siim(siim_tree, tmp_path):
    two, none, whole = read_siim(siim_tree).rows
    assert (two.line, two.patient, two.label, two.labels) == (2, "1.2.276.1", "Pneumothorax", {"Pneumothorax": 1})
    assert (none.line, none.label, none.labels) == (3, "No Pneumothorax", {"Pneumothorax": 0})
    expected = np.zeros((24, 20), dtype=bool)
    expected[2:5, 0] = expected[2:6, 1] = expected[20:, 19] = True  # column by column; 2 + 3 + 21 is pixel 2 of 1
    assert np.array_equal(read_mask(two.mask), expected)
    assert read_mask(whole.mask).all()
    assert none.mask.name == "none-24x20.png"
    assert not read_mask(none.mask).any()
    assert read_siim(siim_tree).left_out == {"the image is not there": ["1.2.276.4"]}
    assert find_problems([two, none, whole], need_reports=False) == []
    assert [row.mask.parent for row in read_siim(siim_tree, tmp_path / "m").rows] == [tmp_path / "m"] * 3
    assert {row.patient: row.split for row in (two, none, whole)}.items() <= released_split(
        f"1.2.276.{number}" for number in (1, 2, 3, 4)
    ).items()


def test_siim_of_the_second_stage(siim_tree):
    text = (siim_tree / "train-rle.csv").read_text().replace(" ", "", 1).replace(", ", ",")
    (siim_tree / "train-rle.csv").rename(siim_tree / "stage_2_train.csv").write_text(text)
    assert [row.label for row in read_siim(siim_tree).rows] == ["Pneumothorax", "No Pneumothorax", "Pneumothorax"]


def test_siim_runs_that_are_none(siim_tree):
    table = siim_tree / "train-rle.csv"
    good = table.read_text()
    for line, message in (
        ("1.2.276.3,1 2 3", "line 7: the runs are '1 2 3'; expected -1, or pairs of"),
        ("1.2.276.3,1 -2", "line 7: the runs are '1 -2'; expected"),
        ("1.2.276.3,", "line 7: the runs are ''; expected"),
        ("1.2.276.3,470 11", "line 7: the runs end at pixel 481 of an image of 24 x 20; expected the image that"),
        ("1.2.276.3,-1", "line 7: no runs, of an image that line 5 names too; expected -1 in the only line"),
    ):
        table.write_text(f"{good}{line}\n")
        with pytest.raises(ValueError, match=message):
            read_siim(siim_tree)
    table.write_text(good)
    (broken,) = siim_tree.rglob("1.2.276.2.dcm")
    broken.write_bytes(b"")
    assert [row.patient for row in read_siim(siim_tree).rows] == ["1.2.276.1", "1.2.276.3"]


@given(of_numpy.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_runs_there_and_back(mask):
    runs = encode_runs(mask)
    assert np.array_equal(decode_runs(runs, *mask.shape), mask)
    assert np.array_equal(decode_runs(f" {runs} ", *mask.shape), mask)


def test_uncertain_labels_as_released(chexpert_tree):
    rows = read_chexpert(chexpert_tree).rows
    rows = [Row(9, None, "", labels=dict.fromkeys(CLASSES, -1)), *rows]
    settled = released_labels(rows)
    assert settled[0].labels == {
        "Atelectasis": 1, "Cardiomegaly": 0, "Consolidation": 0, "Edema": 1, "Pleural Effusion": 1,
    }  # fmt: skip
    assert settled[1].labels == dict.fromkeys(COMPETITION, 0) | {"Atelectasis": 1}  # what is not mentioned is absent


@pytest.mark.parametrize(
    "line",
    [
        "a,,,,,1", "a,1,2,3,,1", "a,1,2,3,0,1", "a,x,2,3,4,1", "a,1,2,3,4,maybe", "a,1,2,inf,4,1", "a,-1,2,3,4,1",
        ",1,2,3,4,1",
    ],
)  # fmt: skip
def test_rsna_boxes_that_are_none(rsna_tree, line):
    with (rsna_tree / "stage_2_train_labels.csv").open("a", newline="") as file:
        csv.writer(file).writerow(line.split(","))
    with pytest.raises(
        ValueError, match=r"stage_2_train_labels\.csv, line 5: Target is .* expected 0 without a box, or 1"
    ):
        read_rsna(rsna_tree)
