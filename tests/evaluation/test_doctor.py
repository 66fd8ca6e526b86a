"""The doctor: each way of getting stuck raises its own alarm, once; healthy and recovered trainings end without."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from smidgen import recipe
from smidgen.config import Config
from smidgen.evaluation.doctor import Doctor, collapse_alarms
from smidgen.methods.base import Stage
from smidgen.prepare import Listener
from smidgen.runs import RunFolder
from smidgen.training.callbacks import Moment

STEPS = 600
LN4 = math.log(4)


def hard(sizes):
    return np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)]


HEALTHY = hard([50] * 4)


def even(n=200, k=4):
    return np.full((n, k), 1 / k)


# ----------------------------------------------------------------------------------------------- assignments alone


@pytest.mark.parametrize(
    ("assignments", "kind", "message"),
    [
        (np.full((50, 4), 0.25), "even", "equally likely in every cluster"),
        (np.full((50, 4), 0.25) + 1e-4 * np.eye(4)[np.arange(50) % 4], "even", "equally likely"),
        (hard([50, 0, 0]), "one", "All images are in one cluster"),
        (hard([50, 0]), "one", "All images are in one cluster"),
        (hard([60, 20, 20]), "large", "Cluster 0 holds 60% of the images"),
        (hard([40, 40, 0]), "empty", "1 of 3 clusters are empty (2)"),
    ],
)
def test_a_collapse_is_said_with_a_remedy(assignments, kind, message):
    alarms = collapse_alarms(assignments)
    assert message in alarms[kind]
    assert all(any(remedy in alarm for remedy in ("raise", "lower", "ask for")) for alarm in alarms.values())


@pytest.mark.parametrize(
    "assignments",
    [hard([10, 10, 10]), hard([90, 10]), hard([4]), hard([1, 1, 0]), np.full((5, 1), 1.0), hard([30, 40, 30])],
)
def test_healthy_clusters_raise_none(assignments):
    assert collapse_alarms(assignments) == {}


def test_only_options_that_the_method_has_are_advised():
    (alarm,) = collapse_alarms(hard([50, 0, 0]), options=("learning_rate",)).values()
    assert "`learning_rate`" in alarm
    assert "`balance`" not in alarm


def test_early_on_even_assignments_mean_nothing_but_equal_ones_do():
    nearly = even() + 1e-4 * np.eye(4)[np.arange(200) % 4]
    assert collapse_alarms(nearly, early=True) == {}
    assert collapse_alarms(even(), early=True).keys() == {"one"}


# --------------------------------------------------------------------------------------------------- whole courses


class Course:
    """A training of 600 steps whose losses and assignments are functions of the share of it that is done."""

    def __init__(self, *, uninformed=None, steps=STEPS, options=None):
        self.said, self.lines, self.total = [], [], 0
        self.doctor = Doctor(self.said.append, options=options)
        self.doctor.restore({})
        self.method, self.steps = SimpleNamespace(uninformed=uninformed or {}), steps
        self.noise = np.random.default_rng(0)

    def run(self, losses, assignments=lambda t: HEALTHY, *, stage="train", until=None, start=0):
        at = Stage(stage, self.steps)
        if start == 0:
            self.doctor.before_begin(at, 0)
        for step in range(start + 1, (until or self.steps) + 1):
            self.total += 1
            t = step / self.steps
            noisy = {name: value + 0.02 * self.noise.normal() for name, value in losses(t).items()}
            looked = assignments(t) if step % 100 == 0 or step == self.steps else None
            moment = Moment(self.method, at, step, self.total, noisy, 0.1, 0.0, assignments=looked)
            self.doctor.after_step(moment)
            if "alarms" in moment.extras:
                self.lines.append((step, moment.extras["alarms"]))
        return self


def falling(t, *, start=3.0, end=0.3):
    return end + (start - end) * math.exp(-8 * t)


def test_a_healthy_course_raises_nothing():
    course = Course(uninformed={"counts": LN4, "labels": math.log(10)})
    course.run(lambda t: {"total": falling(t) - 5, "counts": falling(t), "labels": falling(t, start=2.3)})
    course.run(lambda t: {"total": 0.3, "counts": 0.3, "labels": 0.1}, stage="refine")  # nothing left to be learned
    assert course.said == course.lines == course.doctor.final(HEALTHY) == []


def test_counts_at_their_plateau_are_said_after_a_fifth_of_the_stage_and_once():
    course = Course(uninformed={"ucc": LN4}).run(lambda t: {"total": LN4, "ucc": LN4}, lambda t: hard([50] * 4))
    assert len(course.said) == 1
    assert "The unique counts teach nothing yet (their loss is 1.3" in course.said[0]
    assert "without looking at the images it is ln 4 = 1.39" in course.said[0]
    assert "`--init-from RUN`" in course.said[0]
    assert STEPS / 5 <= course.lines[0][0] <= STEPS / 4
    assert course.doctor.final(HEALTHY) == course.said


def test_evidence_that_is_ignored_while_the_rest_is_learned():
    course = Course(uninformed={"labels": math.log(10)}, options=("evidence",))
    course.run(lambda t: {"total": falling(t), "labels": 2.32})
    assert "The loss falls, but the labels are ignored" in course.said[0]
    assert "ln 10 = 2.30): raise `evidence`" in course.said[0]


def test_evidence_that_is_on_its_way_down_is_left_alone():
    course = Course(uninformed={"counts": LN4}).run(lambda t: {"total": 3 - 2 * t, "counts": 3.5 - 3.3 * t})
    assert course.said == []


def test_counts_that_unformed_clusters_contradict_are_given_time():
    """As on MNIST: at first every bag seems to hold four classes, which half of the stage puts right."""
    course = Course(uninformed={"counts": LN4})
    course.run(lambda t: {"total": falling(t), "counts": 2.75 - max(0.0, t - 0.35) * 2.2})
    assert course.said == []
    stays = Course(uninformed={"counts": LN4}).run(lambda t: {"total": falling(t), "counts": 2.75})
    assert "are ignored (their loss is 2.7" in stays.said[0]
    assert stays.lines[0][0] >= STEPS / 2


def test_a_kind_that_comes_late_gets_its_fifth_of_the_stage():
    def losses(t):
        return {"total": falling(t)} | ({"labels": 2.3} if t > 0.6 else {})

    course = Course(uninformed={"labels": 2.3}).run(losses)
    assert 0.8 * STEPS <= course.lines[0][0] <= 0.85 * STEPS


def test_an_alarm_is_withdrawn_when_it_no_longer_holds():
    course = Course(uninformed={"counts": LN4})
    course.run(lambda t: {"total": falling(t), "counts": LN4 if t < 0.5 else falling(t - 0.5)})
    assert len(course.said) == 2
    assert course.said[1] == "No longer so: The loss falls, but the unique counts are ignored" + course.said[0][
        course.said[0].index(" (") : course.said[0].index("):") + 1] + "."  # fmt: skip
    assert course.lines[-1][1] == course.doctor.final(HEALTHY) == []


def test_a_collapse_on_the_way_is_said_and_withdrawn():
    course = Course().run(lambda t: {"total": falling(t)}, lambda t: hard([200, 0, 0, 0]) if t < 0.6 else HEALTHY)
    assert [text.partition(":")[0] for text in course.said] == ["All images are in one cluster", "No longer so"]
    assert course.doctor.final(HEALTHY) == []


def test_a_collapse_that_stays_is_in_the_end_as_it_then_is():
    course = Course().run(lambda t: {"total": falling(t)}, lambda t: hard([110, 30, 30, 30]))
    assert "Cluster 0 holds 55% of the images" in course.said[0]
    (alarm,) = course.doctor.final(hard([120, 30, 25, 25]))
    assert "Cluster 0 holds 60% of the images" in alarm


def test_a_cluster_that_grows_is_said_before_it_holds_half():
    course = Course().run(
        lambda t: {"total": falling(t)}, lambda t: hard([round(200 * (0.1 + 0.6 * t))] + [20] * 9), until=400
    )
    assert any("Cluster 0 grows, from" in text for text in course.said)
    course.run(lambda t: {"total": falling(t)}, lambda t: hard([20] * 10), start=400)
    assert course.doctor.final(hard([20] * 10)) == []


def test_a_loss_that_does_not_fall_is_said_where_nothing_is_decided():
    unsure = 0.3 * HEALTHY + 0.7 * even()
    course = Course().run(lambda t: {"total": 2.0}, lambda t: unsure)
    assert "The loss has not fallen since stage 'train' began (2" in course.said[0]
    assert course.doctor.final(unsure) == course.said
    assert Course().run(lambda t: {"total": 2.0}, lambda t: HEALTHY).said == []  # warm start: nothing left to learn


def test_even_assignments_are_one_alarm_not_two():
    course = Course().run(lambda t: {"total": 2.0}, lambda t: even())
    assert [text.partition(",")[0] for text in course.said] == ["Every image is equally likely in every cluster"]


def test_a_loss_that_climbs_is_said_at_once_and_withdrawn_when_it_comes_back():
    course = Course().run(lambda t: {"total": 1 + 40 * t}, until=120)
    assert "The loss climbs, from 1." in course.said[0]
    assert course.lines[0][0] <= 100
    course.run(lambda t: {"total": 0.5}, start=120)
    assert course.doctor.final(HEALTHY) == []


def test_a_halved_learning_rate_is_remembered_to_the_end():
    course = Course().run(lambda t: {"total": falling(t)}, until=150)
    state = json.loads(json.dumps(course.doctor.state()))
    course.run(lambda t: {"total": falling(t)}, start=150, until=160)
    course.doctor.restore(state)  # as the loop does when a step diverges
    course.run(lambda t: {"total": falling(t)}, start=150)
    (alarm,) = course.doctor.final(HEALTHY)
    assert "the learning rate is 2 times lower since" in alarm
    fresh = Doctor()
    fresh.restore(state)  # another process that resumes
    assert fresh.final(HEALTHY) == []


def test_what_was_said_is_not_said_again_after_a_resume():
    losses = {"total": LN4, "counts": LN4}
    whole, first = (Course(uninformed={"counts": LN4}) for _ in range(2))
    whole.run(lambda t: losses)
    first.run(lambda t: losses, until=200)
    state = json.loads(json.dumps(first.doctor.state()))
    first.doctor = Doctor(first.said.append)
    first.doctor.restore(state)
    first.run(lambda t: losses, start=200)
    assert first.said == whole.said
    assert first.lines == whole.lines
    assert first.doctor.state() == whole.doctor.state()


def test_very_short_trainings_are_left_alone():
    course = Course(uninformed={"counts": LN4}, steps=40).run(lambda t: {"total": 2.0, "counts": LN4}, lambda t: even())
    assert course.said == []
    nearly = even() + 1e-4 * np.eye(4)[np.arange(200) % 4]
    assert course.doctor.final(nearly) == []
    assert "All images are in one cluster" in course.doctor.final(even())[0]
    assert "nothing has been learned" in Doctor().final(even())[0]  # a method without steps, like k-means


# ------------------------------------------------------------------------------------------------------ whole fits


class Hearing(Listener):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def _no_report(monkeypatch):
    monkeypatch.setattr(recipe, "write_thumbnails", lambda run, datasets: None)
    monkeypatch.setattr(recipe, "write_issues", lambda run, datasets, progress: None)


def digits(tmp_path, **options):
    from smidgen.data.evidence import Evidence

    rows = np.arange(0, 1400, 7)
    names = {f"train/{row:05d}": str(k) for row, k in zip(rows, _digit_classes()[rows], strict=True)}
    hearing = Hearing()
    config = Config("digits", threads=1, precision="float32",
                    options={"heads": 2, "steps": 60, "refine_steps": 60, "batch_size": 64} | options)  # fmt: skip
    outcome = recipe.fit(config, evidence=Evidence(labels=tuple(names.items())), out=tmp_path / "run", listener=hearing)
    return outcome, hearing.said, (tmp_path / "run" / "report.html").read_text()


def _digit_classes():
    from smidgen.data.datasets import open_dataset

    return open_dataset("digits").classes


@pytest.mark.usefixtures("_no_report")
def test_a_healthy_fit_of_few_steps_ends_without_alarms(tmp_path):
    outcome, said, page = digits(tmp_path)
    assert outcome.metrics["test_accuracy"] > 0.6
    assert "alarms" not in outcome.metrics
    assert "What the run warned about" not in page
    assert not any("alarms" in line for line in RunFolder(tmp_path / "run").history())
    assert len([text for text in said if "loss" in text or "cluster" in text.lower()]) == 0


@pytest.mark.usefixtures("_no_report")
def test_a_fit_that_learns_nothing_says_so_live_and_in_the_report(tmp_path):
    outcome, said, page = digits(tmp_path, learning_rate=0, steps=150, refine_steps=0, settle=0.1)
    assert any("the labels" in text.lower() and "raise `evidence`" in text for text in outcome.metrics["alarms"])
    assert set(outcome.metrics["alarms"]) <= set(said)
    assert "What the run warned about" in page
    assert "cluster, step" in page
