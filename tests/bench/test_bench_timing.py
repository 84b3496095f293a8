"""Contenders are timed in turn, warm-ups are not counted, and one that has used its time sits out."""

import time

import pytest

from bench.timing import interleave, ratio


class Clock:
    """A clock that only the samplers advance; `calls` remembers who ran."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def sampler(self, name, *durations):
        remaining = list(durations)

        def sample():
            duration = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            self.calls.append(name)
            self.now += duration
            return {"full": duration}

        return sample


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def run(samplers, *, rounds=3, allowance=1e9, warm_up=()):
    return interleave(
        samplers, rounds=rounds, allowance=lambda name: allowance, warm_up=lambda name: name in warm_up, share=0.25
    )


def test_contenders_run_in_turn_after_their_warm_up(clock):
    samples = run({"a": clock.sampler("a", 9.0, 1.0, 2.0, 3.0), "b": clock.sampler("b", 4.0)}, warm_up=("a",))
    assert "".join(clock.calls) == "a" + "ab" * 3
    assert samples == {"a": {"full": [1.0, 2.0, 3.0]}, "b": {"full": [4.0, 4.0, 4.0]}}


def test_a_fast_contender_repeats_within_its_turn_and_the_median_counts(clock):
    samples = run({"fast": clock.sampler("fast", 0.125, 0.0625)}, rounds=1)
    assert len(clock.calls) == 3  # 0.125 + 0.0625 + 0.0625 is the share of a quarter of a second
    assert samples["fast"]["full"] == [0.0625]


def test_a_contender_that_used_its_allowance_sits_out(clock):
    samples = run({"slow": clock.sampler("slow", 6.0), "quick": clock.sampler("quick", 1.0)}, rounds=5, allowance=10)
    assert samples["slow"]["full"] == [6.0] * 2
    assert samples["quick"]["full"] == [1.0] * 5


def test_ratio_compares_times_of_the_same_round():
    drifting, twice_as_slow = [1.0, 2.0, 4.0], [2.0, 4.0, 8.0]
    assert ratio(twice_as_slow, drifting) == 2
    assert ratio(twice_as_slow[:1], drifting) == 2
