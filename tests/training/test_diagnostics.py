"""Diagnostics: each way of getting stuck raises its own alarm, once; healthy and recovered trainings end without."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from smidgen import fitting
from smidgen.config import Config
from smidgen.listener import Listener
from smidgen.methods import make_config
from smidgen.methods.base import EvidenceUse, Stage
from smidgen.run_folder import RunFolder
from smidgen.training.callbacks import Moment
from smidgen.training.monitors.collapse import collapse_alarms
from smidgen.training.monitors.diagnostics import Diagnostics
from smidgen.training.monitors.hints import hint

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
        (hard([60, 60, 4]), "small", "Cluster 2 holds 4 of 124 images"),
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

    def __init__(self, *, chance=None, needs_labels=False, bags_drawn_from=(), steps=STEPS, options=None, config=None):
        self.said, self.lines, self.total = [], [], 0
        self.diagnostics = Diagnostics(self.said.append, options=options)
        self.diagnostics.restore({})
        use = EvidenceUse(chance_losses=chance or {}, needs_labels=needs_labels, bags_drawn_from=bags_drawn_from)
        self.method = SimpleNamespace(evidence_use=use, config=config, stages=lambda: [])
        self.steps = steps
        self.noise = np.random.default_rng(0)

    def run(self, losses, assignments=lambda t: HEALTHY, *, stage="train", until=None, start=0):
        at = Stage(stage, self.steps)
        if start == 0:
            self.diagnostics.before_begin(self.method, at, 0)
        for step in range(start + 1, (until or self.steps) + 1):
            self.total += 1
            t = step / self.steps
            noisy = {name: value + 0.02 * self.noise.normal() for name, value in losses(t).items()}
            looked = assignments(t) if step % 100 == 0 or step == self.steps else None
            moment = Moment(self.method, at, step, self.total, noisy, 0.1, 0.0, assignments=looked)
            self.diagnostics.after_step(moment)
            if "alarms" in moment.extras:
                self.lines.append((step, moment.extras["alarms"]))
        return self


def falling(t, *, start=3.0, end=0.3):
    return end + (start - end) * math.exp(-8 * t)


def test_a_healthy_course_raises_nothing():
    course = Course(chance={"counts": LN4, "labels": math.log(10)})
    course.run(lambda t: {"total": falling(t) - 5, "counts": falling(t), "labels": falling(t, start=2.3)})
    course.run(lambda t: {"total": 0.3, "counts": 0.3, "labels": 0.1}, stage="refine")  # nothing left to be learned
    assert course.said == course.lines == course.diagnostics.final(HEALTHY) == []


def test_counts_at_their_plateau_are_said_after_a_fifth_of_the_stage_and_once():
    course = Course(chance={"ucc": LN4}).run(lambda t: {"total": LN4, "ucc": LN4}, lambda t: hard([50] * 4))
    assert len(course.said) == 1
    assert "The unique counts teach nothing yet (their loss is 1.3" in course.said[0]
    assert "without looking at the images it is ln 4 = 1.39" in course.said[0]
    assert "`--init-from RUN`" in course.said[0]
    assert STEPS / 5 <= course.lines[0][0] <= STEPS / 4
    assert course.diagnostics.final(HEALTHY) == course.said


@pytest.mark.parametrize("prototypes", [60, 3000])
def test_an_objective_that_sits_at_its_plateau_is_said_with_remedies_of_its_own(prototypes):
    level = math.log(prototypes)
    course = Course(chance={"codes": level}, options=("prototypes", "temperature", "steps"))
    course.run(lambda t: {"total": level, "codes": level})
    assert course.said[0].startswith(f"The loss of the codes sits at {level:.1f}")
    assert (
        f"without looking at the images it is ln {prototypes} = {level:.2f}: take fewer `prototypes`" in course.said[0]
    )
    assert "raise `temperature`" in course.said[0]
    assert "--init-from" not in course.said[0]
    assert course.diagnostics.final(HEALTHY) == course.said


def test_an_objective_that_falls_is_left_alone():
    course = Course(chance={"codes": math.log(60)})
    course.run(lambda t: {"total": falling(t, start=4.3), "codes": falling(t, start=4.3)})
    assert course.said == []


def test_evidence_that_is_ignored_while_the_rest_is_learned():
    course = Course(chance={"labels": math.log(10)}, options=("evidence",))
    course.run(lambda t: {"total": falling(t), "labels": 2.32})
    assert "The loss falls, but the labels are ignored" in course.said[0]
    assert "ln 10 = 2.30): raise `evidence`" in course.said[0]


def test_evidence_that_is_on_its_way_down_is_left_alone():
    course = Course(chance={"counts": LN4}).run(lambda t: {"total": 3 - 2 * t, "counts": 3.5 - 3.3 * t})
    assert course.said == []


def test_counts_that_unformed_clusters_contradict_are_given_time():
    """As on MNIST: at first every bag seems to hold four classes, which half of the stage puts right."""
    course = Course(chance={"counts": LN4})
    course.run(lambda t: {"total": falling(t), "counts": 2.75 - max(0.0, t - 0.35) * 2.2})
    assert course.said == []
    stays = Course(chance={"counts": LN4}).run(lambda t: {"total": falling(t), "counts": 2.75})
    assert "are ignored (their loss is 2.7" in stays.said[0]
    assert stays.lines[0][0] >= STEPS / 2


def test_a_kind_that_comes_late_gets_its_fifth_of_the_stage():
    def losses(t):
        return {"total": falling(t)} | ({"labels": 2.3} if t > 0.6 else {})

    course = Course(chance={"labels": 2.3}).run(losses)
    assert 0.8 * STEPS <= course.lines[0][0] <= 0.85 * STEPS


def test_an_alarm_is_withdrawn_when_it_no_longer_holds():
    course = Course(chance={"counts": LN4})
    course.run(lambda t: {"total": falling(t), "counts": LN4 if t < 0.5 else falling(t - 0.5)})
    assert len(course.said) == 2
    assert course.said[1] == "No longer so: The loss falls, but the unique counts are ignored" + course.said[0][
        course.said[0].index(" (") : course.said[0].index("):") + 1] + "."  # fmt: skip
    assert course.lines[-1][1] == course.diagnostics.final(HEALTHY) == []


def test_a_collapse_on_the_way_is_said_and_withdrawn():
    course = Course().run(lambda t: {"total": falling(t)}, lambda t: hard([200, 0, 0, 0]) if t < 0.6 else HEALTHY)
    assert [text.partition(":")[0] for text in course.said] == ["All images are in one cluster", "No longer so"]
    assert course.diagnostics.final(HEALTHY) == []


def test_a_collapse_that_stays_is_in_the_end_as_it_then_is():
    course = Course().run(lambda t: {"total": falling(t)}, lambda t: hard([110, 30, 30, 30]))
    assert "Cluster 0 holds 55% of the images" in course.said[0]
    (alarm,) = course.diagnostics.final(hard([120, 30, 25, 25]))
    assert "Cluster 0 holds 60% of the images" in alarm


def test_a_cluster_that_grows_is_said_before_it_holds_half():
    course = Course().run(
        lambda t: {"total": falling(t)}, lambda t: hard([round(200 * (0.1 + 0.6 * t))] + [20] * 9), until=400
    )
    assert any("Cluster 0 grows, from" in text for text in course.said)
    course.run(lambda t: {"total": falling(t)}, lambda t: hard([20] * 10), start=400)
    assert course.diagnostics.final(hard([20] * 10)) == []


def test_a_loss_that_does_not_fall_is_said_where_nothing_is_decided():
    unsure = 0.3 * HEALTHY + 0.7 * even()
    course = Course().run(lambda t: {"total": 2.0}, lambda t: unsure)
    assert "The loss has not fallen since stage 'train' began (2" in course.said[0]
    assert course.diagnostics.final(unsure) == course.said
    assert Course().run(lambda t: {"total": 2.0}, lambda t: HEALTHY).said == []  # warm start: nothing left to learn


def test_even_assignments_are_one_alarm_not_two():
    course = Course().run(lambda t: {"total": 2.0}, lambda t: even())
    assert [text.partition(",")[0] for text in course.said] == ["Every image is equally likely in every cluster"]


def test_a_loss_that_climbs_is_said_at_once_and_withdrawn_when_it_comes_back():
    course = Course().run(lambda t: {"total": 1 + 40 * t}, until=120)
    assert "The loss climbs, from 1." in course.said[0]
    assert course.lines[0][0] <= 100
    course.run(lambda t: {"total": 0.5}, start=120)
    assert course.diagnostics.final(HEALTHY) == []


def test_a_halved_learning_rate_is_remembered_to_the_end():
    course = Course().run(lambda t: {"total": falling(t)}, until=150)
    state = json.loads(json.dumps(course.diagnostics.state()))
    course.run(lambda t: {"total": falling(t)}, start=150, until=160)
    course.diagnostics.restore(state)  # as the loop does when a step diverges
    course.run(lambda t: {"total": falling(t)}, start=150)
    (alarm,) = course.diagnostics.final(HEALTHY)
    assert "the learning rate is 2 times lower since" in alarm
    fresh = Diagnostics()
    fresh.restore(state)  # another process that resumes
    assert fresh.final(HEALTHY) == []


def test_what_was_said_is_not_said_again_after_a_resume():
    losses = {"total": LN4, "counts": LN4}
    whole, first = (Course(chance={"counts": LN4}) for _ in range(2))
    whole.run(lambda t: losses)
    first.run(lambda t: losses, until=200)
    state = json.loads(json.dumps(first.diagnostics.state()))
    first.diagnostics = Diagnostics(first.said.append)
    first.diagnostics.restore(state)
    first.run(lambda t: losses, start=200)
    assert first.said == whole.said
    assert first.lines == whole.lines
    assert first.diagnostics.state() == whole.diagnostics.state()


def test_very_short_trainings_are_left_alone():
    course = Course(chance={"counts": LN4}, steps=40).run(lambda t: {"total": 2.0, "counts": LN4}, lambda t: even())
    assert course.said == []
    nearly = even() + 1e-4 * np.eye(4)[np.arange(200) % 4]
    assert course.diagnostics.final(nearly) == []
    assert "All images are in one cluster" in course.diagnostics.final(even())[0]
    assert "nothing has been learned" in Diagnostics().final(even())[0]  # a method without steps, like k-means


# ------------------------------------------------------------------------------ long stages, and nothing but evidence


def bags(steps=STEPS, **more):
    """A course of a method like UCC, that can learn from nothing but counts of bags."""
    return Course(chance={"ucc": LN4}, steps=steps, needs_labels=True, **more)


def stuck(t):
    return {"total": 0.7 + falling(t, end=0), "ucc": LN4, "reconstruction": falling(t)}


def one(t):
    return hard([200, 0, 0, 0])


@pytest.mark.parametrize("steps", [2501, 128_000])
def test_counts_that_teach_nothing_are_said_within_300_steps_however_long_the_stage(steps):
    course = bags(steps).run(lambda t: {"total": LN4, "ucc": LN4}, until=400)
    assert [text.partition(" (")[0] for text in course.said] == ["The unique counts teach nothing yet"]
    assert course.lines[0][0] == 300


def test_an_alarm_of_a_long_stage_is_withdrawn_as_soon_as_the_counts_are_learned():
    course = bags(128_000)
    course.run(lambda t: {"total": LN4, "ucc": LN4 if t < 350 / 128_000 else 0.5}, until=500)
    assert [step for step, alarms in course.lines if not alarms] == [400]


def test_counts_of_a_long_stage_that_leave_their_plateau_late_raise_nothing():
    """As with the paper's settings: flat for 130 steps, then slowly down."""

    def losses(t):
        value = LN4 - max(0.0, t * 128_000 - 130) / 2000
        return {"total": value, "ucc": value}

    assert bags(128_000).run(losses, until=1500).said == []


@pytest.mark.parametrize(("steps", "first"), [(600, 120), (2000, 400), (2500, 500), (128_000, 500)])
def test_evidence_beside_other_things_to_learn_gets_a_fifth_of_at_most_2500_steps(steps, first):
    course = Course(chance={"labels": 2.3}, steps=steps).run(lambda t: {"total": 3 - t, "labels": 2.3}, until=600)
    assert course.lines[0][0] == first


def test_a_long_stage_is_remembered_by_its_losses_that_are_judged_alone():
    course = bags(128_000).run(lambda t: {"total": 1, "ucc": 1, "ucc_accuracy": 0.5, "tie": 1}, until=5000)
    blocks = course.diagnostics.state()["blocks"]
    assert {name: len(course) for name, course in blocks.items()} == {"total": 100, "ucc": 100}


@pytest.mark.parametrize("sizes", [[200, 0, 0, 0], [110, 30, 30, 30], [100, 100, 0, 0]])
def test_a_collapse_has_no_remedy_of_its_own_while_nothing_is_learned_from_evidence_alone(sizes):
    course = bags().run(stuck, lambda t: hard(sizes))
    (alarm,) = course.said
    assert alarm.startswith("The unique counts teach nothing yet")  # not ignored: what falls is the decoder's loss
    assert course.diagnostics.final(hard(sizes)) == course.said
    others = Course(chance={"ucc": LN4}).run(stuck, lambda t: hard(sizes))
    assert len(others.diagnostics.final(hard(sizes))) > 1
    assert any("luster" in text for text in others.said)


def test_a_cluster_that_grows_means_nothing_while_nothing_is_learned_from_evidence_alone():
    def grows(t):
        return hard([round(200 * (0.1 + 0.6 * t))] + [20] * 9)

    assert not any("grows" in text for text in bags().run(stuck, grows, until=400).said)
    assert any("grows" in text for text in bags().run(lambda t: {"total": 0.5, "ucc": 0.5}, grows, until=400).said)


def test_a_loss_that_does_not_fall_for_want_of_evidence_is_one_alarm():
    unsure = 0.3 * HEALTHY + 0.7 * even()
    course = bags(options=("log_output",)).run(lambda t: {"total": LN4, "ucc": LN4}, lambda t: unsure)
    assert len(course.said) == len(course.diagnostics.final(unsure)) == 1
    assert "preset=fast" in course.said[0]


def test_a_collapse_is_said_once_counts_are_learned():
    course = bags().run(lambda t: {"total": falling(t), "ucc": LN4 if t < 0.4 else 0.5}, one)
    kinds = [text.partition(" (")[0].partition(":")[0] for text in course.said]
    assert kinds == ["The unique counts teach nothing yet", "No longer so", "All images are in one cluster"]
    assert "All images are in one cluster" in course.diagnostics.final(one(1))[0]


@pytest.mark.parametrize("steps", [4, 26, 49, 180])
def test_a_training_that_time_has_stopped_on_the_plateau_says_so_alone_and_to_train_longer(steps):
    course = bags(2000, options=("learning_rate", "log_output", "bag_size"), bags_drawn_from=("labels",))
    course.run(stuck, one, until=steps - 1)
    assert course.said == []
    course.steps = steps  # the loop tells a last step so
    course.run(stuck, one, start=steps - 1)
    assert course.said == course.diagnostics.final(one(1)) == course.lines[-1][1]
    (alarm,) = course.said
    assert "The unique counts teach nothing yet (their loss is 1.3" in alarm or "(their loss is 1.4" in alarm
    assert "ln 4 = 1.39): train longer, take the preset fast (`--set preset=fast`), take smaller bags" in alarm
    assert alarm.endswith("or start from a run without evidence (`--init-from RUN`).")  # four are enough
    resumed = Diagnostics()
    resumed.restore(json.loads(json.dumps(course.diagnostics.state())))  # no step was left to be made
    assert resumed.final(one(1)) == course.said


def test_a_short_training_that_has_left_the_plateau_says_nothing():
    course = bags(60).run(lambda t: {"total": 1.2, "ucc": LN4 if t < 0.5 else 1.2})
    assert course.said == course.diagnostics.final(HEALTHY) == []


@pytest.mark.parametrize("chance", [{}, {"ucc": 0.0}])
def test_a_collapse_is_said_where_it_is_not_known_what_a_model_without_images_would_lose(chance):
    """As of `supervised`, which names no such loss, and of UCC where all bags have the same count."""
    course = Course(chance=chance, needs_labels=True).run(lambda t: {"total": 1.0, "ucc": 0.1}, one)
    assert "All images are in one cluster" in course.said[0]
    assert "All images are in one cluster" in course.diagnostics.final(one(1))[0]


def test_before_evidence_is_asked_for_clusters_are_not_judged_but_the_loss_is():
    assert bags().run(lambda t: {"total": falling(t)}, one, stage="warmup").said == []
    unsure = 0.3 * HEALTHY + 0.7 * even()
    (alarm,) = bags().run(lambda t: {"total": 2.0}, lambda t: unsure, stage="warmup").said
    assert "The loss has not fallen since stage 'warmup' began" in alarm


def test_proportions_that_teach_let_clusters_be_judged_while_the_unique_counts_do_not_yet():
    """As RCC on CIFAR-10: at step 120 half of the loss of proportions is gone, the unique count is at ln 4 till 300."""
    learns = bags(120).run(lambda t: {"total": falling(t), "ucc": LN4, "class_counts": 2.35 - 1.2 * t}, one)
    assert "All images are in one cluster" in learns.diagnostics.final(one(1))[0]
    averages = bags(120).run(lambda t: {"total": falling(t), "ucc": LN4, "class_counts": 70 - 13 * t}, one)
    (alarm,) = averages.diagnostics.final(one(1))
    assert alarm.startswith("The unique counts teach nothing yet")


@pytest.mark.parametrize("kind", ["large", "small"])
@pytest.mark.parametrize("prior", [True, False])
def test_clusters_of_odd_sizes_are_advised_the_prior_where_the_method_has_it(kind, prior):
    assert ("`prior=uniform`" in hint(kind, ["steps", *(["prior"] if prior else [])])) == prior


def hints(name, *, options=None, **method):
    config = make_config(name, options)
    course = bags(options=vars(config).keys(), config=config, **method).run(stuck)
    return course.said[0].partition("): ")[2]


@pytest.mark.parametrize("name", ["ucc", "rcc"])
def test_the_remedies_for_counts_that_teach_nothing_are_those_that_would_help(name):
    fresh = hints(name, bags_drawn_from=("labels",))
    assert fresh.startswith("take the preset fast (`--set preset=fast`), take smaller bags (`bag_size`), start from")
    assert fresh.endswith("or see what `smidgen check` says of the evidence.")
    given = hints(name, bags_drawn_from=())
    assert "smaller bags" not in given
    assert "preset=fast" in given
    fast = hints(name, options={"preset": "fast", "steps": 700}, bags_drawn_from=())
    assert fast.startswith("start from a run without evidence (`--init-from RUN`) or see")


# ------------------------------------------------------------------------------------------------------ whole fits


class Hearing(Listener):
    def __init__(self):
        self.said = []

    def log(self, text):
        self.said.append(text)


@pytest.fixture
def _no_report(monkeypatch):
    monkeypatch.setattr(fitting, "write_thumbnails", lambda run, datasets: None)
    monkeypatch.setattr(fitting, "write_issues", lambda run, datasets, progress: None)


def digits(tmp_path, **options):
    from smidgen.evidence.evidence import Evidence

    rows = np.arange(0, 1400, 7)
    names = {f"train/{row:05d}": str(k) for row, k in zip(rows, _digit_classes()[rows], strict=True)}
    hearing = Hearing()
    config = Config("digits", threads=1, precision="float32",
                    options={"heads": 2, "steps": 60, "refine_steps": 60, "batch_size": 64} | options)  # fmt: skip
    evidence = Evidence(labels=tuple(names.items()))
    outcome = fitting.fit(config, evidence=evidence, out=tmp_path / "run", listener=hearing)
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


@pytest.mark.usefixtures("_no_report")
def test_a_fit_of_ucc_that_is_too_short_says_that_alone(tmp_path):
    options = {"encoder": "conv", "steps": 3, "bags": 4, "bag_size": "4-8"}
    config = Config("digits", method="ucc", threads=1, precision="float32", options=options)
    outcome = fitting.fit(config, out=tmp_path / "run", listener=Hearing())
    (alarm,) = outcome.metrics["alarms"]
    assert alarm.startswith("The unique counts teach nothing yet (their loss is 1.")
    assert "): train longer, take the preset fast" in alarm
