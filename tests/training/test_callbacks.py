"""The metrics log: means over intervals, and a file that is cut back to where a training goes on from."""

import json

import pytest
from torch import nn

from smidgen.methods.base import Stage
from smidgen.training.callbacks import MetricsLog, Moment, Ticker


def moment(step, total, *, steps=10, extras=None):
    return Moment(
        method=nn.Identity(),
        stage=Stage("train", steps),
        step=step,
        total_step=step,
        losses={"total": total},
        rate=0.5,
        seconds=1.23456,
        extras=extras or {},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_the_means_of_its_interval(path):
    log = MetricsLog(path, every=4)
    for step in range(1, 11):
        log.after_step(moment(step, float(step)))
    assert [(line["step"], line["total"]) for line in lines(path)] == [(4, 2.5), (8, 6.5), (10, 9.5)]
    assert lines(path)[0] == {"stage": "train", "step": 4, "seconds": 1.235, "learning_rate": 0.5, "total": 2.5}


def test_a_loss_that_not_every_step_has_is_averaged_over_those_that_have_it(path):
    log = MetricsLog(path, every=4)
    for step in range(1, 5):
        one = moment(step, 1.0)
        one.losses |= {"pairs": 2.0} if step % 2 else {}
        log.after_step(one)
    assert (lines(path)[0]["total"], lines(path)[0]["pairs"]) == (1.0, 2.0)


def test_extras_make_a_line_of_their_own(path):
    log = MetricsLog(path, every=4)
    log.after_step(moment(1, 1.0, extras={"alarms": ["all in one"]}))
    assert lines(path)[0]["alarms"] == ["all in one"]


def test_the_file_is_cut_back_and_the_interval_goes_on(path):
    log = MetricsLog(path, every=2)
    for step in (1, 2, 3):
        log.after_step(moment(step, float(step)))
    state = json.loads(json.dumps(log.state()))
    log.after_step(moment(4, 4.0))
    whole = path.read_bytes()
    log.after_step(moment(5, 5.0))
    log.after_step(moment(6, 6.0))
    resumed = MetricsLog(path, every=2)
    assert path.read_bytes() != whole  # a new log alone touches nothing
    resumed.restore(state)
    resumed.after_step(moment(4, 4.0))
    assert path.read_bytes() == whole


def test_a_new_log_leaves_the_file_until_it_is_told_to_begin(path):
    path.write_text("old\n")
    log = MetricsLog(path)
    assert path.read_text() == "old\n"
    log.restore({})
    assert path.read_text() == ""


def test_a_file_that_was_cut_by_hand_is_not_filled_with_zeros(path):
    log = MetricsLog(path, every=1)
    log.after_step(moment(1, 1.0))
    state = log.state()
    path.write_text("")
    log.restore(state)
    log.after_step(moment(2, 2.0))
    assert [line["step"] for line in lines(path)] == [2]


def test_a_restored_state_is_not_changed_by_what_follows(path):
    log = MetricsLog(path, every=5)
    log.after_step(moment(1, 1.0))
    state = log.state()
    log.restore(state)
    log.after_step(moment(2, 2.0))
    log.restore(state)
    log.after_step(moment(5, 2.0))
    assert lines(path)[0]["total"] == 1.5


def test_without_a_path_nothing_is_written(tmp_path):
    log = MetricsLog(None, every=1)
    log.after_step(moment(1, 1.0))
    log.restore(log.state())
    assert not list(tmp_path.iterdir())


def test_the_ticker_tells_every_step():
    seen = []
    Ticker(lambda *what: seen.append(what)).after_step(moment(3, 0.5))
    assert seen == [("train", 3, 10, {"total": 0.5})]


def test_the_ticker_tells_of_the_look_at_all_images():
    seen = []
    Ticker(lambda *what: seen.append(what)).before_begin(None, Stage("train", 10), 4)
    assert seen == [("train", 4, 10, {})]
