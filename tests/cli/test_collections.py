"""What `check` and `fit` say of a collection: its splits, what is no image, and how many may be unreadable."""

import pytest
from cli_samples import QUICK, fill, png


@pytest.mark.parametrize(
    "names", [("Train", "VAL"), ("training", "Testing"), ("archive/pets/train", "archive/pets/dev")]
)
def test_check_and_fit_say_which_folder_is_which_split(smidgen, tmp_path, names):
    data = tmp_path / "data"
    train, test = (fill(data / name, per_class=n) and name for name, n in zip(names, (8, 2), strict=True))
    taken = f"Taken: '{train}/' for the training split (24 images), '{test}/' for the test split (6 images)"
    said = smidgen("check", data, "--clusters", 3)
    assert taken in said.out
    assert "3: black 10, grey 10, white 10" in said.out
    found = smidgen("check", data, "--clusters", 3, "--json").json
    assert found["splits"] == {"test": 6, "train": 24}
    assert found["notes"][-1].startswith(taken)
    loud = [word for word in QUICK if word != "--quiet"]
    said = smidgen("fit", data, *loud, "--out", tmp_path / "run")
    assert taken in said.err
    assert "24 training images of 8×8 pixels, 6 test images. Classes: 'black', 'grey', 'white'.\n" in said.err
    assert "test  accuracy  100.0 %" in said.out


def test_check_and_fit_say_what_is_left_out_and_passed_over(smidgen, tmp_path):
    data = tmp_path / "data"
    for name in ("train", "val", "test"):
        fill(data / name, per_class=4)
    (data / "train/black/photo.png?w=100").write_bytes(png(20, mark=40))
    (data / "train/black/@eaDir").mkdir()
    (data / "train/black/@eaDir/thumb.png").write_bytes(png(99))
    (data / "notes.txt").write_text("hello")
    loud = [word for word in QUICK if word != "--quiet"]
    for shown in (smidgen("check", data).out, smidgen("fit", data, *loud, "--out", tmp_path / "run").err):
        assert "'train/' for the training split (13 images), 'test/' for the test split (12 images)." in shown
        assert "Neither: 'val/' (12 images), which `fit` leaves out: nothing is tuned on further splits." in shown
        assert "read as an image by its content, not by name: 'train/black/photo.png?w=100'." in shown
        assert "1 file of other kinds (1 .txt)" in shown
        assert "hidden and system files and folders, '@eaDir'" in shown


def test_folders_that_may_be_splits_are_named_by_check_and_fit(smidgen, tmp_path):
    fill(tmp_path / "data/pets/train", per_class=4)
    fill(tmp_path / "data/pets/test", per_class=4)
    (tmp_path / "data/preview.png").write_bytes(png(7))
    assert "Not taken for splits: 'pets/test/' and 'pets/train/'" in smidgen("check", tmp_path / "data").out
    said = smidgen("fit", tmp_path / "data", *QUICK[:-1], "--dry-run", "--out", tmp_path / "run")
    assert "Not taken for splits: 'pets/test/' and 'pets/train/'" in said.err


def test_only_a_test_folder_is_refused_with_what_to_give(smidgen, tmp_path):
    fill(tmp_path / "data/Test", per_class=4)
    refusal = smidgen("fit", tmp_path / "data", *QUICK, "--out", tmp_path / "run").refusal()
    assert "has no 'train' split, only 'test'; to train on it, give it alone or rename it." in refusal


@pytest.mark.parametrize("bad_split", ["train", "test"])
def test_check_and_fit_count_the_unreadable_of_each_split_alike(smidgen, tmp_path, bad_split):
    other = {"train": "test", "test": "train"}[bad_split]
    fill(tmp_path / "data" / bad_split, per_class=6)
    fill(tmp_path / "data" / other, per_class=30)
    for mark in range(2):
        (tmp_path / "data" / bad_split / "black" / f"{mark}.png").write_bytes(b"no image")
    checked = smidgen("check", tmp_path / "data", "--clusters", 3)
    assert checked.code == 2
    assert (
        f"2 of 18 {bad_split} images cannot be read: repair or remove them, or pass `--allow-bad 0.12`." in checked.out
    )
    assert "2 of 18 images" in smidgen("fit", tmp_path / "data", *QUICK, "--out", tmp_path / "run").refusal()
    allowed = ["--allow-bad", 0.12]
    assert smidgen("check", tmp_path / "data", "--clusters", 3, *allowed).code == 0
    assert smidgen("fit", tmp_path / "data", *QUICK, *allowed, "--out", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["photos/black/0.png"], ["0.png"]),
        (["photos/black/0.png", "photos/white/1.png"], ["black/0.png", "white/1.png"]),
        (["photos/*/3.png"], ["black/3.png", "grey/3.png", "white/3.png"]),
        (["photos/black", "photos/white/1.png", "--exclude", "1?.png", "--exclude", "[2-9].png"], None),
        (["--quiet", "photos/white/1.png", "--split", "all", "photos/black/0.png"], ["white/1.png", "black/0.png"]),
    ],
)
def test_predict_takes_files_globs_and_several_paths(smidgen, run, monkeypatch, given, ids):
    monkeypatch.chdir(run.parent)
    found = smidgen("predict", run, *given, "--json").json
    ids = ids or ["black/0.png", "black/1.png", "white/1.png"]
    assert [image["image"] for image in found["images"]] == ids


def test_predict_says_what_it_took_and_refuses_one_file_that_is_no_image(smidgen, run, tmp_path):
    (tmp_path / "odd.1").write_bytes(png(120))
    said = smidgen("predict", run, tmp_path / "odd.1")
    assert said.out.splitlines()[1].startswith("odd.1,")
    assert "read as an image by its content, not by name: 'odd.1'" in said.err
    (tmp_path / "no.png").write_text("hello")
    assert "1 of 1 images" in smidgen("predict", run, tmp_path / "no.png").refusal()
    (tmp_path / "no.odd").write_text("hello")
    assert "is not a collection of images" in smidgen("predict", run, tmp_path / "no.odd").refusal()


def test_check_and_eval_take_several_paths(smidgen, run, monkeypatch):
    monkeypatch.chdir(run.parent)
    found = smidgen("check", "photos/black", "photos/white", "--clusters", 2, "--json").json
    assert found["classes"] == {"black": 20, "white": 20}
    scores = smidgen("eval", run, "photos/black", "--json", "photos/white").json
    assert scores["all"]["n_scored"] == 40
    assert scores["data"] == ["photos/black", "photos/white"]


def test_excluded_files_are_left_out_by_every_verb_and_stay_out_on_resume(smidgen, photos, tmp_path):
    without = ["--exclude", "grey/"]
    assert "grey" not in smidgen("check", photos, *without, "--json").json["classes"]
    assert smidgen("fit", photos, *QUICK, *without, "--out", tmp_path / "run").code == 0
    assert smidgen("fit", photos, *QUICK, *without, "--out", tmp_path / "run", "--resume").code == 0
    refusal = smidgen("fit", photos, *QUICK, "--out", tmp_path / "run", "--resume").refusal()
    assert "exclude: ['grey/'] → 'unset'" in refusal
    labels = ["--labels-per-class", 2, "--out", tmp_path / "evidence"]
    assert f"smidgen fit {photos} --exclude grey/ --evidence" in smidgen("simulate", photos, *without, *labels).out
    assert "grey" not in (tmp_path / "evidence/labels.csv").read_text()
    assert smidgen("eval", tmp_path / "run", photos, *without, "--json").json["all"]["n_scored"] == 40
    assert "`--exclude` leaves out files" in smidgen("fit", "digits", *without, "--out", tmp_path / "x").refusal()
    assert "`--exclude` takes patterns" in smidgen("check", photos, "--exclude", "!").refusal()


def test_classes_are_chosen_by_every_verb_and_are_as_many_as_the_clusters(smidgen, photos, tmp_path):
    chosen, quick = ["--classes", "white,black"], ["--method", "kmeans", "--no-issues", "--quiet"]
    assert smidgen("check", photos, *chosen, "--json").json["classes"] == {"black": 20, "white": 20}
    assert smidgen("fit", photos, *quick, *chosen, "--out", tmp_path / "run", "--json").json["n_clusters"] == 2
    refusal = smidgen("fit", photos, *quick, "--clusters", 2, "--out", tmp_path / "run", "--resume").refusal()
    assert "classes: ['white', 'black'] → 'unset'" in refusal
    labels = ["--labels-per-class", 2, "--out", tmp_path / "evidence"]
    assert f"smidgen fit {photos} --classes white,black --evidence" in smidgen("simulate", photos, *chosen, *labels).out
    assert "grey" not in (tmp_path / "evidence/labels.csv").read_text()
    assert smidgen("eval", tmp_path / "run", photos, *chosen, "--json").json["all"]["n_scored"] == 40
    assert "Unknown class of" in smidgen("check", photos, "--classes", "blakc").refusal()
    assert "`--classes` must be names with commas between" in smidgen("check", photos, "--classes", "a,,b").refusal()


def test_fit_takes_a_glob_and_names_its_run_after_the_folder(smidgen, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert smidgen("fit", "photos/*/1*.png", *QUICK).code == 0
    assert (photos.parent / "runs/photos-kmeans/report.html").is_file()
