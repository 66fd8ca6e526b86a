"""Partial labels: an image is of one of a set of classes; and what it takes to add a kind of evidence."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from smidgen.cli.main import main
from smidgen.errors import InputError
from smidgen.evaluation.explained import explain
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility
from smidgen.evidence.kinds import KINDS
from smidgen.evidence.simulation import Simulation, simulate
from smidgen.evidence.terms import EvidenceTerms

IDS = ["a.png", "b.png", "c.png", "d.png"]


def resolved(sets, n_clusters=None):
    return Evidence.from_partial_labels(sets, ids=IDS[: len(sets)]).resolve(IDS, n_clusters=n_clusters)


def test_a_file_has_a_row_for_each_class_of_a_set(tmp_path):
    file = tmp_path / "partial.csv"
    file.write_text("path,class\na.png,cat\nc.png,dog\na.png,dog\nb.png,\n")
    evidence = Evidence.from_files(partial=file)
    assert evidence.sizes() == {"partial": 2}
    known = evidence.resolve(IDS)
    assert known.class_names == ("cat", "dog")
    assert known.partial_images.tolist() == [0, 2]
    assert known.partial_sets.tolist() == [[True, True], [False, True]]
    written = evidence.to_files(tmp_path / "again")
    assert Evidence.from_files(**written).partial == evidence.partial


@pytest.mark.parametrize(
    ("value", "classes"),
    [
        (["cat", "dog"], ("cat", "dog")),
        ({"dog", "cat"}, ("cat", "dog")),
        (np.array([2, 1]), ("2", "1")),
        ("cat", ("cat",)),
        (3.0, ("3",)),
        (("cat", "cat"), ("cat",)),
        ([], ()),
        (None, ()),
        (np.nan, ()),
    ],
)
def test_sets_of_python_in_every_form(value, classes):
    assert tuple(name for _, name in Evidence.from_partial_labels([value]).partial) == classes
    assert tuple(name for _, name in Evidence.from_partial_labels({"x.png": value}).partial) == classes


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([["cat", None]], "entry 1: None does not name a class"),
        ([[["cat"]]], "entry 1: a class must be a single text or number"),
        ("cat", "`sets` must be a list"),
    ],
)
def test_what_is_no_set_is_refused(sets, message):
    with pytest.raises(InputError, match=message):
        Evidence.from_partial_labels(sets)


def test_the_loss_is_that_of_the_mass_of_the_set():
    terms = EvidenceTerms(resolved([["a", "b"], ["c"]]), 4, epsilon=0.1, statements=8)
    request = terms.request(torch.Generator().manual_seed(0), view=None)["partial"]
    assert set(request.indices.tolist()) <= {0, 1}
    p = torch.tensor([0.2, 0.3, 0.4, 0.1]).expand(8, 4)
    by_hand = [0.9 * (0.5 if row == 0 else 0.4) + 0.1 * (2 if row == 0 else 1) / 4 for row in request.indices.tolist()]
    from smidgen.data.batches import Part

    part = Part(torch.zeros(8, 1), request.indices, items=request.items)
    loss = terms.losses({"partial": part}, {"partial": p})["partial"]
    assert loss.item() == pytest.approx(-np.log(by_hand).mean(), rel=1e-6)


def test_contradictions_and_what_stays_open_are_said():
    def texts(evidence, n_clusters=3):
        return " ".join(map(str, feasibility(evidence.resolve(IDS, n_clusters=n_clusters), n_clusters)))

    sets = Evidence.from_partial_labels([["a", "b"], ["a", "b"], ["c"]], ids=IDS[:3])
    assert "do not tell them apart: a and b" in texts(sets)
    assert "against partial labels" not in texts(sets | Evidence.from_labels({"a.png": "a"}))
    assert "1 label against partial labels" in texts(sets | Evidence.from_labels({"a.png": "c"}))
    assert "name all 3 classes" in texts(sets | Evidence.from_partial_labels({"d.png": ["a", "b", "c"]}))
    different = Evidence.from_pairs(different=[("a.png", "b.png"), ("a.png", "d.png"), ("b.png", "d.png")])
    also = Evidence.from_partial_labels({"d.png": ["b", "a"]})
    assert "No assignment of the images to 3 clusters fits 3 pairs" in texts(sets | different | also)
    assert "No assignment" not in texts(sets | different)


def test_explained_sets_without_the_cluster_come_first():
    known = resolved([["a", "b"], ["b", "c"], ["c"]])
    p = np.full((4, 3), 0.01) + 0.97 * np.eye(3)[[0, 0, 2, 1]]
    table = explain(p, known, image_ids=IDS, cluster_names=["a", "b", "c"]).tables["partial"]
    assert (table["image"][0], table["label"][0], table["predicted"][0]) == ("b.png", "b or c", "a")
    assert table["agrees"] == [0, 1, 1]
    assert table["wrong_probability"][0] > max(table["wrong_probability"][1:])


def test_simulated_sets_hold_the_class_but_for_errors():
    classes = np.arange(400) % 10
    ids, names = [str(i) for i in range(400)], [str(k) for k in range(10)]

    def sets(**settings):
        found, _ = simulate(
            Simulation(partial=3, **settings), classes, ids=ids, class_names=names, generator=np.random.default_rng(0)
        )
        return found.resolve(ids, class_names=names)

    known = sets()
    assert known.partial_images.tolist() == list(range(400))
    assert known.partial_sets.sum(1).tolist() == [3] * 400
    assert known.partial_sets[torch.arange(400), torch.from_numpy(classes)].all()
    some = sets(partial_fraction=0.25, wrong=0.2)
    assert len(some.partial_images) == 100
    right = some.partial_sets[torch.arange(100), torch.from_numpy(classes)[some.partial_images]].float().mean()
    assert 0.7 < right < 0.9


def test_the_command_line_simulates_checks_and_refuses(tmp_path, capsys):
    from PIL import Image

    for k, name in enumerate(("black", "grey", "white")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), 100 * k + i).save(tmp_path / "photos" / name / f"{i}.png")
    photos, out = str(tmp_path / "photos"), str(tmp_path / "known")
    assert main(["simulate", photos, "--partial", "2", "--out", out, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == {"partial": 24}
    assert main(["check", photos, "--clusters", "3", "--partial", f"{out}/partial.csv", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"]["sizes"] == {"partial": 24}
    assert main(["check", photos, "--clusters", "3", "--partial", f"{out}/partial.csv", "--quiet"]) == 0
    assert "24 partial labels" in capsys.readouterr().out
    fit = ["fit", photos, "--clusters", "3", "--partial", f"{out}/partial.csv", "--out", str(tmp_path / "run")]
    assert main([*fit, "--method", "supervised", "--quiet"]) == 2
    assert "needs labels" in capsys.readouterr().err


def test_kinds_are_known_to_reports_and_the_command_line_without_torch():
    code = (
        "import sys, smidgen.cli.evidence, smidgen.reports.evidence;"
        " from smidgen.evidence.kinds import all_kinds; names = [kind.name for kind in all_kinds()];"
        " assert 'torch' not in sys.modules; print(*names)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == list(KINDS)


def test_partial_labels_name_clusters_and_are_learned_from():
    digits = load_digits()
    names = [str(k) for k in range(10)]
    ids = [str(i) for i in range(600)]
    evidence, _ = simulate(
        Simulation(partial=3), digits.target[:600], ids=ids, class_names=names, generator=np.random.default_rng(0)
    )
    terms = EvidenceTerms(evidence.resolve(ids, n_clusters=10), 10)
    order = np.random.default_rng(1).permutation(10)
    p = torch.from_numpy(np.eye(10)[order[digits.target[:600]]])
    assert terms.class_evidence(p).argmax(0).tolist() == order.tolist()
