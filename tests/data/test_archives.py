import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smidgen.data import archives
from smidgen.data.archives import collect_tar, collect_zip
from smidgen.data.images import BadImage
from smidgen.errors import InputError


def png(level=9):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path, *members):
    """Write (name, type, bytes) members; links point to /etc/passwd."""
    with tarfile.open(path, "w") as archive:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/passwd"
            archive.addfile(info, io.BytesIO(data))
    return path


def packed(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


def reason(item):
    with pytest.raises(BadImage) as caught:
        item.read()
    return caught.value.reason


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_are_images_with_classes_splits_and_order(tmp_path, kind):
    names = ["./train/dog/10.png", "train/dog/9.png", "train/cat/1.png", "test/cat/1.png", "readme.txt"]
    if kind == "tar":
        collection = collect_tar(tar(tmp_path / "a.tar", *((name, tarfile.REGTYPE, png()) for name in names)))
    else:
        collection = collect_zip(packed(tmp_path / "a.zip", **dict.fromkeys(names, png())))
    train = collection.of_split("train")
    assert [item.id for item in train] == ["train/cat/1.png", "train/dog/9.png", "train/dog/10.png"]
    assert [item.label for item in train] == ["cat", "dog", "dog"]
    assert all(item.read() == png() for item in collection.items)
    assert collection.ignored == 1


ATTACKS = {
    "a.png": (tarfile.SYMTYPE, "link"),
    "b.png": (tarfile.LNKTYPE, "link"),
    "c.png": (tarfile.CHRTYPE, "device"),
    "d.png": (tarfile.FIFOTYPE, "device"),
    "../e.png": (tarfile.REGTYPE, "leaves"),
    "x/../../f.png": (tarfile.REGTYPE, "leaves"),
    "/etc/g.png": (tarfile.REGTYPE, "leaves"),
}


def test_hostile_tar_members_are_bad_images(tmp_path):
    members = [(name, kind, png() if kind == tarfile.REGTYPE else b"") for name, (kind, _) in ATTACKS.items()]
    collection = collect_tar(tar(tmp_path / "a.tar", *members))
    assert {item.id for item in collection.items} == set(ATTACKS)
    for item in collection.items:
        assert ATTACKS[item.id][1] in reason(item)


def test_hostile_zip_members_are_bad_images(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../up.png", png())
        archive.writestr("/etc/root.png", png())
    reasons = {item.id: reason(item) for item in collect_zip(tmp_path / "a.zip").items}
    assert "link" in reasons.pop("link.png")
    assert set(reasons.values()) == {"its name leaves the archive"}


def test_zip_member_that_unpacks_to_too_much_is_never_unpacked(tmp_path, monkeypatch):
    path = packed(
        tmp_path / "a.zip",
        **{"bomb.png": bytes(2**22), "good.png": png(), "pad.bin": np.random.default_rng(0).bytes(2**15)},
    )
    bomb, good = collect_zip(path).items
    assert "200 times" in reason(bomb)
    assert good.read() == png()
    monkeypatch.setattr(archives, "MAX_BYTES", 2**20)
    assert "unpacks to more than" in reason(collect_zip(path).items[0])


def test_zip_that_unpacks_to_too_much_in_all_is_refused(tmp_path):
    path = packed(tmp_path / "a.zip", **{f"{i}.png": bytes(2**23) for i in range(10)})
    with pytest.raises(InputError, match="200 times its length"):
        collect_zip(path)


def test_too_large_tar_member_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10)
    (item,) = collect_tar(tar(tmp_path / "a.tar", ("a.png", tarfile.REGTYPE, png()))).items
    assert "longer than" in reason(item)


@pytest.mark.parametrize("collect", [collect_tar, collect_zip])
def test_too_many_members_are_refused(tmp_path, monkeypatch, collect):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    tar(tmp_path / "a.tar", *((f"{i}.png", tarfile.REGTYPE, png()) for i in range(3)))
    packed(tmp_path / "a.zip", **{f"{i}.png": png() for i in range(3)})
    with pytest.raises(InputError, match="more than 2 members"):
        collect(tmp_path / ("a.tar" if collect is collect_tar else "a.zip"))


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_tar_is_refused_in_one_sentence_that_says_what_to_do(tmp_path, mode):
    path = tmp_path / "a.tar"
    with tarfile.open(path, f"w:{mode}"):
        pass
    with pytest.raises(InputError, match=r"is compressed with \w+, .*; unpack it and give the folder, or .*\.zip\.$"):
        collect_tar(path)


@pytest.mark.parametrize("damage", ["text", "header", "negative size", "zip"])
def test_damaged_archives_are_refused(tmp_path, damage):
    data = bytearray(tar(tmp_path / "a.tar", *((f"{i}.png", tarfile.REGTYPE, png()) for i in range(3))).read_bytes())
    if damage == "header":
        data[1024 + 100 : 1024 + 110] = b"\xff" * 10
    if damage == "negative size":  # the number field's binary form; the checksum is made right again
        data[1024 + 124 : 1024 + 136] = b"\xff" * 12
        data[1024 + 148 : 1024 + 156] = b" " * 8
        data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    (tmp_path / "b").write_bytes(b"Dear Sir or Madam" * 100 if damage in ("text", "zip") else bytes(data))
    with pytest.raises(InputError, match=r"cannot|can be read"):
        (collect_zip if damage == "zip" else collect_tar)(tmp_path / "b")


def test_tar_that_ends_early_has_a_bad_last_image(tmp_path):
    path = tar(tmp_path / "a.tar", *((f"{i}.png", tarfile.REGTYPE, png()) for i in range(2)))
    path.write_bytes(path.read_bytes()[: 1024 + 512 + 20])
    with pytest.raises(InputError, match="can be read"):
        collect_tar(path)


def test_zips_packed_on_windows_have_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("train\\cat\\1.png", "train\\dog\\2.png", "valid\\cat\\3.png"):
            member = zipfile.ZipInfo(name)
            member.create_system = 0
            archive.writestr(member, png())
    train, _ = (collect_zip(tmp_path / "a.zip").of_split(split) for split in ("train", "test"))
    assert [(item.id, item.label, item.read()) for item in train] == [
        ("train/cat/1.png", "cat", png()),
        ("train/dog/2.png", "dog", png()),
    ]


def test_no_zip_stays_open_and_members_are_read_at_once_by_several_threads(tmp_path):
    path = packed(tmp_path / "a.zip", **{f"{i}.png": png(i) for i in range(40)})
    items = collect_zip(path).items
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda item: item.read(), items)) == [png(i) for i in range(40)]
    assert path not in [Path(link).resolve() for link in Path("/proc/self/fd").iterdir()]
    path.unlink()
    assert "cannot be unpacked" in reason(items[0])


def test_damaged_and_encrypted_zip_members_are_bad_images(tmp_path):
    path = packed(tmp_path / "a.zip", **{"a.png": png(1), "b.png": png(2)})
    data = bytearray(path.read_bytes())
    data[45] ^= 0xFF  # inside the first member's compressed bytes
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the last member's flags
    path.write_bytes(bytes(data))
    first, second = collect_zip(path).items
    assert "unpacked" in reason(first)
    assert "encrypted" in reason(second)
