"""Writes reports of chest phantoms, with synonyms, negations, remarks, long sentences and typing errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Templates for each finding: {size} is any word for its severity, {extent} the plainest of them; {side}; {zone} of the
# lung.
SENTENCES = {
    "no finding": (
        "The lungs are clear",
        "No acute cardiopulmonary abnormality",
        "Clear lungs without focal opacity",
        "Normal chest radiograph",
    ),
    "atelectasis": (
        "{size} {side} basilar atelectasis",
        "Bandlike opacities at the {side} lung base, likely {size} subsegmental atelectasis",
        "Linear atelectasis at the {side} base with volume loss",
        "Platelike collapse above an elevated {side} hemidiaphragm",
    ),
    "cardiomegaly": (
        "The heart is enlarged",
        "{size} cardiomegaly",
        "{size} enlargement of the cardiac silhouette",
        "Cardiac silhouette is enlarged to a {size} degree",
        "Increased cardiothoracic ratio, consistent with cardiomegaly",
    ),
    "consolidation": (
        "{side} {zone} zone consolidation",
        "There is {size} airspace consolidation in the {zone} {side} lung",
        "{size} patchy airspace opacity in the {side} {zone} zone, likely pneumonia",
        "Confluent infiltrate in the {side} {zone} lung",
    ),
    "edema": (
        "{size} pulmonary edema",
        "Bilateral perihilar haze with septal lines, {size} interstitial edema",
        "{size} vascular congestion and interstitial pulmonary edema",
        "Batwing opacities in keeping with fluid overload",
    ),
    "pleural effusion": (
        "{size} {side} pleural effusion",
        "Blunting of the {side} costophrenic angle by a {size} pleural effusion",
        "{size} layering pleural fluid on the {side}",
        "{side} hydrothorax, {size} in size",
    ),
    "pneumothorax": (
        "{size} {side} pneumothorax",
        "There is a {size} {side} apical pneumothorax",
        "Absent lung markings above the {side} apex, a {size} pneumothorax",
        "Collapsed {side} lung with {size} pleural air",
    ),
    "nodule": (
        "{extent} nodule in the {side} {zone} lung",
        "There is a {extent} rounded nodule in the {side} {zone} zone",
        "{side} {zone} zone pulmonary nodule",
        "{extent} coin lesion in the {zone} {side} lung",
    ),
}
# Words that name each finding in any of its sentences.
NAMES = {
    "atelectasis": {"atelectasis", "bandlike", "linear", "platelike", "collapse", "subsegmental"},
    "cardiomegaly": {"heart", "cardiomegaly", "cardiac", "silhouette", "cardiothoracic"},
    "consolidation": {"consolidation", "airspace", "infiltrate", "patchy", "confluent", "pneumonia"},
    "edema": {"edema", "perihilar", "septal", "congestion", "batwing", "interstitial"},
    "pleural effusion": {"effusion", "hydrothorax", "costophrenic", "layering"},
    "pneumothorax": {"pneumothorax", "apical", "apex", "air"},
    "nodule": {"nodule", "coin", "lesion"},
}
ABSENT = {
    "atelectasis": ("No atelectasis", "The lungs are well expanded"),
    "cardiomegaly": ("Heart size is normal", "The cardiac silhouette is not enlarged", "No cardiomegaly"),
    "consolidation": ("No consolidation", "There is no focal airspace disease", "No evidence of pneumonia"),
    "edema": ("No pulmonary edema", "There is no vascular congestion"),
    "pleural effusion": ("No pleural effusion", "The costophrenic angles are sharp", "No effusion is seen"),
    "pneumothorax": ("No pneumothorax", "There is no evidence of pneumothorax"),
}
REMARKS = (
    "The osseous structures are intact",
    "No prior examination is available for comparison",
    "Portable AP view of the chest",
    "Visualized upper abdomen is unremarkable",
    "Mediastinal contours are unchanged",
    "Clinical correlation is recommended",
)
LEADS = (
    "Compared with the prior examination of the same day, again noted: ",
    "On this single frontal view obtained with the patient upright, ",
    "In this patient with shortness of breath and chest pain, ",
    "As was discussed with the referring service by telephone, ",
)
SIZES = (("small", "mild", "minimal"), ("moderate", "moderate-sized"), ("large", "severe", "extensive"))
TYPING_ERRORS = 0.04  # share of the words of six letters or more that are mistyped
LONG_SENTENCES = 0.15  # share of the sentences that start with a lead


@dataclass(frozen=True)
class Finding:
    """Describes one finding of a phantom.

    Attributes:
        kind: a key of `SENTENCES`.
        side: "left", "right", or "" for findings that have no side.
        severity: 0, 1 or 2.
        zone: "upper", "mid" or "lower" zone of the lung.
    """

    kind: str
    side: str
    severity: int
    zone: str


def write_report(findings: Sequence[Finding], random: np.random.Generator) -> str:
    """Return a report on the findings, with one to three sentences on absent findings, and sometimes a remark.

    Sentences come in random order: the position does not tell which one matters.
    """
    sentences = [_sentence_on(finding, random) for finding in findings]
    present = {finding.kind for finding in findings}
    absent = [choices for kind, choices in ABSENT.items() if kind not in present]
    for index in random.choice(len(absent), size=random.integers(1, 4), replace=False):
        sentences.append(str(random.choice(absent[index])))
    if random.random() < 0.4:
        sentences.append(str(random.choice(REMARKS)))
    random.shuffle(sentences)
    return " ".join(_as_typed(sentence, random) for sentence in sentences)


def _sentence_on(finding: Finding, random: np.random.Generator) -> str:
    sizes = SIZES[finding.severity]
    sentence = str(random.choice(SENTENCES[finding.kind]))
    return sentence.format(size=random.choice(sizes), extent=sizes[0], side=finding.side, zone=finding.zone)


def _as_typed(sentence: str, random: np.random.Generator) -> str:
    if random.random() < LONG_SENTENCES:
        sentence = str(random.choice(LEADS)) + sentence[0].lower() + sentence[1:]
    words = [_misspell(word, random) if random.random() < TYPING_ERRORS else word for word in sentence.split(" ")]
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."


def _misspell(word: str, random: np.random.Generator) -> str:
    """Swap two letters of a word, or drop or double one; short words stay unchanged."""
    if len(word) < 6:
        return word
    at = int(random.integers(1, len(word) - 2))
    before, first, second, after = word[:at], word[at], word[at + 1], word[at + 2 :]
    return before + str(random.choice([second + first, second, first + first + second])) + after
