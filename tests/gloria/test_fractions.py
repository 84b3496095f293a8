"""Fractions of labels: nested, stratified, repeatable, of whole patients, with every class."""

from collections import Counter
from statistics import pstdev

import pytest

from gloria.data import Row, draw_fraction, draws_of
from gloria.data.split import patient_of

CLASSES = ("Edema", "Nodule", "Pneumonia")


def row(line, patient="", **labels):
    return Row(line, None, "", patient=patient, labels=labels)


def table(count=400, per_patient=1):
    """Edema in every second patient, a nodule in every fifth, pneumonia in one of 50."""
    return [
        row(
            line,
            f"p{line // per_patient}",
            **{name: int(line // per_patient % every == 0) for name, every in zip(CLASSES, (2, 5, 50), strict=True)},
        )
        for line in range(count)
    ]


@pytest.mark.parametrize("per_patient", [1, 3])
def test_fractions_are_nested_repeatable_and_of_whole_patients(per_patient):
    rows = table(402, per_patient)
    smaller: set[int] = set()
    for fraction in (0.02, 0.05, 0.1, 0.5, 1.0):
        drawn = draw_fraction(rows, fraction, seed=3)
        assert drawn == draw_fraction(rows[::-1], fraction, seed=3)[::-1]
        assert smaller <= {each.line for each in drawn}
        smaller = {each.line for each in drawn}
        wanted = fraction * len(rows)
        assert wanted <= len(drawn) < wanted + 1 + per_patient
        kept = {patient_of(each) for each in drawn}
        assert not kept & {patient_of(each) for each in rows if each.line not in smaller}
    assert draw_fraction(rows, 1.0) == rows
    assert draw_fraction(rows, 0.1, seed=1) != draw_fraction(rows, 0.1, seed=2)


def test_every_class_is_there_and_strata_keep_their_shares():
    rows = table()
    for seed in range(50):
        for fraction in (0.01, 0.05, 0.25):
            drawn = draw_fraction(rows, fraction, seed)
            for name in CLASSES:
                assert {each.labels[name] for each in drawn} == {0, 1}
        strata = Counter(tuple(each.labels.values()) for each in drawn)
        for stratum, count in Counter(tuple(each.labels.values()) for each in rows).items():
            assert abs(strata[stratum] - count / 4) <= 1 + len(CLASSES)  # those that go first, and one in rounding


def test_a_stratified_draw_varies_less_than_a_plain_one():
    """Of 16 in 400 with a class in every second, a plain draw varies by 2."""
    rows = table()
    counts = [sum(each.labels["Edema"] for each in draw_fraction(rows, 0.04, seed)) for seed in range(40)]
    assert pstdev(counts) < 1.2


def test_a_class_may_stand_in_the_column_label():
    rows = [Row(line, None, "", label="abc"[line % 3]) for line in range(30)]
    assert Counter(each.label for each in draw_fraction(rows, 0.1)) == {"a": 1, "b": 1, "c": 1}


def test_few_labels_are_drawn_ten_times():
    assert [draws_of(count) for count in (6, 99, 100, 5000)] == [10, 10, 1, 1]


@pytest.mark.parametrize(
    ("rows", "fraction", "message"),
    [
        (table(10), 0.0, "fraction is 0.0; expected a share"),
        (table(10), 1.5, "fraction is 1.5; expected a share"),
        ([row(2), row(3, Edema=1)], 1.0, "line 2 has no label; expected labels such as"),
        ([row(2, Edema=-1), row(3, Edema=1)], 1.0, "line 2 has no label"),
        ([row(2, Edema=1), row(3, Edema=1)], 1.0, "the labels of 2 rows say Edema alone; expected at least two"),
        (
            [Row(n, None, "", label=name) for n, name in enumerate("abcd")],
            0.5,
            "draw of 2 of 4 rows has none with c, none with d",
        ),
        ([row(2, Edema=1), row(3, Edema=0)], 0.5, "draw of 1 of 2 rows has none with.* Edema; take a larger share"),
    ],
)
def test_what_cannot_be_drawn_is_named(rows, fraction, message):
    with pytest.raises(ValueError, match=message):
        draw_fraction(rows, fraction)
