"""Names of classes, read by one reader: the same class and the same unknown in every format and from Python."""

import json
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from smidgen.data.datasets import open_dataset
from smidgen.data.names import class_name
from smidgen.errors import InputError, InputWarning
from smidgen.evidence.evidence import Evidence

IDS = [f"{i}.png" for i in range(8)]
MISSING_TEXTS = [
    "",
    " ",
    "-1",
    "-1.0",
    "-1.00",
    "nan",
    "NaN",
    "NAN",
    "NA",
    "N/A",
    "n/a",
    "null",
    "NULL",
    "None",
    "<NA>",
]
MISSING_VALUES = [
    None,
    -1,
    -1.0,
    float("nan"),
    np.float32("nan"),
    np.int8(-1),
    pd.NA,
    pd.NaT,
    np.ma.masked,
    Decimal("NaN"),
]


@pytest.mark.parametrize("value", [*MISSING_TEXTS, *MISSING_VALUES], ids=repr)
def test_a_class_that_is_not_known_in_every_spelling(value):
    assert class_name(value) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((one, "1") for one in (1, 1.0, "1", "1.0", " 1 ", "1.00", np.float32(1), np.int64(1), Decimal("1.0"), b"1")),
        *((cat, "cat") for cat in ("cat", " cat", "cat\t", "\u00a0cat ", np.str_("cat"), b"cat")),
        ("cafe\u0301", "caf\u00e9"), (1.5, "1.5"), (np.float32(0.1), "0.1"), ("007", "007"), ("1.50", "1.50"),
        (2**60 + 1, str(2**60 + 1)), (True, "True"), (np.True_, "True"), (torch.tensor(3), "3"), (np.array(3.0), "3"),
        ("none", "none"), ("Na", "Na"), ("-2", "-2"), ("a b", "a b"), (0, "0"), (-0.0, "0"), (False, "False"),
    ],
)  # fmt: skip
def test_a_class_has_one_name(value, name):
    assert class_name(value) == name


@pytest.mark.parametrize(
    "value", [["cat"], ("a", "b"), {"a": 1}, {"a"}, np.zeros(2), object(), float("inf"), b"\xff", 1j]
)
def test_what_is_no_class_is_refused(value):
    with pytest.raises(InputError, match=r"^Labels, entry 2: a class must be [^\n]+\.$"):
        Evidence.from_labels(["cat", value])


CLASSES = ["cat", " cat ", "1", "1.0", "-1.0", "NaN", "", "dog"]
MEANT = ["cat", "cat", "1", "1", None, None, None, "dog"]


def labels_csv(path, labels, column="image"):
    path.write_text("\n".join([f"{column},label", *map(",".join, zip(IDS, labels, strict=True))]))
    return path


def labels_jsonl(path, labels, column="image"):
    rows = [{column: image, "label": label} for image, label in zip(IDS, labels, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def labels_parquet(path, labels, column="image"):
    pd.DataFrame({column: IDS, "label": labels}).to_parquet(path)
    return path


@pytest.fixture
def images(tmp_path):
    from PIL import Image

    for i, name in enumerate(IDS):
        Image.new("L", (4, 4), i).save(tmp_path / name)
    return tmp_path


WRITERS = [("x.csv", labels_csv), ("x.jsonl", labels_jsonl), ("x.parquet", labels_parquet)]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_labels_and_manifests_read_the_same_classes(images, name, write):
    path = write(images / name, CLASSES)
    with pytest.warns(InputWarning, match=r"'NaN' is read as a class that is not known \(1 of 8\)"):
        evidence, dataset = Evidence.from_files(labels=path), open_dataset(path)
    assert evidence.labels == tuple((i, n) for i, n in zip(IDS, MEANT, strict=True) if n)
    assert dataset.class_names == ("1", "cat", "dog")
    assert [None if c < 0 else dataset.class_names[c] for c in dataset.classes] == MEANT


@pytest.mark.parametrize(("name", "write"), WRITERS[1:])
def test_numbers_with_gaps_are_classes_without_decimals(images, name, write):
    path = write(images / name, [1.0, 2.0, float("nan"), -1.0, 1.0, 2.0, 0.0, -1.0])
    assert open_dataset(path).classes.tolist() == [1, 2, -1, -1, 1, 2, 0, -1]
    assert {label for _, label in Evidence.from_files(labels=path).labels} == {"0", "1", "2"}


@pytest.mark.parametrize("label", [["cat"], {"name": "cat"}])
@pytest.mark.parametrize(("name", "write"), WRITERS[1:])
def test_a_list_is_no_class_in_any_file(images, name, write, label):
    path = write(images / name, [label] * 8)
    with pytest.raises(
        InputError, match=r"x\.\w+ line 1: a class must be a single text or number, got a (list|dict)\.$"
    ):
        Evidence.from_files(labels=path)
    with pytest.raises(InputError, match=r"row 1: a class must be a single text or number, got a (list|dict)\.$"):
        open_dataset(path)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 1, 2, -1]), np.array([1.0, 1.0, 2.0, np.nan]), np.array(["1", " 1", "2", ""]),
        np.array([b"1", b"1", b"2", b"-1"]), np.array([1, 1.0, "2", None], dtype=object), [1, "1.0", 2.0, ""],
        pd.Series([1, 1, 2, None]), pd.Series([1, 1, 2, None], dtype="Int64", index=list("abcd")),
        pd.Series(["1", "1", "2", None], dtype="category"), torch.tensor([1, 1, 2, -1]),
        np.ma.array([1, 1, 2, 9], mask=[0, 0, 0, 1]), (1, True and 1, 2, None),
        {0: 1, 1: 1.0, 2: "2", 3: None},
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', '')}",
)  # fmt: skip
def test_labels_of_python_in_every_type(labels):
    assert Evidence.from_labels(labels).labels == ((0, "1"), (1, "1"), (2, "2"))


def test_labels_of_a_mapping_name_their_images():
    assert Evidence.from_labels({"a.png": "cat", "b.png": None}).labels == (("a.png", "cat"),)
    with pytest.raises(InputError, match="leave `ids` out"):
        Evidence.from_labels({"a.png": "cat"}, ids=["a.png"])


@pytest.mark.parametrize("labels", ["cat", {"cat", "dog"}, np.zeros((2, 3)), pd.DataFrame({"a": [1], "b": [2]}), 3])
def test_labels_that_have_no_order_are_refused(labels):
    with pytest.raises(InputError, match="`labels` must be a list"):
        Evidence.from_labels(labels)


@pytest.mark.parametrize(
    ("labels", "names", "classes", "class_names"),
    [
        (np.array([1, 1.0, -1, np.nan]), None, [0, 0, -1, -1], ("1",)),
        (np.array([b"cat", b" cat", b"", b"dog"]), None, [0, 0, -1, 1], ("cat", "dog")),
        (np.array(["1", "1.0", "-1.0", "2"]), None, [0, 0, -1, 1], ("1", "2")),
        (np.array([1.0, 0.0, np.nan, 1.0]), np.array(["cat ", "dog"]), [1, 0, -1, 1], ("cat", "dog")),
        (np.array([0, 1, 2, -1]), np.array([b"cat", b"dog", b"cat "]), [0, 1, 0, -1], ("cat", "dog")),
        (np.array([True, False, True, True]), None, [1, 0, 1, 1], ("False", "True")),
    ],
)
def test_labels_of_npz(tmp_path, labels, names, classes, class_names):
    arrays = {"x": np.zeros((4, 8, 8), np.uint8), "y": labels} | ({} if names is None else {"class_names": names})
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = open_dataset(tmp_path / "a.npz")
    assert (dataset.classes.tolist(), dataset.class_names) == (classes, class_names)


def test_classes_in_bags_are_read_alike(tmp_path):
    (tmp_path / "bags.csv").write_text("bag,image\n1,0.png\n1.0,1.png\n")
    (tmp_path / "proportions.csv").write_text("bag,label,share\n1, cat,0.5\n1,2.0,0.5\n")
    (tmp_path / "presence.csv").write_text("bag,class,present\n1,cat ,1.0\n1,2,\n")
    found = Evidence.from_folder(tmp_path)
    assert {bag for bag, _ in found.bags} == {"1"}
    assert found.proportions == (("1", "cat", 0.5), ("1", "2", 0.5))
    assert found.presence == (("1", "cat", True),)
    stated = Evidence.from_bags(
        {1: [0, 1]}, proportions={1.0: {" cat": 0.5, 2.0: 0.5}}, presence={"1": {"cat": 1, 2: None}}
    )
    assert (stated.proportions, stated.presence) == (found.proportions, found.presence)


@pytest.mark.parametrize("label", [None, -1, "", float("nan"), "NA"])
def test_shares_of_no_class_are_refused(label):
    with pytest.raises(InputError, match="does not name a class"):
        Evidence.from_bags([[0, 1]], proportions=[{label: 1.0}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"counts": [2.5]}, r"Count of bag 'bag0' must be a whole number, got 2\.5"),
        ({"counts": [(1, 2, 3)]}, "must be a whole number or"),
        ({"counts": [{"a": 1}]}, "must be a whole number"),
        ({"presence": [{"cat": "maybe"}]}, "the value of 'cat' must be 1 or 0, got 'maybe'"),
        ({"proportions": [{"cat": None}]}, "the value of 'cat' must be a number, got None"),
        ({"proportions": np.ones((1, 2))}, r"must be \{class: value\}, got a ndarray"),
        ({"class_counts": [{"cat": 1.5}]}, "must be a whole number"),
    ],
)
def test_values_of_bags_are_checked_in_python_as_in_files(given, message):
    with pytest.raises(InputError, match=message):
        Evidence.from_bags([[0, 1]], **given)


def test_counts_that_are_not_known_are_left_out(tmp_path):
    (tmp_path / "bags.csv").write_text("bag,image\na,0.png\nb,1.png\nc,2.png\n")
    (tmp_path / "counts.csv").write_text("bag,ucc\na,1.0\nb,\nc,NaN\n")
    assert Evidence.from_folder(tmp_path).counts == (("a", 1, 1),)
    assert Evidence.from_bags([[0], [1]], counts=np.array([1.0, np.nan])).counts == (("bag0", 1, 1),)
    (tmp_path / "counts.csv").write_text("bag,ucc_min,ucc_max\na,,2\nb,,\n")
    assert Evidence.from_folder(tmp_path).counts == (("a", 1, 2),)


def test_pairs_that_are_not_known_are_left_out(tmp_path):
    (tmp_path / "pairs.csv").write_text("image_a,image_b,same\n0.png,1.png,1.0\n0.png,2.png,\n1.png,2.png,false\n")
    assert Evidence.from_files(pairs=tmp_path / "pairs.csv").pairs == (
        ("0.png", "1.png", True),
        ("1.png", "2.png", False),
    )


@pytest.mark.parametrize(
    "make",
    [
        *(lambda bags=bags: Evidence.from_bags(bags) for bags in ("abc", 3, [0, 1], ["a.png"])),
        *(lambda pairs=pairs: Evidence.from_pairs(same=pairs) for pairs in ([1, 2], [(0, 1, 2)], "ab")),
        lambda: Evidence.from_bags([[0]], counts=2),
        lambda: Evidence.from_bags({1: [0], "1.0": [1]}),
        lambda: Evidence(labels=(("a.png", 1.0),)).resolve(["a.png"]),
    ],
)
def test_evidence_of_another_form_is_refused_in_one_sentence(make):
    with pytest.raises(InputError, match=r"^[^\n]+\.$"):
        make()


@pytest.mark.parametrize("image", [1.5, None, True, ["a"]])
def test_what_names_no_image_is_refused(image):
    for make in (lambda: Evidence.from_bags([[image]]), lambda: Evidence.from_pairs(same=[(0, image)])):
        with pytest.raises(InputError, match="must be the name of an image or its row"):
            make()


def test_words_that_may_be_names_are_mentioned_and_empty_cells_are_not(tmp_path):
    path = labels_csv(tmp_path / "labels.csv", ["cat", "", "-1", "-1.0", "", "", "", ""])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Evidence.from_files(labels=path)
        Evidence.from_labels([1.0, np.nan, None])
    with pytest.warns(InputWarning, match="'NA' or 'None' is read as a class that is not known .2 of 3."):
        Evidence.from_labels(["NA", "None", "cat"])


def test_folders_name_classes_as_evidence_does(tmp_path):
    from PIL import Image

    for folder in ("1.0", "cafe\u0301", " x "):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4), len(folder)).save(tmp_path / folder / "a.png")
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == ("1", "caf\u00e9", "x")
    labels = Evidence.from_labels([1, "café", "x "], ids=["1.0/a.png", "café/a.png", " x /a.png"])
    assert labels.resolve(dataset.ids).class_names == dataset.class_names


def test_characters_without_width_and_a_typographic_minus_are_no_part_of_a_name():
    assert [class_name(text) for text in ("cat\u200b", "\ufeffcat", "\u00a0cat\u3000")] == ["cat"] * 3
    assert [class_name("\u22121"), class_name("\u22121.0"), class_name("\u2212")] == [None, None, "\u2212"]
