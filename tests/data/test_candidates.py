import io
import tarfile
import zipfile

import pytest
from PIL import Image

from smidgen.data.archives import collect_tar, collect_zip
from smidgen.data.folders import collect_folder
from smidgen.data.manifests import collect_manifest
from smidgen.errors import InputError


def encoded(kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 60, 200)).save(buffer, kind)
    return buffer.getvalue()


def in_folder(root, files, **options):
    for name, data in files.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_bytes(data)
    return collect_folder(root / "data", **options)


def in_zip(root, files, **options):
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return collect_zip(root / "a.zip", **options)


def in_tar(root, files, **options):
    with tarfile.open(root / "a.tar", "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return collect_tar(root / "a.tar", **options)


def ids(collection):
    return {item.id for item in collection.items}


KINDS = [in_folder, in_zip, in_tar]
ODD = ["photo.jpg?w=100", "IMG_2020.01.02", "a.jpg_large", "photo", "b.dat", "c.JPG.download", "d.123"]


@pytest.mark.parametrize("collect", KINDS)
def test_content_decides_where_the_name_does_not(tmp_path, collect):
    others = {
        "notes.txt": b"text",
        "film.mp4": b"\0\0\0\x18ftypmp42",
        "film.odd": b"\0\0\0\x18ftypmp42",
        "BMW": b"BMW 3",
    }
    raw = {"a.nef": b"MM\0*" + bytes(40), "a.thm": encoded("JPEG")}
    collection = collect(tmp_path, dict.fromkeys(ODD, encoded("JPEG")) | others | raw | {"usual.png": b"no image"})
    assert ids(collection) == {*ODD, "usual.png"}
    assert collection.ignored == 6
    by_content, passed_over = collection.notes
    assert by_content.startswith("7 files are read as images by their content, not by name: ")
    assert passed_over.startswith("Passed over: 6 files of other kinds (")
    assert "1 .nef" in passed_over


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_format_is_known_by_its_content(tmp_path, kind):
    assert ids(in_folder(tmp_path, {"picture.1": encoded(kind)})) == {"picture.1"}


SYSTEM = ["@eaDir/a.jpg/thumb.jpg", "#recycle/b.jpg", "$RECYCLE.BIN/c.jpg", ".thumbnails/d.jpg", "__MACOSX/._e.jpg"]
SYSTEM += [
    ".git/f.jpg",
    "lost+found/g.jpg",
    "System Volume Information/h.jpg",
    "cat/@eaDir/i.jpg",
    "._j.jpg",
    "Thumbs.db",
]


@pytest.mark.parametrize("collect", KINDS)
def test_system_files_and_folders_are_passed_over_and_named(tmp_path, collect):
    collection = collect(tmp_path, dict.fromkeys([*SYSTEM, "cat/1.jpg", "dog/2.jpg"], encoded("JPEG")))
    assert ids(collection) == {"cat/1.jpg", "dog/2.jpg"}
    assert collection.class_names() == ("cat", "dog")
    (said,) = (note for note in collection.notes if note.startswith("Passed over: hidden and system"))
    assert "'@eaDir'" in said or "'#recycle'" in said


@pytest.mark.parametrize("collect", KINDS)
@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.gif"], {"a.png", "raw/b.png", "cat/raw/c.png", "#x/e.png"}),
        (["raw/"], {"a.png", "d.gif", "#x/e.png"}),
        (["/raw"], {"a.png", "cat/raw/c.png", "d.gif", "#x/e.png"}),
        (["*", "!d.gif"], {"d.gif"}),
        (["#x", "cat/**"], {"a.png", "raw/b.png", "d.gif"}),
    ],
)
def test_patterns_exclude_as_in_a_gitignore(tmp_path, collect, patterns, left):
    names = ["a.png", "raw/b.png", "cat/raw/c.png", "d.gif", "#x/e.png"]
    collection = collect(tmp_path, dict.fromkeys(names, encoded()), exclude=patterns)
    assert ids(collection) == left
    assert any(note.startswith("Excluded: ") for note in collection.notes)


def test_patterns_exclude_from_manifests(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.png\nraw/b.png\n")
    (tmp_path / "a.png").write_bytes(encoded())
    collection = collect_manifest(tmp_path / "m.csv", exclude=["raw/"])
    assert ids(collection) == {"a.png"}
    assert collection.notes == ("Excluded: 'raw/b.png'.",)


@pytest.mark.parametrize("pattern", ["!", "", "  "])
def test_a_pattern_that_is_none_is_refused(tmp_path, pattern):
    with pytest.raises(InputError, match="`exclude` takes patterns like"):
        collect_folder(tmp_path, exclude=[pattern])
