import io

from smidgen.cli.console import Bars, Lines, printable


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines_of(seconds_per_step, *, steps=100):
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, clock=clock)
    for step in range(1, steps + 1):
        clock.now += seconds_per_step
        lines.update("train", step, steps, "loss 1.000")
    return stream.getvalue().splitlines()


def test_what_is_over_at_once_is_worth_no_line():
    assert lines_of(0.001) == []


def test_one_line_for_each_tenth():
    found = lines_of(1.0)
    assert len(found) == 10
    assert found[-1] == "train: 100 of 100 (loss 1.000, 99 s)"


def test_a_line_says_how_long_the_rest_will_take():
    found = lines_of(1.0)
    assert found[0] == "train: 11 of 100 (loss 1.000, 10 s, 1:29 left)"
    assert found[-2] == "train: 97 of 100 (loss 1.000, 96 s, 0:03 left)"


def test_work_that_goes_on_in_the_middle_is_judged_by_what_was_done_since():
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, clock=clock)
    for step in range(500, 1000):
        lines.update("train", step, 1000)
        clock.now += 1.0
    assert stream.getvalue().splitlines()[0] == "train: 530 of 1,000 (30 s, 7:50 left)"


def test_what_is_prepared_before_the_first_step_says_nothing_of_the_steps():
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, clock=clock)
    lines.update("refine", 0, 1000)
    clock.now += 170.0
    for step in range(1, 1001):
        clock.now += 0.1
        lines.update("refine", step, 1000)
    found = stream.getvalue().splitlines()
    assert "left" not in found[0]
    assert found[1] == "refine: 101 of 1,000 (180 s, 1:30 left)"


def test_slow_work_gives_a_sign_of_life_each_half_minute():
    assert len(lines_of(31.0, steps=5)) == 4


def test_lines_are_seconds_apart():
    assert len(lines_of(0.1)) == 4


def test_bars_show_how_far_and_go_when_all_is_done():
    stream = io.StringIO()
    bars = Bars(stream)
    bars.log("[bold]hello\nworld")
    bars.update("train", 1, 2)
    bars.update("train", 2, 2)
    bars.close()
    assert stream.getvalue().startswith("[bold]hello\\nworld\n")


def test_direction_overrides_become_visible():
    assert printable("cat\u202egnp.exe\udcff") == "cat\\u202egnp.exe\\udcff"
