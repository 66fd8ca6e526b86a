"""Evidence: what files and constructors mean as index arrays, and every refusal, naming file and line."""

import numpy as np
import pytest
import torch

from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved

IDS = ["a.png", "b.png", "c.png", "d.png", "e.png", "sub/f.png"]


@pytest.fixture
def write(tmp_path):
    def write_file(name, text, *, encoding="utf-8"):
        path = tmp_path / f"{name}.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write_file


def test_nothing_is_known_at_first():
    resolved = Evidence().resolve(IDS)
    assert not Evidence()
    assert resolved.labels.tolist() == [-1] * 6
    assert resolved.offsets.tolist() == [0]
    assert resolved.pairs.shape == Resolved.nothing(6).pairs.shape == (0, 2)


def test_files_become_index_arrays(write):
    bags = write("bags", "bag,image\nx,c.png\ny,a.png\nx,a.png\ny,b.png\ny,c.png\n")
    evidence = Evidence.from_files(
        labels=write("labels", "image,label\na.png,dog\nc.png,cat\n"),
        bags=bags,
        counts=write("counts", "bag,ucc_min,ucc_max\ny,1,2\nx,2,\n"),
        proportions=write("proportions", "bag,label,share\nx,cat,0.5\nx,owl,0.5\n"),
        presence=write("presence", "bag,label,present\ny,dog,yes\ny,owl,0\n"),
        pairs=write("pairs", "image_a,image_b,same\nsub/f.png,a.png,1\na.png,e.png,different\n"),
    )
    resolved = evidence.resolve(IDS, n_clusters=3)
    assert resolved.class_names == ("cat", "dog", "owl")
    assert resolved.labels.tolist() == [1, -1, 0, -1, -1, -1]
    assert (resolved.bag_names, resolved.members.tolist(), resolved.offsets.tolist()) == (
        ("x", "y"), [2, 0, 0, 1, 2], [0, 2, 5])  # fmt: skip
    assert resolved.count_bags.tolist() == [0, 1]
    assert (resolved.counts_min.tolist(), resolved.counts_max.tolist()) == ([2, 1], [2, 2])
    assert resolved.proportions.tolist() == [[0.5, 0.0, 0.5]]
    assert resolved.presence.tolist() == [[-1, 1, 0]]
    assert (resolved.pairs.tolist(), resolved.same.tolist()) == ([[0, 5], [0, 4]], [True, False])


def test_types_are_those_of_the_contract(write):
    evidence = Evidence.from_bags([[0, 1]], counts=[1], proportions=[{"x": 1}], presence=[{"x": True}])
    resolved = (evidence | Evidence.from_pairs(same=[(0, 1)])).resolve(IDS)
    empty = Resolved.nothing(6)
    for name in ("labels", "members", "offsets", "count_bags", "counts_min", "counts_max", "proportion_bags",
                 "proportions", "presence_bags", "presence", "pairs", "same"):  # fmt: skip
        assert getattr(resolved, name).dtype == getattr(empty, name).dtype, name


def test_byte_order_mark_and_windows_line_ends_are_read(write):
    path = write("labels", "image,label\r\na.png,\u00e9l\u00e9phant\r\n\r\nb.png,-1\r\n", encoding="utf-8-sig")
    assert Evidence.from_files(labels=path).labels == (("a.png", "éléphant"),)


def test_classes_are_in_natural_order_or_the_given_one():
    evidence = Evidence.from_labels(["10", "2", "1"])
    assert evidence.resolve(IDS).class_names == ("1", "2", "10")
    assert evidence.resolve(IDS, ["10", "7", "2", "1"]).class_names == ("10", "2", "1")


def test_labels_of_python_are_named_by_their_text_and_unknown_ones_left_out():
    for labels in ([3, -1, 0], np.array([3.0, np.nan, 0.0]), ["3", "", "0"], [3, None, 0]):
        assert Evidence.from_labels(labels).labels == ((0, "3"), (2, "0"))


def test_class_counts_become_shares(write):
    bags = write("bags", "bag,image\nx,a.png\nx,b.png\nx,c.png\nx,d.png\n")
    counts = write("proportions", "bag,label,count\nx,cat,3\nx,dog,1\n")
    resolved = Evidence.from_files(bags=bags, proportions=counts).resolve(IDS)
    assert resolved.proportions.tolist() == [[0.75, 0.25]]


def test_a_range_is_cut_to_what_the_bag_and_the_clusters_allow():
    evidence = Evidence.from_bags([[0, 1], [0, 1, 2, 3]], counts=[(1, 9), (2, None)])
    assert evidence.resolve(IDS, n_clusters=3).counts_max.tolist() == [2, 3]


def test_written_evidence_reads_back_the_same(tmp_path):
    ids = ["=1+1.png", "./-dash.png", "a,b.png", 'quo"te.png', "new\nline.png", "@x.png"]
    evidence = Evidence.from_labels(["=cmd", "2", "2", "-1", "a,b", "x"]) | Evidence.from_bags(
        {"+b": [0, 1, 2], "c": [3, 4]},
        counts={"+b": (1, 2), "c": (2, None)},
        proportions={"c": {"x": 0.25, "2": 0.75}},
        presence={"c": {"x": True, "2": False}},
    )
    evidence = evidence | Evidence.from_pairs(same=[(0, 1)], different=[(4, 5)])
    evidence.to_files(tmp_path, ids=ids)
    before, after = evidence.resolve(ids), Evidence.from_folder(tmp_path).resolve(ids)
    assert before.class_names == after.class_names
    for name, value in vars(before).items():
        assert torch.equal(value, getattr(after, name)) if isinstance(value, torch.Tensor) else True, name
    assert "\n=" not in (tmp_path / "labels.csv").read_text()


def test_merging_keeps_where_each_statement_came_from(write):
    first = Evidence.from_files(labels=write("one", "image,label\na.png,x\n"))
    second = Evidence.from_files(labels=write("two", "image,label\n\nb.png,x\na.png,y\n"))
    with pytest.raises(
        InputError, match=r"two\.csv line 4: image 'a\.png' is labelled 'y', but .*one\.csv line 2 .*'x'"
    ):
        (first | second).resolve(IDS)


def test_the_same_bag_twice_is_one_bag_and_another_of_its_name_is_refused():
    one = Evidence.from_bags({"x": [0, 1]}, counts={"x": 1})
    both = one | Evidence.from_bags({"x": [1, 0], "y": [2]}, presence={"y": {"cat": True}})
    assert both.resolve(IDS).members.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="Bag 'x' has other images"):
        one | Evidence.from_bags({"x": [2, 3]})


def test_what_is_said_of_unreadable_images_is_dropped_and_counts_widen():
    evidence = Evidence.from_bags(
        {"x": ["a.png", "bad.png", "b.png"], "gone": ["bad.png"]},
        counts={"x": 3, "gone": 1},
        presence={"x": {"cat": True, "dog": False}},
    )
    evidence = evidence | Evidence.from_labels(["cat"], ids=["bad.png"]) | Evidence.from_pairs(same=[("bad.png", 0)])
    resolved = evidence.resolve(IDS, skipped=["bad.png"])
    assert (resolved.bag_names, resolved.members.tolist()) == (("x",), [0, 1])
    assert (resolved.counts_min.tolist(), resolved.counts_max.tolist()) == ([2], [2])
    assert resolved.presence.tolist() == [[-1, 0]]
    assert len(resolved.pairs) == 0
    assert resolved.labels.max() == -1


HEADS = {
    "labels": "image,label", "bags": "bag,image", "counts": "bag,ucc", "proportions": "bag,label,share",
    "presence": "bag,label,present", "pairs": "image_a,image_b,same",
}  # fmt: skip
BAGS = "bag,image\nx,a.png\nx,b.png\nx,c.png\ny,d.png\n"


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("labels", "a.png,cat\nz.png,cat", r"labels\.csv line 3: image 'z\.png' is not among the 6 training images"),
        ("labels", "F.PNG,cat", r"did you mean 'sub/f\.png'\?"),
        ("labels", "a.png,cat\n\na.png,dog", r"line 4: image 'a\.png' is labelled 'dog', but .*line 2 labels it 'cat'"),
        ("labels", "a.png", r"labels\.csv line 2: 1 cells, but 2 columns"),
        ("bags", "x,", r"bags\.csv line 2: image must name an image, got ''"),
        ("bags", ",a.png", r"bags\.csv line 2: bag must not be empty"),
        ("counts", "x,2\nw,1", r"counts\.csv line 3: bag 'w' has no images \(the bags known are x, y"),
        ("counts", "x,0", r"counts\.csv line 2: bag 'x' has count 0, but a bag of images holds at least 1"),
        ("counts", "y,2", r"bag 'y' has count 2, more than its 1 different image can"),
        ("counts", "x,3", r"bag 'x' has count 3, more than the 2 clusters asked for"),
        ("counts", "x,1\nx,2", r"counts\.csv line 3: bag 'x' has count 2, but .*counts\.csv line 2 gives 1"),
        ("counts", "x,two", r"counts\.csv line 2: ucc must be a whole number, got 'two'"),
        ("counts", "x,1.5", "whole number"),
        ("proportions", "x,cat,0.5\nx,dog,0.3", r"proportions\.csv line 2: the shares of bag 'x' sum to 0\.8, not"),
        ("proportions", "x,cat,60\nx,dog,40", "give fractions, not percent"),
        ("proportions", "x,cat,1.5\nx,dog,-0.5", r"proportions\.csv line 3: bag 'x' holds -0\.5 of 'dog'"),
        ("proportions", "x,cat,0.5\nx,cat,0.5", r"line 3: class 'cat' of bag 'x' was already given at .*line 2"),
        ("proportions", "x,cat,nan", "share must be a number"),
        ("proportions", "x,,1", "label must name a class"),
        ("presence", "x,cat,1\nx,cat,0", r"presence\.csv line 3: class 'cat' is absent in bag 'x', but .*line 2 says"),
        ("presence", "x,cat,maybe", "present must be 1 or 0, got 'maybe'"),
        ("pairs", "a.png,a.png,1", r"pairs\.csv line 2: image 'a\.png' is paired with itself"),
        ("pairs", "a.png,b.png,1\nb.png,a.png,0", r"pairs\.csv line 3: 'a\.png' and 'b\.png' .* same by .* line 2"),
        ("pairs", "a.png,b.png,1\na.png,d.png,0\nb.png,c.png,1\nc.png,a.png,0",
         r"pairs\.csv line 5: 'a\.png' and 'c\.png' .* line 2, .*pairs\.csv line 4 together"),
    ],
)  # fmt: skip
def test_refusals_name_file_and_line(write, kind, rows, message):
    files = {kind: write(kind, f"{HEADS[kind]}\n{rows}\n")}
    if kind not in ("labels", "pairs", "bags"):
        files["bags"] = write("bags", BAGS)
    with pytest.raises(InputError, match=message):
        Evidence.from_files(**files).resolve(IDS, n_clusters=2)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("labels", "", "is empty; wanted the columns image,label"),
        ("labels", "image,lable\n", r"line 1: Unknown column 'lable'\. Did you mean 'label'\?"),
        ("labels", "image\n", "line 1: the columns are image; wanted image,label"),
        ("counts", "bag,ucc,ucc_max\n", "wanted bag,ucc or bag,ucc_min,ucc_max"),
        ("labels", 'image,label\n"a.png,x\n', "line 2: not CSV"),
    ],
)
def test_files_of_another_shape_are_refused(write, kind, text, message):
    path = write(kind, text)
    with pytest.raises(InputError, match=message):
        Evidence.from_files(**{kind: path}, **({} if kind == "labels" else {"bags": write("bags", BAGS)}))


def test_ranges_that_end_before_they_begin_are_refused():
    with pytest.raises(
        InputError, match="Counts, entry 1: bag 'bag0' has count 3 to 2: the least is above the largest"
    ):
        Evidence.from_bags([[0, 1, 2]], counts=[(3, 2)]).resolve(IDS)


def test_missing_and_unreadable_files_are_refused(tmp_path, write):
    with pytest.raises(InputError, match="is missing"):
        Evidence.from_files(labels=tmp_path / "no.csv")
    with pytest.raises(InputError, match="not UTF-8"):
        Evidence.from_files(labels=write("labels", "image,label\nä.png,x\n", encoding="latin-1"))
    with pytest.raises(InputError, match="`bags` was not given"):
        Evidence.from_files(counts=write("counts", "bag,ucc\nx,1\n"))
    with pytest.raises(InputError, match="holds no evidence"):
        Evidence.from_folder(tmp_path / "nowhere")


def test_unknown_classes_and_too_many_are_refused():
    with pytest.raises(InputError, match=r"Labels, entry 2: Unknown class 'catt'\. Did you mean 'cat'"):
        Evidence.from_labels(["dog", "catt"]).resolve(IDS, ["cat", "dog"])
    with pytest.raises(InputError, match="names 3 classes"):
        Evidence.from_labels(["a", "b", "c"]).resolve(IDS, n_clusters=2)


def test_class_counts_must_sum_to_the_bag_size():
    with pytest.raises(InputError, match="sum to 3, but it has 2 images"):
        Evidence.from_bags([[0, 1]], class_counts=[{"cat": 3}]).resolve(IDS)


def test_contradictory_pairs_may_be_kept():
    evidence = Evidence.from_pairs(same=[(0, 1), (1, 2), (1, 0)], different=[(0, 2)])
    resolved = evidence.resolve(IDS, keep_contradictory_pairs=True)
    assert resolved.pairs.tolist() == [[0, 1], [1, 2], [0, 2]]  # the repeated pair once


def test_rows_outside_the_training_set_are_refused():
    with pytest.raises(InputError, match="Bags, entry 2: image 6 is not among the 6"):
        Evidence.from_bags([[0, 6]]).resolve(IDS)


def test_counts_with_a_decimal_comma_are_whole_and_thousands_are_refused(tmp_path):
    (tmp_path / "bags.csv").write_text("bag,image\nx,a\nx,b\n")
    (tmp_path / "counts.csv").write_text("bag;ucc\nx;2,0\n")
    assert Evidence.from_folder(tmp_path).counts == (("x", 2, 2),)
    (tmp_path / "counts.csv").write_text("bag;ucc\nx;2,000\n")
    with pytest.raises(InputError, match="ucc must be a whole number, got '2,000'"):
        Evidence.from_folder(tmp_path)
