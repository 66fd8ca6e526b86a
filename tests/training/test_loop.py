"""The one loop: exact resume wherever it is interrupted, broken gradients, signals, independence of the global RNG."""

import itertools
import json
import os
import random
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from smidgen.errors import InputError, RunError, TrainingError
from smidgen.maths.schedules import rate
from smidgen.methods import make_config
from smidgen.methods.base import Stage
from smidgen.training import clock, embed
from smidgen.training.callbacks import Callback
from smidgen.training.embed import make_embed, map_images
from smidgen.training.interrupts import Interrupted, Interrupts
from smidgen.training.loop import Settings

PLACES = ["request", "loss", "before_step", "after_step"]
STEPS = [("one", 0), ("one", 2), ("one", 3), ("one", 4), ("one", 7), ("two", 0), ("two", 1), ("two", 2), ("two", 4)]
BEGINS = [("begin", "one", 0), ("begin", "one", 3), ("begin", "two", 2)]


@pytest.fixture(scope="module")
def reference(request, tmp_path_factory):
    return {}


@pytest.fixture
def uninterrupted(reference, make_trainer, outcome, tmp_path_factory):
    if not reference:
        folder = tmp_path_factory.mktemp("whole")
        trainer = make_trainer(folder)
        trainer.train()
        reference["outcome"] = outcome(trainer, folder)
    return reference["outcome"]


def resume(make_trainer, folder, **options):
    trainer = make_trainer(folder, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "where",
    [*((p, *s) for p, s in itertools.product(PLACES, STEPS)), *BEGINS, ("finish", "", 0)],
    ids=lambda where: "-".join(map(str, where)),
)
def test_killed_anywhere_and_resumed_is_the_uninterrupted_run(
    where, make_trainer, kill_at, outcome, same, uninterrupted, tmp_path
):
    with pytest.raises(BaseException, match="killed"):
        make_trainer(tmp_path, hook=kill_at(*where)).train()
    same(outcome(resume(make_trainer, tmp_path), tmp_path), uninterrupted)


def test_killed_again_and_again_is_the_uninterrupted_run(make_trainer, outcome, same, uninterrupted, tmp_path):
    chance = random.Random(0)

    def die(*where):
        if chance.random() < 0.15:
            raise KeyboardInterrupt

    trainer, kills = None, 0
    while trainer is None:
        try:
            trainer = resume(make_trainer, tmp_path, hook=die)
        except KeyboardInterrupt:
            kills += 1
    assert kills > 3
    same(outcome(trainer, tmp_path), uninterrupted)


@pytest.mark.parametrize("seed", [0, 1])
def test_results_do_not_depend_on_the_global_generator_nor_move_it(
    seed, make_trainer, outcome, same, uninterrupted, tmp_path
):
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    trainer = resume(make_trainer, tmp_path)
    assert torch.get_rng_state().equal(before)
    same(outcome(trainer, tmp_path), uninterrupted)


def test_the_global_generator_is_put_back_when_training_dies(make_trainer, kill_at):
    before = torch.get_rng_state()
    with pytest.raises(BaseException, match="killed"):
        make_trainer(hook=kill_at("loss", "one", 1)).train()
    assert torch.get_rng_state().equal(before)


def test_another_seed_gives_another_result(make_trainer, outcome, uninterrupted, tmp_path):
    state = outcome(resume(make_trainer, tmp_path, seed=1), tmp_path)[0]
    assert not state["net.1.weight"].equal(uninterrupted[0]["net.1.weight"])


def test_checkpoints_change_nothing(make_trainer, uninterrupted):
    trainer = make_trainer(None, every=100)
    trainer.train()
    for name, value in trainer.method.state_dict().items():
        assert value.equal(uninterrupted[0][name])


@pytest.mark.parametrize("read_every", [2, 3, 100])
@pytest.mark.parametrize("times", [0, 2])
def test_reading_losses_less_often_changes_nothing(
    times, read_every, make_trainer, diverge_at, outcome, same, tmp_path
):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    said, outcomes = {1: [], read_every: []}, []
    for folder, every in zip("ab", said, strict=True):
        hook = diverge_at("one", 5, times=times)
        trainer = make_trainer(tmp_path / folder, hook=hook, read_every=every, log=said[every].append)
        trainer.train()
        outcomes.append(outcome(trainer, tmp_path / folder))
    same(*outcomes)
    assert said[1] == said[read_every]
    assert len(said[1]) == times


@pytest.mark.parametrize("times", [0, 1])
def test_images_gathered_ahead_change_nothing(times, make_trainer, diverge_at, outcome, same, tmp_path):
    outcomes, taken = [], {}
    for folder, ahead in (("a", False), ("b", True)):
        (tmp_path / folder).mkdir()
        trainer = make_trainer(tmp_path / folder, hook=diverge_at("one", 5, times=times))
        trainer.loader.works_ahead = ahead
        take = trainer.loader.take

        def note(key, take=take):
            gathered = take(key)
            taken[key[1:]] = gathered is not None
            return gathered

        trainer.loader.take = note
        trainer.train()
        outcomes.append(outcome(trainer, tmp_path / folder))
    same(*outcomes)
    assert taken["one", 2]
    assert not any(taken[where] for where in [("one", 0), ("one", 3), ("two", 0), ("two", 2)])  # `begin` comes first


def test_an_error_that_comes_of_broken_weights_is_a_divergence(make_trainer, diverge_at, outcome, same, tmp_path):
    def hook(*where):
        diverge(*where)
        if where[0] == "loss" and not bool(where[3].net[1].weight.isfinite().all()):
            raise ValueError("matrix contains invalid numeric entries")

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    diverge = diverge_at("one", 5, times=1)
    found = resume(make_trainer, tmp_path / "a", hook=hook, read_every=100)
    wanted = resume(make_trainer, tmp_path / "b", hook=diverge_at("one", 5, times=1))
    same(outcome(found, tmp_path / "a"), outcome(wanted, tmp_path / "b"))


def test_who_wants_to_see_a_step_sees_the_method_as_it_is_then(make_trainer):
    class Look(Callback):
        def wants_to_see(self, stage, step):
            return step == 3

        def after_step(self, moment):
            seen.append((moment.step, float(moment.method.net[5].bias.detach()[0])))

    seen, now = [], {}

    def hook(place, stage, step, method):
        if place == "after_step" and stage == "one":
            now[step + 1] = float(method.net[5].bias.detach()[0])

    make_trainer(hook=hook, callbacks=[Look()], read_every=100, every=100).train()
    assert [step for step, _ in seen[:8]] == [*range(1, 9)]
    assert dict(seen[:8])[3] == now[3] != now[2]


def test_a_restored_method_is_asked_to_act(make_trainer, diverge_at, kill_at, tmp_path):
    def trainer(**options):
        made = make_trainer(tmp_path, **options)
        made.method.after_restore = lambda: seen.append(made.progress.step)
        return made

    seen = []
    with pytest.raises(BaseException, match="killed"):
        trainer(hook=kill_at("loss", "one", 6)).train()
    assert seen == []
    trainer(hook=diverge_at("two", 4, times=1)).train()
    assert seen == [4, 4]  # of stage "one" after the kill, of "two" after the divergence


def test_dropout_draws_other_numbers_at_every_step(make_trainer):
    seen = []

    def hook(place, stage, step, method):
        if place == "loss":
            seen.append(float(torch.rand(())))

    make_trainer(hook=hook).train()
    assert len(set(seen)) == len(seen) == 13


# ------------------------------------------------------------------------------------------------------------ signals


def send_at(stage, step, number, *, times=1, place="loss"):
    def hook(*where):
        if where[:3] == (place, stage, step):
            for _ in range(times):
                os.kill(os.getpid(), number)

    return hook


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("stage", "step"), STEPS)
def test_a_signal_stops_after_the_step_with_a_fresh_checkpoint(
    number, stage, step, make_trainer, outcome, same, uninterrupted, tmp_path
):
    with Interrupts().listening() as interrupts, pytest.raises(Interrupted) as stopped:
        make_trainer(tmp_path, hook=send_at(stage, step, number), interrupts=interrupts).train()
    assert stopped.value.signal == number
    trainer = make_trainer(tmp_path)
    assert trainer.checkpoints.newest()[1]["progress"]["position"]["step"] == step + 1
    trainer.train()
    same(outcome(trainer, tmp_path), uninterrupted)


@pytest.mark.parametrize("where", [("begin", "one", 3), ("finish", "", 0)])
def test_a_signal_between_steps_stops_at_once(where, make_trainer, outcome, same, uninterrupted, tmp_path):
    place, stage, step = where
    hook = send_at(stage, step, signal.SIGTERM, place=place)
    with Interrupts().listening() as interrupts, pytest.raises(Interrupted):
        make_trainer(tmp_path, hook=hook, interrupts=interrupts).train()
    same(outcome(resume(make_trainer, tmp_path), tmp_path), uninterrupted)


def test_a_second_signal_does_not_wait_for_the_step(make_trainer, outcome, same, uninterrupted, tmp_path):
    with Interrupts().listening() as interrupts, pytest.raises(Interrupted):
        make_trainer(tmp_path, hook=send_at("one", 5, signal.SIGINT, times=2), interrupts=interrupts).train()
    trainer = make_trainer(tmp_path)
    assert trainer.checkpoints.newest()[1]["progress"]["position"]["step"] == 4  # the last regular one
    trainer.train()
    same(outcome(trainer, tmp_path), uninterrupted)


# ----------------------------------------------------------------------------------------------------- broken numbers


def rates(folder, outcome, trainer):
    return {(line["stage"], line["step"]): line["learning_rate"] for line in outcome(trainer, folder)[2]}


def test_a_loss_that_is_not_a_number_halves_the_rate_from_the_last_checkpoint(
    make_trainer, diverge_at, outcome, tmp_path, uninterrupted
):
    said = []
    trainer = make_trainer(tmp_path, hook=diverge_at("one", 6, times=2), log=said.append)
    trainer.train()
    halved = rates(tmp_path, outcome, trainer)
    whole = {(line["stage"], line["step"]): line["learning_rate"] for line in uninterrupted[2]}
    assert halved.keys() == whole.keys()
    assert halved["one", 3] == whole["one", 3]
    assert halved["one", 6] == whole["one", 6] / 4
    assert halved["two", 5] == whole["two", 5] / 4
    assert "step 6 of stage 'one'" in said[0]
    assert "step 4" in said[0]
    assert "4 times lower" in said[1]


def test_the_step_is_really_taken_at_half_the_rate(make_trainer, diverge_at):
    moved = {}
    for times in (0, 1):
        trace, diverge = {}, diverge_at("one", 0, times=times)

        def hook(place, stage, step, method, trace=trace, diverge=diverge):
            diverge(place, stage, step, method)
            if (stage, step) == ("one", 0) and place in ("request", "after_step"):
                trace[place] = method.net[5].bias.detach().clone()

        make_trainer(hook=hook).train()
        moved[times] = trace["after_step"] - trace["request"]
    torch.testing.assert_close(moved[1], moved[0] / 2)  # plain SGD: the first step is rate × gradient


@pytest.mark.parametrize(("clip", "norm"), [(1.0, 1.0), (3.0, 3.0), (None, None)])
def test_the_gradient_is_clipped_as_the_stage_says(clip, norm, toy, make_trainer):
    trace = {}

    def hook(place, stage, step, method):
        method.factor = 1000.0
        if (stage, step) != ("one", 0):
            return
        if place == "before_step":  # one layer alone has a gradient
            for parameter in method.net[1].parameters():
                parameter.grad.zero_()
        trace[place] = torch.cat([p.detach().flatten().clone() for p in method.net[5].parameters()])

    method = toy(hook)
    stages = [replace(stage, schedule="constant", clip=clip) for stage in method.stages()]
    method.stages = lambda: stages
    make_trainer(method=method).train()
    moved = (trace["after_step"] - trace["request"]).norm().item() / 0.1  # plain SGD at a rate of .1
    assert moved == pytest.approx(norm, rel=1e-3) if norm else moved > 30


def test_training_gives_up_after_three_halvings_naming_step_and_images(make_trainer, diverge_at, tmp_path):
    trainer = make_trainer(tmp_path, hook=diverge_at("one", 6, times=99))
    with pytest.raises(TrainingError, match=r"step 6 of stage 'one' \(training images \d+, .*3 halvings.*lower"):
        trainer.train()
    assert all(bool(value.isfinite().all()) for value in trainer.method.state_dict().values())
    assert all(bool(value.isfinite().all()) for value in trainer.checkpoints.newest()[0].values())


@pytest.mark.parametrize("place", ["before_step", "after_step"])
def test_an_infinite_gradient_or_weight_is_a_divergence_too(place, make_trainer, tmp_path):
    def hook(at, stage, step, method):
        if at == place == "before_step" and step == 5:
            method.net[1].weight.grad[0, 0] = float("inf")
        if at == place == "after_step" and step == 3:  # the step of a regular checkpoint
            with torch.no_grad():
                method.net[1].weight[0, 0] = float("inf")

    trainer = make_trainer(tmp_path, hook=hook)
    with pytest.raises(TrainingError):
        trainer.train()
    for state in (trainer.method.state_dict(), trainer.checkpoints.newest()[0]):
        assert all(bool(value.isfinite().all()) for value in state.values())


def test_batch_norm_statistics_survive_a_broken_image(make_trainer, images):
    def hook(place, stage, step, method):
        if (place, stage, step) == ("loss", "one", 2):
            method.factor = 1.0 if seen else float("nan")
            if not seen:
                method.net[2].running_mean.fill_(float("nan"))
            seen.append(step)
        elif place == "request":
            method.factor = 1.0

    seen = []
    trainer = make_trainer(hook=hook)
    trainer.train()
    assert len(seen) == 2
    assert bool(trainer.method.state_dict()["net.2.running_mean"].isfinite().all())


@pytest.mark.parametrize("stop", [("one", 4), ("one", 5), ("two", 0), ("two", 1)])
def test_a_divergence_after_a_stop_goes_back_as_far_as_without_it(
    stop, make_trainer, diverge_at, outcome, same, tmp_path
):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    stage = stop[0]
    whole = resume(make_trainer, tmp_path / "a", hook=diverge_at(stage, stop[1] + 2, times=1))
    with Interrupts().listening() as interrupts, pytest.raises(Interrupted):
        make_trainer(tmp_path / "b", hook=send_at(*stop, signal.SIGTERM), interrupts=interrupts).train()
    stopped = resume(make_trainer, tmp_path / "b", hook=diverge_at(stage, stop[1] + 2, times=1))
    same(outcome(stopped, tmp_path / "b"), outcome(whole, tmp_path / "a"))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (None, "the batch size"),
        (make_config("supervised", {"batch_size": 7}), r"`batch_size` \(7\)"),
        (make_config("ucc", {"bags": 9}), r"`bags` \(9\)"),
    ],
)
def test_running_out_of_memory_says_what_to_lower(config, what, make_trainer):
    def hook(place, stage, step, method):
        if place == "loss":
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer = make_trainer(hook=hook)
    trainer.method.config = config
    with pytest.raises(TrainingError, match=f"step 0 of stage 'one': lower {what} or"):
        trainer.train()


def test_an_error_of_the_method_is_not_taken_for_lack_of_memory(make_trainer):
    def hook(place, stage, step, method):
        if place == "loss":
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        make_trainer(hook=hook).train()


# -------------------------------------------------------------------------------------------------------- limited time


@pytest.fixture
def tick(monkeypatch):
    """Return a hook by which every step takes a second, and nothing else any time."""
    now = [100.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def hook(place, stage, step, method):
        now[0] += place == "loss"

    return hook


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_time_is_shared_out_by_steps_and_every_schedule_comes_to_its_end(make_trainer, tick, tmp_path):
    class Rates(Callback):
        def after_step(self, moment):
            if moment.stage.name == "two":
                seen.append(moment.rate / 0.01)

    def hook(*where):
        tick(*where)
        if where[:2] == ("loss", "two"):
            progress.append(where[3].progress)

    said, seen, progress = [], [], []
    trainer = make_trainer(tmp_path, hook=hook, max_seconds=6.5, log=said.append, callbacks=[Rates()])
    assert trainer.train() == 7  # 6.5 · 8/13 = 4 for the first stage; the 2.5 left for the second end in its third step
    assert (trainer.steps, trainer.stopped_early) == (7, True)
    assert said[0] == "Time is up: stage 'one' ends after 4 of its 8 steps."
    assert [(line["stage"], line["step"]) for line in lines(tmp_path)] == [("one", 3), ("one", 4), ("two", 3)]
    assert seen == [rate("cosine", step, 5) for step in (2, 4, 4)]  # 1, 2 and 3 of 2.5 seconds are over
    assert progress == [0, 2, 4]  # before each of them


@pytest.mark.parametrize(("begins", "begun"), [((0, 1, 2, 3), [0, 3]), ((3, 0), [0, 3]), ((1,), [1]), ((7,), [])])
def test_of_what_the_clock_has_passed_over_the_last_is_begun(begins, begun, make_trainer, tick, monkeypatch):
    def hook(place, stage, step, method):
        tick(place, stage, step, method)
        if place == "begin":
            seen.append(step)

    seen = []
    trainer = make_trainer(hook=hook, max_seconds=2.0)
    monkeypatch.setattr(trainer.method, "stages", lambda: [Stage("one", 8, begins=begins)])
    trainer.train()
    assert seen == begun


def test_stages_whose_steps_take_longer_have_more_of_the_time(make_trainer, tick, monkeypatch):
    trainer, said = make_trainer(hook=tick, max_seconds=7, log=lambda text: said.append(text)), []
    stages = [replace(stage, cost=cost) for stage, cost in zip(trainer.method.stages(), (0.25, 1), strict=True)]
    monkeypatch.setattr(trainer.method, "stages", lambda: stages)
    trainer.train()  # 8 steps at .25 are 2 of 7, so 2 seconds
    assert said == ["Time is up: stage 'one' ends after 2 of its 8 steps."]


def test_no_stage_is_left_out_when_the_one_before_has_taken_all_the_time(make_trainer, tick):
    trainer = make_trainer(hook=tick, max_seconds=0.1)
    trainer.train()
    assert (trainer.steps, trainer.stopped_early) == (2, True)


def test_a_stage_has_its_least_steps_and_its_whole_schedule_though_time_is_up(make_trainer, tick, monkeypatch):
    def hook(place, stage, step, method):
        tick(place, stage, step, method)
        if place == "loss":
            reached.append((stage, method.progress))

    said, reached = [], []
    trainer = make_trainer(hook=hook, max_seconds=0.1, log=said.append)
    stages = [replace(stage, least=0.5) for stage in trainer.method.stages()]
    monkeypatch.setattr(trainer.method, "stages", lambda: stages)
    trainer.train()
    assert [r for stage, r in reached if stage == "one"] == [0, 3, 5, 7]  # of 8: the first begins before time is up
    assert [r for stage, r in reached if stage == "two"] == [0, 2, 4]
    assert trainer.stopped_early
    assert said[0] == "Time is up: stage 'one' ends after 4 of its 8 steps, the fewest it can do with."


def test_what_begins_at_a_step_begins_when_the_clock_gets_there(make_trainer, tick):
    def hook(place, stage, step, method):
        tick(place, stage, step, method)
        if place == "begin":
            begun.append((stage, step, trainer.progress.step))

    begun = []
    trainer = make_trainer(hook=hook, max_seconds=6.5)  # 4 seconds for the first eight steps, then 2.5 for five
    trainer.train()
    assert begun == [("one", 0, 0), ("one", 3, 2), ("two", 2, 1)]


def test_steps_have_as_much_of_limited_time_as_what_begins_between_them(make_trainer, tick, monkeypatch):
    def hook(place, stage, step, method):
        for _ in range(3 if place == "begin" else 1):
            tick("loss" if place == "begin" else place, stage, step, method)
        if place == "begin":
            begun.append(trainer.progress.step)

    begun = []
    trainer = make_trainer(hook=hook, max_seconds=23.0)
    monkeypatch.setattr(trainer.method, "stages", lambda: [Stage("one", 40, begins=tuple(range(40)))])
    trainer.train()
    assert begun == [0, 3, 6, 9]  # after three steps of a second each, since beginning takes three
    assert trainer.steps == 11  # the first begin is not counted


def test_the_time_that_the_first_begin_takes_is_not_that_of_the_steps(make_trainer, tick):
    def hook(place, stage, step, method):
        for _ in range(8 if (place, stage, step) == ("begin", "one", 0) else 1):
            tick("loss" if place == "begin" else place, stage, step, method)

    trainer = make_trainer(hook=hook, max_seconds=26.0)
    trainer.train()
    assert trainer.progress.cuts == {}  # 8 seconds, and 18 for 13 steps and two more begins


def test_stages_that_had_less_than_half_of_their_steps_are_rough(make_trainer, tick):
    trainer = make_trainer(hook=tick, max_seconds=6.5)
    trainer.train()  # four of eight steps, three of five
    assert trainer.rough == {}
    trainer = make_trainer(hook=tick, max_seconds=2.0)
    trainer.train()
    assert trainer.rough == {"one": (2, 8), "two": (1, 5)}


def test_a_limit_that_is_far_away_changes_nothing(make_trainer, tick, outcome, uninterrupted, tmp_path):
    trainer = make_trainer(tmp_path, hook=tick, max_seconds=1e6)
    trainer.train()
    assert (trainer.steps, trainer.stopped_early) == (13, False)
    for name, value in uninterrupted[0].items():
        assert outcome(trainer, tmp_path)[0][name].equal(value)


@pytest.mark.parametrize("where", [("loss", "one", 2), ("begin", "one", 3), ("loss", "two", 1), ("finish", "", 0)])
def test_a_limited_training_that_was_killed_goes_on_with_the_time_that_was_left(
    where, make_trainer, kill_at, tick, tmp_path
):
    def hook(*at):
        kill(*at)
        tick(*at)

    kill = kill_at(*where)
    with pytest.raises(BaseException, match="killed"):
        make_trainer(tmp_path, hook=hook, max_seconds=6.5, every=1).train()
    trainer = resume(make_trainer, tmp_path, hook=tick, max_seconds=6.5, every=1)
    assert (trainer.steps, trainer.stopped_early) == (7, True)
    assert [line["step"] for line in lines(tmp_path)] == [3, 4, 3]


def test_a_limit_must_leave_some_time():
    with pytest.raises(InputError, match="`max_seconds` must be above 0, got 0"):
        Settings(max_seconds=0)


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    make_trainer, kill_at, outcome, same, uninterrupted, tmp_path
):
    with pytest.raises(BaseException, match="killed"):
        make_trainer(tmp_path, hook=kill_at("loss", "two", 3)).train()
    newest, before = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-9])
    assert before.exists()
    same(outcome(resume(make_trainer, tmp_path), tmp_path), uninterrupted)


def test_checkpoints_that_are_all_damaged_are_not_started_over(make_trainer, kill_at, tmp_path):
    with pytest.raises(BaseException, match="killed"):
        make_trainer(tmp_path, hook=kill_at("loss", "two", 3)).train()
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"No checkpoint in .* can be read: start again with --overwrite"):
        make_trainer(tmp_path).train()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_ones(
    make_trainer, outcome, same, uninterrupted, tmp_path, monkeypatch
):
    def full(file, written=[0]):  # noqa: B006
        written[0] += 1
        if written[0] == 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("smidgen.files.os.fsync", full)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\): make room"):
            make_trainer(tmp_path).train()
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]
    same(outcome(resume(make_trainer, tmp_path), tmp_path), uninterrupted)


# ----------------------------------------------------------------------------------------------------------- callbacks


def test_callbacks_see_every_step_once_in_order(make_trainer):
    class Recorder(Callback):
        def __init__(self):
            self.seen = []

        def after_step(self, moment):
            self.seen.append((moment.stage.name, moment.step, moment.total_step))

    recorder = Recorder()
    make_trainer(callbacks=[recorder]).train()
    steps = [("one", s) for s in range(1, 9)] + [("two", s) for s in range(1, 6)]
    assert recorder.seen == [(*step, total + 1) for total, step in enumerate(steps)]


# ---------------------------------------------------------------------------------------------------------- prediction


def convolutional(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 4, 48), nn.Linear(48, 7))
    return net.eval()(images)


@pytest.mark.parametrize("rows", [[5], [5, 0, 1], list(range(599, -1, -1)), [5] * 513])
def test_an_image_gets_the_same_result_whatever_comes_with_it(rows, make_trainer):
    images = np.random.default_rng(1).integers(0, 256, (600, 1, 4, 4), dtype=np.uint8)
    method, device = make_trainer().method, torch.device("cpu")
    together = map_images(convolutional, images, method=method, device=device)
    apart = map_images(convolutional, images[rows], method=method, device=device)
    assert apart.equal(together[rows])


def test_no_images_give_no_results_of_the_right_shape(make_trainer, images):
    trainer = make_trainer()
    result = map_images(trainer.method.assign, images[:0], method=trainer.method, device=torch.device("cpu"))
    assert result.shape == (0, 3)


def test_embedding_halves_its_batch_when_memory_runs_out(make_trainer, images, monkeypatch):
    monkeypatch.setattr(embed, "EMBED_BATCH", 32)
    sizes = []

    def encode(batch):
        sizes.append(len(batch))
        if len(batch) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch.flatten(1)

    method, done = make_trainer().method, []
    result = map_images(encode, images, method=method, device=torch.device("cpu"), progress=lambda *at: done.append(at))
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    assert result.equal(torch.from_numpy(images).flatten(1) / 255)
    assert done[-1] == (40, 40)


def test_embedding_leaves_the_mode_as_it_was_and_needs_no_gradient(make_trainer, images):
    method = make_trainer().method.train(True)
    embeddings = make_embed(method, images, device=torch.device("cpu"))()
    assert method.training
    assert not embeddings.requires_grad
    assert embeddings.equal(method.eval().net(torch.from_numpy(images).float() / 255))
