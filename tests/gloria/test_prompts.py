"""Prompts: every way to them, the same seed the same ones, and every mistake in a file named."""

import pytest
import yaml

from gloria.data import Row
from gloria.prompts import COMPETITION, generated_prompts, named_prompts, read_prompts, sampled_prompts
from gloria.prompts.prompts import VOCABULARY


def test_names_are_prompts():
    assert named_prompts(["Edema", "No Finding"]) == {"Edema": ["Edema"], "No Finding": ["No Finding"]}


def test_the_vocabulary_has_the_five_classes_and_pneumonia():
    everything = read_prompts(VOCABULARY, count=10**6)
    assert set(everything) == {*COMPETITION, "Pneumonia", "No Finding"}
    for name in (*COMPETITION, "Pneumonia"):
        parts = yaml.safe_load(VOCABULARY.read_text())[name]
        assert list(parts) == ["severity", "subtype", "location"]
        assert len(everything[name]) == len(set(everything[name])) >= 100
    for texts in everything.values():
        assert all(text == " ".join(text.split()) for text in texts)


def test_generated_prompts_are_drawn_from_the_vocabulary():
    everything = read_prompts(VOCABULARY, count=10**6)
    drawn = generated_prompts(count=4, seed=3)
    assert list(drawn) == list(COMPETITION)
    for name, texts in drawn.items():
        assert len(set(texts)) == 4
        assert set(texts) < set(everything[name])
    assert generated_prompts(count=4, seed=3) == drawn
    assert generated_prompts(count=4, seed=4) != drawn
    # Neither the other classes nor their order decide what is drawn for one, and its spelling is the caller's.
    assert generated_prompts(["edema"], count=4, seed=3) == {"edema": drawn["Edema"]}
    with pytest.raises(ValueError, match="no class 'Fracture', only 'atelectasis'"):
        generated_prompts(["Fracture"])
    with pytest.raises(ValueError, match="count is 0"):
        generated_prompts(count=0)


def test_reports_are_drawn_for_each_label():
    rows = [Row(line, None, f"Report {line}.", label="ab"[line % 2]) for line in range(10)]
    rows += [Row(11, None, "Unlabeled."), Row(12, None, "", label="c"), Row(13, None, "Report 0.", label="a")]
    drawn = sampled_prompts(rows, count=2)
    assert {name: len(set(texts)) for name, texts in drawn.items()} == {"a": 2, "b": 2}
    for name, texts in drawn.items():
        assert set(texts) <= {row.report for row in rows if row.label == name}
    assert sampled_prompts(rows, count=2) == drawn
    assert sorted(sampled_prompts(rows, count=99)["a"]) == [f"Report {line}." for line in (0, 2, 4, 6, 8)]
    with pytest.raises(ValueError, match="no row has a label and a report"):
        sampled_prompts(rows[10:12])


def test_a_file_of_lists_and_vocabularies(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text('Normal: [clear lungs, a  b]\nNodule:\n  size: ["", small]\n  where: [nodule, left nodule]')
    prompts = read_prompts(path, count=99)
    assert prompts["Normal"] == ["clear lungs", "a b"]
    assert sorted(prompts["Nodule"]) == ["left nodule", "nodule", "small left nodule", "small nodule"]
    assert len(read_prompts(path, count=1)["Nodule"]) == 1
    assert read_prompts(path, count=1)["Normal"] == prompts["Normal"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("a: [x]\na: [y]", "'a' appears twice"),
        ("[a, b]", r"holds \['a', 'b'\]; expected a prompt list or a vocabulary"),
        ("", "holds None"),
        ("No: [x]", "has a class False; expected text: put it in quotes"),
        ("a: x", "a is 'x'; expected a list of texts"),
        ("a: []", r"a is \[\]"),
        ("a: [1]", r"a is \[1\]; expected a list of texts \(in quotes where they look like numbers\)"),
        ('a: [""]', "a: a prompt is empty"),
        ("a:\n  part: x", "a, part is 'x'; expected a list"),
        ('a:\n  one: ["", x]\n  two: ["", y]', "every part may be left out"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_prompts(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml does not exist"):
        read_prompts(tmp_path / "none.yaml")


def test_a_vocabulary_that_makes_too_many_phrases_is_refused_with_their_number(tmp_path):
    path = tmp_path / "prompts.yaml"
    parts = "".join(f"  p{part}: [{', '.join(f'w{word}' for word in range(10))}]\n" for part in range(9))
    path.write_text(f"a:\n{parts}")
    with pytest.raises(ValueError, match=r"a: the parts make 1,000,000,000 phrases; expected 100,000 at most"):
        read_prompts(path)
    path.write_text("a:\n" + "".join(parts.splitlines(True)[:5]))
    assert len(read_prompts(path, count=10**6)["a"]) == 10**5


@pytest.mark.parametrize(
    "text",
    [
        "a: 2020-13-45",
        "a: !!timestamp x",
        "a: !!int x",
        "a: !!bool x",
        "a: !!binary '=='",
        "a: !!python/object:os.system {}",
        "? [a]\n: [x]",
        "? {a: 1}\n: [x]",
        "a: " + "[" * 3000 + "]" * 3000,
        "&a [*a]",
        "a: \x1b",
        "a: *b",
    ],
)
def test_odd_yaml_ends_in_a_message(tmp_path, text):
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"prompts\.yaml") as raised:
        read_prompts(path)
    assert "\n" not in str(raised.value)


def test_a_file_whose_aliases_multiply_is_refused_in_a_line(tmp_path):
    lines = ["a0: &a0 [lung]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = tmp_path / "prompts.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"a1 is \[\['lung'\].*; expected a list of texts") as raised:
        read_prompts(path)
    assert len(str(raised.value)) < 2000
