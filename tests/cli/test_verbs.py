"""predict, eval, report, list and check, on one finished run."""

import csv
import dataclasses
import io
import re
import shutil

import pytest
from cli_samples import fill, png

from smidgen.csv_tables import read_csv
from smidgen.errors import InputError
from smidgen.files import write_json
from smidgen.methods import METHODS, make_config
from smidgen.run_folder import RunFolder
from smidgen.scoring import score_run


def test_predict_writes_a_row_for_each_image(smidgen, run, tmp_path):
    said = smidgen("predict", run, run.parent / "photos", "--out", tmp_path / "p.csv", "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")
    new, own = read_csv(tmp_path / "p.csv"), read_csv(run / "assignments.csv")
    assert list(new) == ["image", "cluster", "confidence"]
    assert (new["image"], new["cluster"]) == (own["image"], own["cluster"])


def test_predict_without_a_file_prints_the_table(smidgen, run):
    said = smidgen("predict", run, run.parent / "photos", "--quiet")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert len(rows) == 60
    assert rows[0]["image"] == "black/0.png"


def test_predict_json_counts_clusters(smidgen, run):
    found = smidgen("predict", run, run.parent / "photos", "--json").json
    assert sorted(found["clusters"].values()) == [20, 20, 20]
    assert len(found["images"]) == 60


def test_predict_sees_images_of_another_size_as_the_run_did(smidgen, run, tmp_path):
    (tmp_path / "large").mkdir()
    from PIL import Image

    Image.new("RGB", (100, 50), (20, 20, 20)).save(tmp_path / "large/a.png")
    rows = list(csv.DictReader(io.StringIO(smidgen("predict", run, tmp_path / "large", "--quiet").out)))
    own = read_csv(run / "assignments.csv")
    assert rows[0]["cluster"] == own["cluster"][own["image"].index("black/0.png")]


def test_predict_lists_what_it_could_not_read(smidgen, run, photos, tmp_path):
    (photos / "black/bad.jpg").write_text("not an image")
    said = smidgen("predict", run, photos, "--out", tmp_path / "p.csv")
    assert "black/bad.jpg" in said.err
    assert read_csv(tmp_path / "p.csv.bad.csv")["image"] == ["black/bad.jpg"]


def test_predict_replaces_no_file_unasked(smidgen, run, tmp_path):
    (tmp_path / "p.csv").write_text("precious")
    photos = run.parent / "photos"
    assert "--overwrite" in smidgen("predict", run, photos, "--out", tmp_path / "p.csv").refusal()
    assert (tmp_path / "p.csv").read_text() == "precious"
    assert smidgen("predict", run, photos, "--out", tmp_path / "p.csv", "--overwrite").code == 0


def test_predict_refuses_a_folder_without_a_model(smidgen, photos, tmp_path):
    assert "holds no trained model" in smidgen("predict", tmp_path, photos).refusal()


def test_eval_is_a_function_of_python_too(smidgen, run):
    assert score_run(run) == {"train": smidgen("eval", run, "--json").json["train"]}
    with pytest.raises(InputError, match="no images of known class in split 'test'"):
        score_run(run, split="test")


def test_eval_scores_the_runs_own_images(smidgen, run):
    found = smidgen("eval", run, "--json").json["train"]
    assert (found["accuracy"], found["mapped_accuracy"], found["nmi"], found["n_images"]) == (1.0, 1.0, 1.0, 60)
    assert sorted((row["matched"], row["size"]) for row in found["clusters"]) == [
        ("black", 20),
        ("grey", 20),
        ("white", 20),
    ]


def test_eval_keeps_the_map_of_the_training_images(smidgen, run, tmp_path):
    # White images filed under "black" and the reverse: the best match on these images is perfect, the run's map wrong.
    fill(tmp_path / "swapped", per_class=3)
    (tmp_path / "swapped/black").rename(tmp_path / "swapped/x")
    (tmp_path / "swapped/white").rename(tmp_path / "swapped/black")
    (tmp_path / "swapped/x").rename(tmp_path / "swapped/white")
    found = smidgen("eval", run, tmp_path / "swapped", "--json").json["all"]
    assert found["accuracy"] == 1.0
    assert found["mapped_accuracy"] == pytest.approx(1 / 3)


def test_eval_speaks_plainly(smidgen, run):
    said = smidgen("eval", run)
    assert "train: 60 images of known class\n  accuracy              100.0 %" in said.out
    assert "stands for" in said.out


def test_what_heads_for_bags_say_is_shown_scored_and_predicted(smidgen, photos, tmp_path):
    options = ["preset=fast", "steps=3", "bags=3", "ucc=1-3", "bag_size=4-6", "features=4"]
    sets = [word for option in options for word in ("--set", option)]
    fitted = smidgen(
        "fit", photos, "--method", "ucc", "--clusters", 3, "--threads", 1, *sets, "--out", tmp_path / "run"
    )
    assert re.search(r"train ucc  +\d+\.\d % of balanced bags are counted right", fitted.out)
    own = smidgen("eval", tmp_path / "run", "--json").json["train"]
    new = smidgen("eval", tmp_path / "run", photos, "--json").json["all"]
    assert own["ucc_accuracy"] == new["ucc_accuracy"]  # bags are drawn alike
    assert "unique counts of balanced bags" in smidgen("eval", tmp_path / "run").out
    (tmp_path / "bags.csv").write_text("bag,image\nx,black/1.png\nx,white/2.png\ny,grey/3.png\n")
    found = smidgen("predict", tmp_path / "run", photos, "--bags", tmp_path / "bags.csv", "--json").json["bags"]
    assert found[0]["head_ucc"] in (1, 2)
    assert (found[1]["head_ucc"], found[1]["head_ucc_probability"]) == (1, 1)  # a bag of one image


def test_eval_without_classes_is_refused(smidgen, run, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.png").write_bytes(png(20))
    assert "no known classes" in smidgen("eval", run, tmp_path / "flat", "--quiet").refusal()


def test_eval_probes_the_net_and_the_report_shows_it(smidgen, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    found = smidgen("eval", copy, "--probes", "--probe-images", 40, "--threads", 1, "--json").json
    assert found["train"] == smidgen("eval", run, "--json").json["train"]
    trained = {row["stage"]: row for row in found["probes"] if row["net"] == "trained"}
    assert trained["embedding"]["linear"] == 1.0  # the photographs are black, grey or white
    assert trained["embedding"]["knn_50"] is None  # of 40 images
    table = read_csv(copy / "tables/probes.csv")
    assert table["net"][-1] == "pixels"
    assert (table["learned_from"][0], table["scored_on"][0]) == ("40", "12")
    assert RunFolder.open(copy).metrics["probe_embedding_linear"] == 1.0
    page = (copy / "report.html").read_text()
    assert 'id="probes"' in page
    said = smidgen("eval", copy, run.parent / "photos", "--probes", "--threads", 1)
    assert re.search(r"trained +embedding .* 100.0 %", said.out)
    assert read_csv(copy / "tables/probes.csv") == table  # other images leave it alone


def test_eval_probes_only_where_that_is_possible(smidgen, run, tmp_path):
    assert "give both" in smidgen("eval", run, "--probe-images", 40).refusal()
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(6):
        (flat / f"{i}.png").write_bytes(png(40 * i))
    smidgen("fit", flat, "--method", "kmeans", "--clusters", 2, "--threads", 1, "--out", tmp_path / "run", "--quiet")
    assert "no known classes" in smidgen("eval", tmp_path / "run", "--probes").refusal()
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "config.toml").write_text((copy / "config.toml").read_text().replace("photos", "gone"))
    manifest = RunFolder.open(copy).manifest
    write_json(copy / "manifest.json", {name: value for name, value in manifest.items() if name != "paths"})
    assert "gone" in smidgen("eval", copy, "--probes").refusal()


def test_report_is_rebuilt(smidgen, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "report.html").unlink()
    assert smidgen("report", copy).out == f"{copy / 'report.html'}\n"
    page = (copy / "report.html").read_bytes()
    assert b"</html>" in page
    (copy / "report.html").write_text("broken")
    smidgen("report", copy)
    assert (copy / "report.html").read_bytes() == page


def test_several_reports_are_compared(smidgen, run, tmp_path):
    copies = [shutil.copytree(run, tmp_path / name) for name in ("first", "second")]
    assert smidgen("report", *copies).code == 0
    assert "first" in (tmp_path / "comparison.html").read_text()
    assert "exists" in smidgen("report", *copies).refusal()


def test_report_of_no_run_is_refused(smidgen, tmp_path):
    assert "is not a run folder" in smidgen("report", tmp_path).refusal()


def test_list_methods_names_them_and_their_options(smidgen):
    assert "fusion " in smidgen("list", "methods").out
    assert "refine_steps" in smidgen("list", "methods", "fusion").out


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_every_method_is_explained(smidgen, name):
    said = smidgen("list", "methods", name).out
    options = said.split("Set them with")[0].splitlines()[3:]
    heads = [line for line in options if line and not line.startswith(" ") and not line.endswith(":")]
    assert len(heads) == len(dataclasses.fields(make_config(name)))
    assert [line for line in heads if len(line.split()) < 3] == []


def test_options_with_few_values_show_them_and_long_lines_are_broken(smidgen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    said = smidgen("list", "methods", "rcc").out
    assert "that bounds the features; tanh and sine are for comparison (sigmoid · softmax · tanh · sine)" in " ".join(
        said.split()
    )
    assert max(map(len, said.splitlines()[2:])) <= 90


def test_list_methods_tells_of_presets(smidgen):
    said = smidgen("list", "methods", "ucc").out
    assert re.search(r"^paper +the defaults$", said, re.MULTILINE)
    assert "learning_rate=0.001" in said
    assert "--set preset=NAME" in said
    assert "preset" not in smidgen("list", "methods", "kmeans").out


def test_list_datasets_and_encoders(smidgen):
    assert "60,000" in smidgen("list", "datasets").out
    assert smidgen("list", "encoders").out.startswith("conv")


def test_check_finds_copies_leaks_and_sizes(smidgen, tmp_path):
    fill(tmp_path / "data/train", per_class=8)
    fill(tmp_path / "data/test", per_class=2)
    found = smidgen("check", tmp_path / "data", "--clusters", 3, "--json").json
    assert found["splits"] == {"test": 6, "train": 24}
    assert found["sizes"] == [{"width": 8, "height": 8, "images": 30}]
    assert found["classes"] == {"black": 10, "grey": 10, "white": 10}
    assert ["test/black/0.png", "train/black/0.png"] in found["duplicates"]
    assert any("in both train and test" in sentence for sentence in found["advice"])
    assert found["refusals"] == []


def test_check_names_the_bad_and_says_that_fit_would_refuse(smidgen, photos):
    for k in range(10):
        (photos / "black" / f"bad{k}.jpg").write_text("not an image")
    (photos / "notes.txt").write_text("hello")
    said = smidgen("check", photos)
    assert said.code == 2
    assert "10: not an image" in said.out
    assert "`--allow-bad 0.15`" in said.out
    assert "1 file of other kinds" in said.out


def test_check_counts_images_against_clusters(smidgen, photos):
    assert "60 images cannot make 61 clusters" in smidgen("check", photos, "--clusters", 61).out
    assert "few for 10 clusters" in smidgen("check", photos, "--clusters", 10).out


def test_check_refuses_what_is_not_there(smidgen, tmp_path):
    assert "There is no file or folder" in smidgen("check", tmp_path / "nowhere").refusal()
