"""Tiny encoders, a tokenizer trained on the spot, a sealed network, and public data sets in small."""

import gzip
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from public_texts import MIMIC_REPORT
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModel, BertConfig, BertTokenizerFast, ResNetConfig, ViTConfig

from gloria import GloriaConfig, GloriaImageProcessor, GloriaModel, GloriaProcessor
from gloria.data import Row, read_table, split_rows, write_phantoms
from gloria.retrieval import similarities
from gloria.small import small_model

REPORTS = [
    "Small left pleural effusion. Heart size is normal.",
    "No pneumothorax.",
    "Cardiomegaly with mild oedema, unchanged; right lower lobe consolidation.",
    "",
]


@pytest.fixture(scope="session")
def reports():
    return REPORTS


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to open a connection to another machine fails the test; processes of this one may talk."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a network connection was attempted")

    connect = socket.socket.connect

    def connect_here(own, address):
        return connect(own, address) if own.family == socket.AF_UNIX else refuse()

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tokenizer():
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(REPORTS, vocab_size=60, show_progress=False)  # so few that words fall into pieces
    return BertTokenizerFast(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=128)


@pytest.fixture(scope="session")
def processor(tokenizer):
    return GloriaProcessor(GloriaImageProcessor(crop_size=64), tokenizer)


@pytest.fixture
def image_configs():
    return {
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1], layer_type="basic"),
        "vit": ViTConfig(
            image_size=64,
            patch_size=16,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
    }


@pytest.fixture
def text_config(tokenizer):
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
    )


@pytest.fixture
def config(image_configs, text_config):
    return GloriaConfig(image_config=image_configs["resnet"], text_config=text_config, projection_dim=24)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return GloriaModel(config).eval()


@pytest.fixture(scope="session")
def pictures():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (50 + 10 * i, 70), dtype=np.uint8) for i in range(len(REPORTS))]


@pytest.fixture
def batch(processor, pictures):
    return processor(images=pictures, text=REPORTS)


def _gray(path, value, size=(24, 20)):
    """A picture that no other value gives, so that no two files are duplicates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture(scope="session")
def picture_file():
    return _gray


@pytest.fixture(scope="session")
def dicom_file():
    """Writes a DICOM radiograph of the given stored values."""

    def write(path, values, photometric="MONOCHROME2", bits=12, **elements):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Rows, data.Columns = values.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
        data.BitsAllocated, data.BitsStored, data.HighBit = 8 * values.itemsize, bits, bits - 1
        data.PixelRepresentation = int(values.dtype.kind == "i")
        for name, value in elements.items():
            setattr(data, name, value)
        data.PixelData = values.tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        return data

    return write


@pytest.fixture
def mimic_tree(tmp_path):
    """MIMIC-CXR-JPG 2.0.0 with the reports unpacked beside it: two patients, a lateral view, a study without report."""
    root = tmp_path / "mimic-cxr-jpg"
    images = [  # dicom_id, subject, study, view, split
        ("02aa804e-bde0afdd", "10000032", "50414267", "PA", "train"),
        ("174413ec-4ec4c1f7", "10000032", "50414267", "LATERAL", "train"),
        ("2a2277a9-b0ded155", "10000032", "53189527", "AP", "train"),
        ("e084de3b-be89b11e", "11000764", "53911762", "PA", "test"),
        ("68b5c4b1-227d0485", "11000764", "56699142", "AP", "test"),
    ]
    for number, (image, subject, study, _, _) in enumerate(images):
        _gray(root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{image}.jpg", number)
    texts = {
        "p10/p10000032/s50414267": MIMIC_REPORT,
        "p10/p10000032/s53189527": " CHEST RADIOGRAPH, ___\n\n The heart is enlarged.\n There is edema.\n",
        "p11/p11000764/s53911762": " FINAL REPORT\n CONCLUSION: Small effusion.\n",
    }
    for name, text in texts.items():
        (root / "files" / f"{name}.txt").write_text(text)
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write("dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns\n")
        file.writelines(
            f'{image},{subject},{study},"CHEST (PA AND LAT)",{view},24,20\n'
            for image, subject, study, view, _ in images
        )
    with gzip.open(root / "mimic-cxr-2.0.0-split.csv.gz", "wt") as file:
        file.write("dicom_id,study_id,subject_id,split\n")
        file.writelines(f"{image},{study},{subject},{split}\n" for image, subject, study, _, split in images)
    (root / "mimic-cxr-2.0.0-chexpert.csv").write_text(
        "subject_id,study_id,Atelectasis,Cardiomegaly,Edema,No Finding\n"
        "10000032,50414267,,,,1.0\n"
        "10000032,53189527,-1.0,1.0,0.0,\n"
    )
    return root


CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)


@pytest.fixture
def chexpert_tree(tmp_path):
    """CheXpert-v1.0-small: three patients of each class who show nothing else, others who show more, a lateral view."""
    root = tmp_path / "CheXpert-v1.0-small"
    classes = CHEXPERT_HEADER.strip().split(",")[5:]
    lines: dict[str, list[str]] = {"train": [], "valid": []}

    def add(part, patient, view, labels):
        path = f"{part}/patient{patient:05d}/study1/view1_{view.lower()}.jpg"
        _gray(root / path, patient + 10_000 * (view == "Lateral"))
        values = ",".join(labels.get(name, "") for name in classes)
        lines[part].append(
            f"CheXpert-v1.0-small/{path},Female,60,{view},{'AP' if view == 'Frontal' else ''},{values}\n"
        )

    five = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    for number, name in enumerate(five * 3):
        add("train", number + 1, "Frontal", {name: "1.0", "Pneumothorax": "0.0"})
    add("train", 1, "Lateral", {"Atelectasis": "1.0"})
    add("train", 20, "Frontal", {"Edema": "1.0", "Pleural Effusion": "1.0"})
    add("train", 21, "Frontal", {"Edema": "1.0", "Pneumonia": "-1.0"})
    add("train", 22, "Frontal", {"No Finding": "1.0"})
    add("valid", 30, "Frontal", {"Edema": "1.0"})
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text(CHEXPERT_HEADER + "".join(rows))
    return root


@pytest.fixture
def openi_tree(tmp_path):
    """Open-i with both archives unpacked: one report with two images, one without impression, broken and empty ones."""
    root = tmp_path / "openi"
    report = (
        '<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{0}"/><MedlineCitation><Article><Abstract>'
        '<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Cough</AbstractText>'
        '<AbstractText Label="FINDINGS">{1}</AbstractText><AbstractText Label="IMPRESSION">{2}</AbstractText>'
        "</Abstract></Article></MedlineCitation>{3}</eCitation>"
    )
    image = '<parentImage id="{}"><figureId>F1</figureId><caption>Xray Chest PA and Lateral</caption></parentImage>'
    (root / "ecgen-radiology").mkdir(parents=True)
    names = ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001", "CXR2_IM-0652-2001"]
    contents = {
        1: report.format(1, "Clear lungs.", "Normal chest.", image.format(names[0]) + image.format(names[1])),
        2: report.format(2, "Borderline\n cardiomegaly.", "", image.format(names[2]) + image.format(names[3])),
        3: report.format(3, "", "", image.format("CXR3_IM-1384-1001")),
        4: "<eCitation>",
        10: report.format(10, "Fine.", "Fine.", ""),
    }
    for number, text in contents.items():
        (root / "ecgen-radiology" / f"{number}.xml").write_text(text)
    for number, name in enumerate(names[:3]):
        _gray(root / "NLMCXR_png" / f"{name}.png", number)
    return root


@pytest.fixture
def rsna_tree(tmp_path, dicom_file):
    """RSNA pneumonia: one image without boxes, one with two."""
    root = tmp_path / "rsna"
    for number, name in enumerate(("0004cfab-14fd", "00436515-870c")):
        values = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        dicom_file(root / "stage_2_train_images" / f"{name}.dcm", values, bits=8)
    (root / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\n"
        "0004cfab-14fd,,,,,0\n"
        "00436515-870c,2.0,3.0,8.0,9.0,1\n"
        "00436515-870c,20.0,3.5,8.0,9.0,1\n"
    )
    return root


@pytest.fixture
def siim_tree(tmp_path, dicom_file):
    """SIIM-ACR pneumothorax: an image with two runs in two lines, one with one, one without; of 24 x 20 pixels."""
    root = tmp_path / "siim"
    for number, name in enumerate(("1.2.276.1", "1.2.276.2", "1.2.276.3")):
        values = np.random.default_rng(number).integers(0, 256, (24, 20), dtype=np.uint8)
        dicom_file(root / "dicom-images-train" / f"{number}.1" / f"{number}.2" / f"{name}.dcm", values, bits=8)
    (root / "train-rle.csv").write_text(
        "ImageId, EncodedPixels\n1.2.276.1, 2 3 21 4\n1.2.276.2, -1\n1.2.276.1,476 4\n1.2.276.3,0 480\n1.2.276.4,-1\n"
    )
    return root


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Eleven rows of two labels, no two images and no two reports equal."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    words = " ".join(REPORTS).lower().replace(".", "").split()
    made = []
    for line in range(2, 13):
        pixels = random.integers(0, 80, (40, 50), dtype=np.uint8) + 16 * (line - 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{line}.png")
        report = " ".join(random.choice(words, size=2 + line))
        made.append(Row(line, folder / f"{line}.png", report, label="ab"[line % 2]))
    return made


@pytest.fixture
def everything(model, processor, rows):
    """Similarities of all images of the rows with all their reports."""
    return similarities(model, processor, [row.image for row in rows], [row.report for row in rows])


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Twelve phantoms to train on, and four to hold out."""
    return split_rows(read_table(write_phantoms(tmp_path_factory.mktemp("phantoms"), 16, size=64)), held_out=0.25)


@pytest.fixture
def new_model(parts, no_network):
    """A small model and its processor, with the weights of a seed."""
    return lambda seed=0: small_model([row.report for row in parts[0]], seed)


@pytest.fixture
def encoders(tmp_path, image_configs, text_config, tokenizer, no_network):
    """Arguments of `gloria train` that start from two tiny encoders."""
    AutoModel.from_config(image_configs["resnet"]).save_pretrained(tmp_path / "image")
    AutoModel.from_config(text_config).save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    named = ["--image-encoder", tmp_path / "image", "--text-encoder", tmp_path / "text", "--image-size", 64]
    return [*named, "--epochs", 1, "--batch-size", 4, "--cpu"]
