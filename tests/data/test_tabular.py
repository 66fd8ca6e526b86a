"""Tables as people have them: separators, encodings, spare columns, names of images from other systems, and hints."""

import unicodedata

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from smidgen.data.datasets import open_dataset
from smidgen.errors import InputError, InputWarning
from smidgen.evidence.evidence import Evidence

IDS = ["a.png", "b.png", "sub/c.png"]
LABELS = (("a.png", "cat"), ("b.png", "dog"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(IDS):
        Image.new("L", (4, 4), i).save(folder / name)
    return folder


def written(folder, text, *, encoding="utf-8", name="table.csv"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def both(path):
    """The labels in a table, read as evidence and as a manifest."""
    evidence = Evidence.from_files(labels=path).resolve(IDS, data=path)
    dataset = open_dataset(path)
    as_evidence = [evidence.class_names[c] if c >= 0 else None for c in evidence.labels.tolist()]
    classes = {i: dataset.class_names[c] if c >= 0 else None for i, c in zip(dataset.ids, dataset.classes, strict=True)}
    assert as_evidence == [classes.get(name) for name in IDS]
    return as_evidence


QUIET = {
    "commas": "image,label\na.png,cat\nb.png,dog\n",
    "semicolons": "image;label\na.png;cat\nb.png;dog\n",
    "tabs": "image\tlabel\na.png\tcat\nb.png\tdog\n",
    "bars": "image|label\na.png|cat\nb.png|dog\n",
    "a line for Excel": "sep=;\nimage;label\na.png;cat\nb.png;dog\n",
    "spaces": "image , label\n a.png , cat \n b.png, dog\n",
    "quotes": '"image","label"\n"a.png","cat"\n"b.png","dog"\n',
    "quotes after spaces": 'image, label\n"a.png", "cat"\n "b.png" , "dog"\n',
    "spaces inside quotes": "image,label\n' a.png',cat\n\" b.png \",dog\n",
    "apostrophes": "'image','label'\n'a.png','cat'\n'b.png','dog'\n",
    "a comma at the end": "image,label,\na.png,cat,\nb.png,dog,\n",
    "commas at the ends of rows": "image,label\na.png,cat,,\nb.png,dog,\n",
    "blank lines": "\n\nimage,label\n\na.png,cat\n,\nb.png,dog\n\n",
    "old Mac": "image,label\ra.png,cat\rb.png,dog\r",
    "columns in another order": "label,image\ncat,a.png\ndog,b.png\n",
    "other names": "File_Name,CLASS\na.png,cat\nb.png,dog\n",
    "Windows": "image,label\n.\\a.png,cat\n.\\b.png,dog\n",
    "dots": "image,label\n./a.png,cat\nsub/../b.png,dog\n",
}


@pytest.mark.parametrize("kind", QUIET)
def test_tables_as_people_have_them(photos, kind, recwarn):
    assert both(written(photos, QUIET[kind])) == ["cat", "dog", None]
    assert not recwarn.list


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_of_spreadsheets(photos, encoding):
    path = written(photos, "image\tlabel\na.png\tк\u043eшка\nb.png\téléphant\n", encoding=encoding)
    assert both(path) == ["кошка", "éléphant", None]


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("image,label,notes\na.png,cat,blurry\nb.png,dog,\n", "ignored the column 'notes'"),
        (",image,label\n0,a.png,cat\n1,b.png,dog\n", "ignored the column without a name"),
        ("Unnamed: 0,image,label\n0,a.png,cat\n1,b.png,dog\n", "ignored the column 'unnamed: 0'"),
        ("image,label\n1,a.png,cat\n2,b.png,dog\n", "ignored the column without a name"),
        ("image,label,\na.png,cat,blurry\nb.png,dog,\n", "ignored the column without a name"),
        ("image,label,split,notes,source\na.png,cat,,x,y\nb.png,dog,,x,y\n", "'notes', 'source'"),
        ("image;label;notes\na.png;cat;blurry, dark\nb.png;dog;\n", "ignored the column 'notes'"),
        ("image,cluster,confidence,label\na.png,0,0.9,cat\nb.png,1,0.8,dog\n", "ignored the columns 'cluster', 'conf"),
        ("image,label,class\na.png,cat,x\nb.png,dog,y\n", "ignored the column 'class'"),
    ],
)
def test_columns_that_mean_nothing_are_ignored_and_it_is_said(photos, text, ignored):
    with pytest.warns(InputWarning, match=ignored) as said:
        assert both(written(photos, text)) == ["cat", "dog", None]
    assert all(str(w.message).startswith(str(photos / "table.csv")) for w in said.list)


@pytest.mark.parametrize("rows", ["a.png,cat,blurry\nb.png,dog\n", "a.png,cat\nb.png,dog,,x\n", "a.png,cats, dogs\n"])
def test_a_spare_cell_is_refused_with_its_line(photos, rows):
    path = written(photos, f"image,label\n{rows}")
    for read in (open_dataset, lambda path: Evidence.from_files(labels=path)):
        with pytest.raises(InputError, match=r"line [23]: [34] cells, but 2 columns; quote texts with commas\.$"):
            read(path)


FILES = {
    "labels": ("image,label,notes", "a.png,cat,x"),
    "bags": ("bag,image,notes", "1,a.png,x"),
    "counts": ("bag,ucc,notes", "1,1,x"),
    "proportions": ("bag,label,share,notes", "1,cat,1.0,x"),
    "presence": ("bag,label,present,notes", "1,cat,1,x"),
    "pairs": ("image_a,image_b,same,notes", "a.png,b.png,1,x"),
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_evidence_is_read_alike(photos, kind, delimiter):
    lines = [f"{i},{line}".replace(",", delimiter) for i, line in zip(("", 0), FILES[kind], strict=True)]
    files = {"bags": written(photos, "bag,image\n1,a.png\n", name="bags.csv")}
    files |= {kind: written(photos, "\r\n".join(lines), encoding="utf-16")}
    with pytest.warns(InputWarning, match="ignored the columns without a name, 'notes'"):
        evidence = Evidence.from_files(**files)
    assert evidence.sizes()[kind] == 1


def test_decimal_commas_between_semicolons(photos):
    bags = written(photos, "bag,image\n1,a.png\n1,b.png\n", name="bags.csv")
    shares = written(photos, "bag;label;share\n1;cat;0,25\n1;dog;0,75\n")
    assert Evidence.from_files(bags=bags, proportions=shares).proportions == (("1", "cat", 0.25), ("1", "dog", 0.75))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_another_unicode_form(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    folder, name = tmp_path / unicodedata.normalize(form, "Bücher"), unicodedata.normalize(form, "café.png")
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / name)
    Image.new("L", (4, 4), 9).save(folder / "x.png")
    spelt = unicodedata.normalize(other, "Bücher/café.png")
    path = written(tmp_path, f"image,label\n{spelt},{unicodedata.normalize(other, 'été')}\n")
    (image,) = open_dataset(path).ids
    assert (tmp_path / image).exists()
    ids = open_dataset(tmp_path).ids.tolist()
    labels = Evidence.from_files(labels=path).resolve(ids).labels.tolist()
    assert labels == [0 if i == image else -1 for i in ids]


@pytest.mark.parametrize("start", ["C:\\Users\\me\\photos\\", "D:/Photos/", "/home/me/photos/", "photos/"])
def test_paths_from_outside_the_folder_of_the_images(photos, start):
    path = written(photos, f"image,label\n{start}a.png,cat\n{start}{'sub/c.png'.replace('/', start[-1])},dog\n")
    with pytest.warns(InputWarning, match="read without '.*hotos/', which"):
        assert both(path) == ["cat", None, "dog"]


def test_paths_into_another_folder_are_no_images_of_this_one(photos):
    path = written(photos, "image,label\nC:\\val\\a.png,cat\n")
    with pytest.raises(InputError, match=r"line 2: image 'C:.*a\.png' is not among the 3 .*; did you mean 'a\.png'\?"):
        Evidence.from_files(labels=path).resolve(IDS, data=photos)
    with pytest.raises(InputError, match="names 1 images, and none is there"):
        open_dataset(path)


def test_an_exact_name_comes_before_one_that_is_spelt_alike():
    ids = ["a.png", " a.png", "'a.png'", "sub\\\\a.png", "sub/a.png"]
    names = [" a.png", "a.png", "'a.png'", "sub\\\\a.png", "sub/a.png", ".\\a.png"]
    with pytest.raises(InputError, match=r"entry 6: image '\.\\\\a\.png' is not among"):
        Evidence.from_labels(range(6), ids=names).resolve(ids)  # three images are called so
    assert Evidence.from_labels(range(5), ids=names[:5]).resolve(ids).labels.tolist() == [1, 0, 2, 3, 4]


@pytest.mark.parametrize(
    ("columns", "known"),
    [
        ("image,split,cluster,confidence,class", "a.png,train,3,.9,cat"),
        ("image,cluster,confidence", "a.png,3,.9"),
        ("path,image,class,split,cluster", "/x/a.png,a.png,cat,train,3"),
    ],
)
def test_clusters_are_read_as_labels_and_it_is_said(photos, columns, known):
    row = dict(zip(columns.split(","), known.split(","), strict=True))
    parquet.write_table(pyarrow.Table.from_pylist([row]), photos / "run.parquet")
    for path in (written(photos, f"{columns}\n{known}\n"), photos / "run.parquet"):
        with pytest.warns(InputWarning) as said:
            assert Evidence.from_files(labels=path).labels == (("a.png", "cluster 3"),)
        assert f"'{path}' is a table of smidgen's: its column 'cluster' is read as labels." in map(
            str, [one.message for one in said]
        )
    with pytest.warns(InputWarning, match="ignored the column"):  # a label that was added comes first
        labelled = Evidence.from_files(labels=written(photos, f"{columns},label\n{known},dog\n"))
    assert labelled.labels == (("a.png", "dog"),)


@pytest.mark.filterwarnings("ignore::smidgen.errors.InputWarning")
def test_images_of_a_runs_table_are_found_from_another_folder(photos, tmp_path):
    table = written(tmp_path, "image,cluster\na.png,0\nsub/c.png,1\n", name="assignments.csv")
    written(tmp_path, 'data = "gone"\n', name="config.toml")
    written(tmp_path, f'{{"paths": {{"data": "{photos}"}}}}', name="manifest.json")
    evidence = Evidence.from_files(labels=table)
    for data, ids in ((photos, ["a.png", "sub/c.png"]), (photos.parent, ["photos/a.png", "photos/sub/c.png"])):
        assert evidence.resolve(ids, data=data).labels.tolist() == [0, 1]
    assert evidence.resolve(["c.png"], data=photos / "sub").labels.tolist() == [1]


def test_images_of_other_splits_are_ignored_in_a_runs_table(photos):
    table = written(photos, "image,split,cluster\na.png,train,0\nb.png,test,1\n")
    with pytest.warns(InputWarning):
        evidence = Evidence.from_files(labels=table)
    with pytest.warns(InputWarning, match="1 of its 2 images are not among the training images, and are ignored"):
        assert evidence.resolve(["a.png"]).labels.tolist() == [0]
    with pytest.raises(InputError, match=r"image 'a\.png' is not among"):  # a table of other images altogether
        evidence.resolve(["z.png"])
    with pytest.raises(InputError, match=r"image 'b\.png' is not among"):  # a table of the user's
        Evidence.from_files(labels=written(photos, "image,label\na.png,0\nb.png,1\n")).resolve(["a.png"])


def test_a_table_of_clusters_as_data(photos, tmp_path):
    path = written(tmp_path, "image,split,cluster\na.png,train,0\nb.png,test,1\n", name="assignments.csv")
    with pytest.raises(InputError, match=r"smidgen wrote this table, .* of its run; give these instead\.$"):
        open_dataset(path)
    written(tmp_path, f'data = "{tmp_path}/gone"\n', name="config.toml")
    with pytest.raises(InputError, match=r"of its run; give '.*/gone' instead\.$"):
        open_dataset(path)
    written(tmp_path, f'{{"paths": {{"data": "{photos}"}}}}', name="manifest.json")
    (tmp_path / "tables").mkdir()
    issues = written(tmp_path / "tables", "image,kind\nsub/c.png,dark\n", name="issues.csv")
    for table, ids in ((path, ["a.png", "b.png"]), (issues, ["sub/c.png"])):
        with pytest.warns(InputWarning, match="ignored the column"):
            found = open_dataset(table, split="all")
        assert found.ids.tolist() == ids
        assert f"is a table of smidgen's: its images are read from '{photos}'." in found.notes[0]
    with pytest.warns(InputWarning, match="ignored the column 'cluster'"):  # beside the images it is a list of them
        assert len(open_dataset(written(photos, path.read_text()), split="all")) == 2


def test_hints_at_what_was_meant(photos, monkeypatch):
    with pytest.raises(InputError, match=r"line 1: Unknown column 'a\.png'.* The first line must name the columns\.$"):
        Evidence.from_files(labels=written(photos, "a.png,cat\nb.png,dog\n"))
    with pytest.raises(InputError, match="two columns are called 'label'; keep one"):
        Evidence.from_files(labels=written(photos, "image,label,Label\na.png,cat,dog\n"))
    with pytest.raises(InputError, match=r"Unknown column 'label'.* These are the columns of labels or partial\.$"):
        Evidence.from_files(bags=written(photos, "image,label\na.png,cat\n"))
    with pytest.raises(InputError, match="give that as the data, and this table as its labels"):
        open_dataset(written(photos, "image,label\nelsewhere.png,cat\n"))
    monkeypatch.chdir(photos)
    (photos.parent / "lists").mkdir()
    with pytest.raises(InputError, match="this one is there from where you are: move the manifest here"):
        open_dataset(written(photos.parent / "lists", "path\na.png\n"))


def test_a_manifest_of_which_some_images_are_missing_is_read(photos):
    dataset = open_dataset(written(photos, "path\na.png\ngone.png\n"), allow_bad=0.5)
    assert [bad.id for bad in dataset.skipped] == ["gone.png"]


@pytest.mark.parametrize("row", ['["a.png"]', '{"bytes": 1}', "null", "NaN", "Infinity", '" "'])
def test_paths_that_are_none_are_refused_with_their_row(photos, row):
    path = written(photos, f'{{"path": "a.png"}}\n{{"path": {row}}}', name="m.jsonl")
    with pytest.raises(InputError, match=r"(row 2: the path of an image must be|names no image in row 2)"):
        open_dataset(path)


@pytest.mark.parametrize("name", ["m.tsv", "m.ndjson"])
def test_other_endings_of_manifests(photos, name):
    text = "path\tlabel\na.png\tcat\n" if name == "m.tsv" else '{"path": "a.png", "label": "cat"}\n'
    assert open_dataset(written(photos, text, name=name)).class_names == ("cat",)


def test_folders_of_evidence_in_any_format(photos):
    written(photos, '{"image": "a.png", "label": 1.0}\n{"image": "b.png", "label": null}\n', name="labels.jsonl")
    written(photos, "bag\timage\n1\ta.png\n", name="bags.tsv")
    evidence = Evidence.from_folder(photos)
    assert (evidence.labels, evidence.bags) == ((("a.png", "1"),), (("1", "a.png"),))
    written(photos, "image,label\n", name="labels.csv")
    with pytest.raises(InputError, match=r"both labels\.csv and labels\.jsonl; keep one"):
        Evidence.from_folder(photos)


def test_a_folder_is_known_by_the_name_of_a_link_to_it(photos):
    (photos.parent / "link").symlink_to(photos)
    labels = Evidence.from_labels(["x", "y"], ids=["link/a.png", "link\\b.png"])
    with pytest.warns(InputWarning, match="read without 'link/'"):
        assert labels.resolve(IDS, data=photos.parent / "link").labels.tolist() == [0, 1, -1]


def test_two_columns_of_one_name_matter_only_if_they_mean_something(photos):
    with pytest.warns(InputWarning, match="ignored the column 'notes'"):
        assert both(written(photos, "image,notes,label,notes\na.png,x,cat,y\nb.png,,dog,\n")) == ["cat", "dog", None]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_classes_in_another_encoding_are_refused(photos, encoding):
    path = written(photos, "image,label\na.png,éléphant\n", encoding=encoding)
    with pytest.raises(InputError, match=r"row 1: a class must be UTF-8 text, got '\\udce9l\\udce9phant'\.$"):
        open_dataset(path)
    with pytest.raises(InputError, match="is not UTF-8 text"):
        Evidence.from_files(labels=path)


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.json", b'[{"image": "a.png"}]', r"JSON is read from \.jsonl files, one object a line"),
        ("a.xlsx", b"PK\x03\x04...", "it is a workbook or an archive; save it as CSV in UTF-8"),
        ("a.xls", b"\xd0\xcf\x11\xe0...", "it is a workbook"),
    ],
)
def test_other_formats_are_answered_with_what_to_do(photos, name, content, hint):
    (photos / name).write_bytes(content)
    with pytest.raises(InputError, match=hint):
        Evidence.from_files(labels=photos / name)


def test_the_hint_is_the_image_whose_path_ends_alike():
    ids = ["black/3.png", "x3.png", "white/3.png"]
    for given, meant in (("Elsewhere\\White\\3.PNG", "white/3.png"), ("/a/b/3.png", "black/3.png"), ("r3.png", "")):
        with pytest.raises(InputError, match=f"did you mean {meant!r}" if meant else "named like 'black/3.png'"):
            Evidence.from_labels(["x"], ids=[given]).resolve(ids)


def test_shares_in_percent(photos):
    bags = written(photos, "bag,image\n1,a.png\n1,b.png\n", name="bags.csv")
    shares = written(photos, "bag,label,share\n1,cat,25%\n1,dog,75 %\n")
    assert Evidence.from_files(bags=bags, proportions=shares).proportions == (("1", "cat", 0.25), ("1", "dog", 0.75))
