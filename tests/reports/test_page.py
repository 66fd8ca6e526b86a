"""The report page: what it says, that it needs nothing else, and that no name can harm it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from report_samples import METRICS, Fake, digits_run, png, write_run, write_story, write_thumbnails

from smidgen.cli.main import VERBS
from smidgen.cli.parsing import Parser
from smidgen.errors import InputError, RunError
from smidgen.reports.page import compare_page, gallery_rows, write_page

HOSTILE = [
    "</script><script>alert(1)</script>", "\" onload='alert(2)", "a\nb.png", "🦋 ünï.png", "cat\u202egnp.exe",
    "<img src=x onerror=alert(3)>", "{{ 7 * 7 }}", "=cmd|' /C calc'!A0", "x" * 255, "--",
]  # fmt: skip


class Tags(HTMLParser):
    """All start tags of a page with their attributes, and the texts of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append((self.tags[-1][1], data))


@pytest.fixture(scope="module")
def page(digits_folder: Path) -> str:
    return write_page(digits_folder).read_text()


def map_data(page: str) -> dict:
    return json.loads(next(text for attributes, text in Tags(page).scripts if attributes.get("id") == "data"))


def test_page_shows_the_figures_of_metrics_json(page: str) -> None:
    for text in (
        "81.2 %",
        "95 % interval 78.0–84.0",
        "0.765",
        "0.760",
        "0.699",
        "1,234 MB",
        "1 min 23 s",
        "Accuracy, test",
    ):
        assert text in page


def test_page_shows_what_ran_and_what_was_noticed(page: str) -> None:
    for text in ("no evidence", "clusters carry numbers, not names", "smidgen fit digits --out runs/digits --seed 3",
                 "holds above half", "heads, step 150", "broken.png", "truncated file", "The first 50 of 80 rows",
                 "Trained on", "small-cnn", "python 3.11.7", "fusion-images, chosen by fusion: they are"):  # fmt: skip
        assert text in page
    assert "Withdrawn later" not in page


def test_page_asks_the_network_for_nothing(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://", page)


def test_policy_admits_only_the_page_s_own_script(page: str) -> None:
    parsed = Tags(page)
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv"))
    [own] = [text for attributes, text in parsed.scripts if not attributes]
    assert policy is not None
    assert f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_same_run_gives_the_same_page(digits_folder: Path, page: str, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_folder, tmp_path / digits_folder.name)
    assert write_page(copy).read_text() == page


def test_map_holds_every_image_of_a_small_run(page: str) -> None:
    data = map_data(page)
    assert data["row"] == list(range(300))
    assert min(data["x"]) >= 0
    assert max(data["x"] + data["y"]) == 1000
    assert [name for name, *_ in data["clusters"]] == [f"cluster {k}" for k in range(10)]


def test_the_legend_counts_all_images_not_only_those_on_the_map(digits_folder: Path) -> None:
    data = map_data(write_page(digits_folder, map_points=40).read_text())
    assert len(data["row"]) == 40
    assert sum(n for *_, n in data["clusters"]) == sum(n for *_, n in data["classes"]) == 300


def test_gallery_rows_are_those_that_the_page_shows(digits_folder: Path, page: str) -> None:
    shown = {int(a["data-row"]) for _, a in Tags(page).tags if a.get("data-row")}
    rows = gallery_rows(digits_folder)
    assert shown <= set(rows.tolist())
    assert shown | set(map_data(page)["row"]) == set(rows.tolist())
    assert 'class="blank"' not in page


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    fake = digits_run(40)
    fake.images = [HOSTILE[i % 10] + str(i) for i in range(40)]
    fake.clusters = [HOSTILE[int(c)] for c in fake.clusters]
    assert fake.classes
    fake.classes = [HOSTILE[int(c)] for c in fake.classes]
    folder = write_run(tmp_path, fake, metrics={"test_accuracy": 0.5, "alarms": HOSTILE})
    write_story(folder)
    (folder / "tables" / "bags.csv").write_text("<b>x</b>,</script>\n" + ",".join(["<script>", "a\u202eb"]) + "\n")
    page = write_page(folder, layout="pca").read_text()
    parsed = Tags(page)
    assert len([tag for tag, _ in parsed.tags if tag == "script"]) == 3
    assert not [a for _, a in parsed.tags if any(name.startswith("on") for name in a)]
    assert not {"\u202e", "\u2028"} & set(page)
    assert "{{ 7 * 7 }}" in page
    assert "🦋" in page
    assert "a\\nb.png" in page
    assert HOSTILE[0] in map_data(page)["id"][0]


def test_page_stays_below_ten_megabytes(tmp_path: Path) -> None:
    n, rng = 5000, np.random.default_rng(0)
    pictures = [png(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)) for _ in range(5)]
    fake = Fake(
        images=[f"{i:0200d}" for i in range(n)], splits=["all"] * n, clusters=[str(i % 40) for i in range(n)],
        confidence=rng.uniform(0.1, 1, n).tolist(), classes=None,
        embeddings=rng.normal(size=(n, 4)).astype(np.float32), pixels=np.zeros(0),
    )  # fmt: skip
    folder = write_run(tmp_path, fake)
    write_thumbnails(folder, {int(row): pictures[row % 5] for row in gallery_rows(folder)})
    page = write_page(folder, layout="pca")
    assert 4_000_000 < page.stat().st_size <= 10_000_000
    assert page.read_text().count("data:image/") > 1000


def test_page_of_one_image_without_anything_known(tmp_path: Path) -> None:
    fake = Fake(["a.png"], ["all"], ["0"], [""], None, None, np.zeros(0))
    page = write_page(write_run(tmp_path, fake)).read_text()
    assert "1 image" in page
    assert "1 cluster<" in page
    assert '<p class="names"><bdi>a.png</bdi></p>' in page
    assert not re.search(
        r"nan|None|undefined|Accuracy|Confusion|id=\"points\"", re.sub(r"<script>.*", "", page, flags=re.S)
    )


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_page_of_few_images(tmp_path: Path, n: int) -> None:
    fake = digits_run(max(n, 1))
    for name in ("images", "splits", "clusters", "confidence", "classes", "embeddings"):
        setattr(fake, name, getattr(fake, name)[:n])
    page = write_page(write_run(tmp_path, fake, metrics={"n_images": n, "n_clusters": 10})).read_text()
    assert ('id="points"' in page) == (n > 0)


def test_page_without_classes_says_no_scores(tmp_path: Path) -> None:
    fake = digits_run(60)
    fake.classes = None
    page = write_page(write_run(tmp_path, fake, metrics={"n_clusters": 12}), layout="pca").read_text()
    for word in ("Accuracy", "NMI", "Mistakes", "purity", "data-mode"):
        assert word not in page.split("<body>")[1].split("<script>")[0]
    assert "2 more are empty" in page


def test_the_page_says_what_to_do_next_with_commands_that_exist(tmp_path: Path) -> None:
    fake = digits_run(20)
    fake.classes = None
    folder = write_run(tmp_path, fake, thumbnails={0: png(fake.pixels[0])})
    commands = re.findall(r"<dd><code>(smidgen [^<]+)</code>", write_page(folder, layout="pca").read_text())
    assert len(commands) == 4
    for command in commands:
        _, verb, *arguments = command.split()
        parser = Parser(prog=verb, description="")
        module = import_module(VERBS[verb][0])
        module.add_arguments(parser)
        parser.parse(arguments)  # refuses what it does not know
    (folder / "thumbnails.parquet").unlink()  # ready embeddings: nothing to sort into folders
    assert "--to folders" not in write_page(folder, layout="pca").read_text()


def test_many_clusters_are_folded_away_after_the_first(tmp_path: Path) -> None:
    fake = digits_run(120)
    fake.clusters = [str(i % 30) for i in range(120)]
    page = write_page(write_run(tmp_path, fake), layout="pca").read_text()
    first, rest = page.split('id="clusters"')[1].split("</section>")[0].split("<details")
    assert (first.count("<article"), rest.count("<article")) == (24, 6)


def test_embeddings_are_described_by_their_length_and_named_not_pictured(tmp_path: Path) -> None:
    folder = write_run(tmp_path, digits_run(30))
    (folder / "manifest.json").write_text(json.dumps({"data": {"name": "e.npz", "shape": [1280, 1, 1]}}))
    page = write_page(folder, layout="pca").read_text()
    assert "1,280 numbers each" in page
    assert "1 × 1" not in page
    assert 'class="blank"' not in page
    assert 'class="names"' in page


def test_a_path_given_as_data_is_no_title(tmp_path: Path) -> None:
    folder = write_run(tmp_path, digits_run(20))
    for name in ("/home/me/holiday photos/", "holiday photos"):
        (folder / "manifest.json").write_text(json.dumps({"data": {"name": name}}))
        assert "<h1><bdi>holiday photos</bdi></h1>" in write_page(folder, layout="pca").read_text()


def test_images_of_one_split_are_not_called_training_images(tmp_path: Path) -> None:
    fake = digits_run(20)
    fake.splits = ["train"] * 20
    assert "<span>20 images</span>" in write_page(write_run(tmp_path, fake), layout="pca").read_text()


def test_damaged_thumbnails_become_placeholders(tmp_path: Path) -> None:
    fake = digits_run(30)
    stored = dict.fromkeys(range(30), b"<svg onload=alert(1)>")
    stored |= {0: b"\xff\xd8\xff" + b"x" * 5000, 1: png(fake.pixels[1])}
    page = write_page(write_run(tmp_path, fake, thumbnails=stored), layout="pca").read_text()
    assert "alert" not in page
    assert {a["data-row"] for t, a in Tags(page).tags if t == "img"} == {"1"}


def test_clusters_with_names_are_judged_by_name(tmp_path: Path) -> None:
    fake = digits_run(60)
    fake.clusters, fake.classes = ["cat"] * 30 + ["dog"] * 30, ["dog"] * 20 + ["cat"] * 40
    fake.splits = ["train"] * 60
    metrics = {"train_named_accuracy": 1 / 6, "train_accuracy": 5 / 6}
    page = write_page(write_run(tmp_path, fake, metrics=metrics), layout="pca").read_text()
    assert "Clusters carry the names of classes." in page
    assert "50 images; the most frequent" in page
    assert "not names" not in page


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        write_page(tmp_path)


def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, digits_run(20))
    np.save(folder / "embeddings.npy", np.zeros((19, 4), np.float32))
    with pytest.raises(RunError, match=r"shape \(19, 4\).*20 rows"):
        write_page(folder)


def test_comparison_shows_runs_side_by_side(digits_folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "<b>other", digits_run(20), metrics=METRICS | {"test_accuracy": 0.9, "test_nmi": 0.1})
    (other / "config.toml").write_text('seed = 4\n[method]\nname = "kmeans"\nlearning_rate = 0.003\n')
    page = compare_page([digits_folder, other], tmp_path / "compare.html").read_text()
    assert "<b>0.9000</b> <small>0.7801–0.8402</small>" in page
    assert "<b>0.7654</b>" in page
    assert "&lt;b&gt;other" in page
    assert "kmeans" in page
    assert "learning_rate" not in page


def test_runs_on_different_images_are_not_ranked(digits_folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", digits_run(20), metrics=METRICS | {"test_accuracy": 0.9})
    (other / "manifest.json").write_text('{"data": {"fingerprint": "another"}}')
    page = compare_page([digits_folder, other], tmp_path / "compare.html").read_text()
    assert "cannot be compared" in page
    assert "<b>" not in page


def test_comparison_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run"):
        compare_page([], tmp_path / "compare.html")
