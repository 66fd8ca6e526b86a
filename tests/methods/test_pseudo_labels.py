"""Pseudo-labels: other images get them as training images do, and a training records how they fare."""

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_IMAGES, VECTORS, begun, floats, make, train
from sklearn.metrics import normalized_mutual_info_score
from torch.nn import functional as F

from smidgen.config import Config
from smidgen.csv_tables import read_csv
from smidgen.fitting import fit
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer
from smidgen.training.monitors.relabelling import RelabellingMonitor, agreement

KINDS = [
    ("deepcluster", IMAGES, {"groups": 6}),
    ("deepcluster", IMAGES, {"preset": "v2", "groups": 6}),
    ("deepcluster", VECTORS, {"groups": 6, "encoder": "vectors"}),
    ("sela", IMAGES, {"heads": 3}),
    ("sela", VECTORS, {"heads": 2, "groups": 6, "encoder": "vectors"}),
]


@pytest.mark.parametrize(("name", "images", "options"), KINDS)
def test_after_a_relabelling_training_images_would_be_labelled_as_they_are(name, images, options):
    method = begun(name, images, **options).eval()
    found = method.pseudo_labels()
    assert found.labels.shape[1] == N_IMAGES
    assert found.labels.max() < found.n_labels
    with torch.no_grad():
        assert found.label(floats(images)).T.equal(found.labels)
        assert found.predict(floats(images)).shape == (N_IMAGES, len(found.labels), found.n_labels)


def test_at_the_end_groups_are_where_their_images_are():
    method = train(make("deepcluster", groups=6, components=6, steps=12, relabellings=2, batch_size=32))
    points = F.normalize(method.clusters.project(method.encode(floats(IMAGES))) * method.whitening, dim=1).detach()
    means = torch.stack([points[method.labels == k].mean(0) for k in range(6)])
    torch.testing.assert_close(method.group_centroids, means, atol=1e-3, rtol=0)
    with torch.no_grad():
        found = method.pseudo_labels().label(floats(IMAGES))[:, 0]
    assert found.equal(torch.cdist(points, means).argmin(1))


def test_images_are_labelled_by_the_nearest_prototype_where_no_labels_are_kept():
    method = make("swav", prototypes=7).eval()
    found = method.pseudo_labels()
    assert found.labels is None
    with torch.no_grad():
        nearest = method.scores(method.project(floats(IMAGES))).argmax(1)
        assert found.label(floats(IMAGES)).squeeze(1).equal(nearest)


def test_a_method_that_keeps_no_labels_gets_no_rows():
    monitor = RelabellingMonitor(CLASSES, IMAGES, seed=0, device=torch.device("cpu"))
    monitor.after_begin(make("swav"), None, 0)
    assert monitor.columns() == {}


def test_agreement_by_hand():
    labels, classes = np.array([[0, 0, 0, 0, 2, 2], [0, 0, 1, 1, 2, 2]]), np.array([0, 0, 1, 1, 2, -1])
    found = agreement(labels, classes, n_labels=3)
    # Entropies: 1 bit and 0 of the first head, 0, 0 and 0 of the second.
    assert (found["class_entropy_low"], found["class_entropy"], found["class_entropy_high"]) == (0, 0, 0)
    first = normalized_mutual_info_score(classes[:5], labels[0, :5])
    assert found["nmi_classes"] == pytest.approx((first + 1) / 2)
    assert agreement(labels[:1], classes, n_labels=3)["class_entropy"] == 0.5


def trained(tmp_path=None, *, steps_before_stop=None):
    method = make("deepcluster", groups=6, steps=12, relabellings=3, batch_size=32)
    monitor = RelabellingMonitor(CLASSES[:100], IMAGES[100:], seed=0, device=torch.device("cpu"))
    monitor.seen = []
    add = monitor.after_step

    def after_step(moment):
        if moment.step == steps_before_stop:
            raise KeyboardInterrupt
        monitor.seen.append(moment.losses["total"])
        add(moment)

    monitor.after_step = after_step
    checkpoints = Checkpoints(tmp_path, log=print) if tmp_path else None
    trainer = Trainer(method, IMAGES[:100], Settings(checkpoint_every=3), callbacks=[monitor], checkpoints=checkpoints)
    try:
        trainer.train()
    except KeyboardInterrupt:
        return None
    return method, monitor


@pytest.fixture(scope="module")
def whole():
    return trained()


def test_each_relabelling_has_a_row_with_the_mean_loss_until_the_next(whole):
    method, monitor = whole
    columns = monitor.columns()
    losses = np.array(monitor.seen).reshape(3, 4).mean(1)
    np.testing.assert_allclose(columns["training_loss"], losses, rtol=1e-6)
    assert len(method.history) == len(columns["nmi_classes"]) == 3
    last = normalized_mutual_info_score(CLASSES[:100], method.labels)
    assert columns["nmi_classes"][-1] == pytest.approx(last)


def test_the_validation_loss_is_of_the_labels_from_before_and_the_net_from_after(whole):
    method, monitor = whole
    held = torch.tensor(monitor._held_labels)
    with torch.no_grad():
        logits = method.eval().pseudo_labels().predict(floats(IMAGES[100:]))[:, 0]
    expected = float(F.cross_entropy(logits, held[:, 0]))
    assert monitor.columns()["validation_loss"][-1] == pytest.approx(expected, rel=1e-5)


def test_a_training_that_is_killed_records_the_same(whole, tmp_path):
    assert trained(tmp_path, steps_before_stop=8) is None
    _, monitor = trained(tmp_path)
    for name, values in whole[1].columns().items():
        assert values.tolist() == monitor.columns()[name].tolist(), name


def test_a_run_keeps_the_records_and_the_labels(tmp_path):
    for name, rows in {"train": slice(100), "test": slice(100, None)}.items():
        np.savez(tmp_path / f"{name}.npz", images=IMAGES[rows, 0], labels=CLASSES[rows])
    options = {"preset": "small", "groups": 6, "steps": 6, "relabellings": 2, "batch_size": 32}
    files = {"data": str(tmp_path / "train.npz"), "test": str(tmp_path / "test.npz")}
    config = Config(**files, method="deepcluster", n_clusters=4, options=options)
    outcome = fit(config, out=tmp_path / "run")
    table = read_csv(tmp_path / "run" / "tables" / "relabellings.csv")
    assert [float(v) > 0 for v in table["validation_loss"] + table["training_loss"]] == [True] * 4
    labels = read_csv(tmp_path / "run" / "tables" / "pseudo_labels.csv")
    assert labels["image"] == read_csv(tmp_path / "run" / "assignments.csv")["image"]
    assert [int(label) for label in labels["label"][:100]] == outcome.model.method.labels.tolist()
    assert max(map(float, labels["entropy"])) <= np.log2(6) + 1e-4
