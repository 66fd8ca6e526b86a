"""The plan of a fit: the same one that `fit` goes by, with nothing written."""

import json

from smidgen import Config, Evidence
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.setup.plan import make_plan


class Hearing(Listener):
    """Remembers what is said."""

    def __init__(self):
        self.said = []

    def log(self, text):
        self.said.append(text)


def test_a_plan_is_that_of_the_fit_and_says_the_same():
    config = Config("digits", method="supervised", threads=1, issues=False, options={"steps": 2})
    known = Evidence(labels=(("train/00000", "0"), ("train/00001", "1")))
    planning, fitting = Hearing(), Hearing()
    plan = make_plan(config, evidence=known, listener=planning)
    outcome = fit(config, evidence=known, listener=fitting)
    assert plan.config == outcome.config
    assert fitting.said[: len(planning.said)] == planning.said
    assert any(said.startswith("Evidence: 2 labels") for said in planning.said)


def test_its_summary_is_json_that_counts_both_splits():
    summary = make_plan(Config("digits", threads=1), listener=Listener()).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["train_images"], summary["test_images"], summary["n_clusters"]) == (1438, 359, 10)
    assert summary["stages"]
    assert summary["parameters"] > 0
