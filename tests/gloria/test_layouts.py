"""Public data sets: each layout becomes rows, and what is left out is named with the reason."""

import csv

import pytest
from public_texts import CHEXPERT_PLUS, MIMIC_REPORT

from gloria.data import find_problems, split_rows
from gloria.data.layouts import five_by, read_chexpert, read_mimic, read_openi, read_rsna
from gloria.data.layouts.chexpert import FIVE
from gloria.data.layouts.imported import CLASSES, class_labels

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


def test_five_by_takes_images_that_show_one_thing_and_no_patient_of_theirs_stays(chexpert_tree):
    rows = read_chexpert(chexpert_tree, all_views=True).rows
    chosen, rest = five_by(rows, of_each=2, seed=1)
    assert [row.label for row in chosen] == [name for name in FIVE for _ in range(2)]
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


@pytest.mark.parametrize("line", ["a,,,,,1", "a,1,2,3,,1", "a,1,2,3,0,1", "a,x,2,3,4,1", "a,1,2,3,4,maybe"])
def test_rsna_boxes_that_are_none(rsna_tree, line):
    with (rsna_tree / "stage_2_train_labels.csv").open("a", newline="") as file:
        csv.writer(file).writerow(line.split(","))
    with pytest.raises(
        ValueError, match=r"stage_2_train_labels\.csv, line 5: Target is .* expected 0 without a box, or 1"
    ):
        read_rsna(rsna_tree)
