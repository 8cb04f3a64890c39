"""One video, many viewers: in order, in time, never far ahead, and at rest when nobody looks."""

import threading
import time
from contextlib import ExitStack
from itertools import pairwise

import pytest
from drawn_film import Drawn, read, until

from harness.errors import HarnessError
from harness.interactive.session import WAITING, Session


def session(film, **options) -> Session:
    return Session(film, read, read("first"), **options)


def test_frames_come_in_order_to_all_and_to_the_record():
    seen, other, recorded = [], [], []
    film = Drawn()
    with session(film, record=recorded.append, limit=22) as now, ExitStack() as stack:
        for viewer in (seen, other):
            stack.enter_context(now.watching(viewer.append))
        assert now.wait(20)
    assert [shown.frame for shown in seen] == [int(shown.image[0, 0, 0]) for shown in seen] == list(range(22))
    assert [int(image[0, 0, 0]) for image in recorded] == list(range(22))
    assert [shown.frame for shown in other] == list(range(22))[-len(other) :]
    assert (now.count, now.error, now.stopped) == (22, None, True)
    assert film.calls == [("begin", "first", 0)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_nothing_more_is_made_when_nobody_looks_or_all_is_paused(ahead):
    film, seen = Drawn(), []
    with session(film, ahead=ahead) as now:
        until(lambda: film.blocks == ahead)
        time.sleep(0.1)
        assert (film.blocks, now.count) == (ahead, 0)  # nobody looks
        with now.watching(seen.append):
            until(lambda: len(seen) > 40)
            now.pause()
            time.sleep(0.1)
            count, blocks = len(seen), film.blocks
            time.sleep(0.1)
            assert (len(seen), film.blocks) == (count, blocks)
            assert now.state().paused
            assert blocks <= count / 4 + ahead + 1
            now.pause(False)
            until(lambda: len(seen) > count)
        time.sleep(0.1)
        count, blocks = now.count, film.blocks
        time.sleep(0.1)
        assert (now.count, film.blocks) == (count, blocks)  # nobody looks any more
    assert [shown.frame for shown in seen] == list(range(len(seen)))


def test_a_prompt_takes_effect_at_the_next_block_that_is_not_begun():
    film, seen = Drawn(), []
    with session(film) as now:
        until(lambda: film.blocks == 1)
        now.say("second")
        now.say("third")
        assert now.state().coming == ("second", "third")
        assert now.state().prompt == "first"
        with now.watching(seen.append):
            until(lambda: len(seen) >= 16)
        assert now.state().coming == ()
    assert film.calls == [("begin", "first", 0), ("switch", "second", 4), ("switch", "third", 8)]
    assert [shown.prompt for shown in seen[:16]] == ["first"] * 4 + ["second"] * 4 + ["third"] * 8


def test_prompts_from_many_threads_each_get_a_block():
    film, seen = Drawn(), []
    with session(film) as now:
        threads = [threading.Thread(target=now.say, args=(f"say {i}",)) for i in range(WAITING)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with now.watching(seen.append):
            until(lambda: len(seen) > 4 * (WAITING + 2))
    assert sorted(call[1] for call in film.calls if call[0] == "switch") == [f"say {i}" for i in range(WAITING)]
    assert len({call[2] for call in film.calls if call[0] == "switch"}) == WAITING


def test_too_many_prompts_and_empty_ones_are_refused():
    film = Drawn()
    with session(film) as now:
        until(lambda: film.blocks == 1)
        for i in range(WAITING):
            now.say(f"say {i}")
        with pytest.raises(HarnessError, match=f"{WAITING} prompts wait already"):
            now.say("one more")
        for wrong in (now.say, now.restart):
            with pytest.raises(HarnessError, match="empty prompt"):
                wrong(" ")
        assert film.calls == [("begin", "first", 0)]
        now.restart()
        until(lambda: len(film.calls) == 2)
        assert film.calls[1] == ("begin", f"say {WAITING - 1}", 1)  # the last that was said
        assert now.say("one more").prompt == "one more"


def test_a_restart_begins_another_video_at_once():
    film, seen = Drawn(seconds=0.02), []
    with session(film, ahead=2, fps=400) as now, now.watching(seen.append):
        until(lambda: len(seen) > 10 and len(seen) % 4 in (1, 2))  # in the middle of a block, while one is made
        now.restart("second")
        until(lambda: seen[-1].seed == 1 and seen[-1].frame > 8)
        assert not now.state().paused
        now.restart()
        until(lambda: seen[-1].seed == 2)
    place = [(shown.seed, shown.frame) for shown in seen]
    changes = [now for before, now in pairwise(place) if now != (before[0], before[1] + 1)]
    assert changes == [(1, 0), (2, 0)]  # nothing of the old video is shown after the new one began
    assert {shown.prompt for shown in seen if shown.seed == 1} == {"second"}
    assert film.calls == [("begin", "first", 0), ("begin", "second", 1), ("begin", "second", 2)]


def test_a_restart_drops_the_rest_of_the_block_that_is_shown():
    seen = []
    with session(Drawn(), fps=100) as now, now.watching(seen.append):
        until(lambda: len(seen) % 4 == 1)
        now.pause()
        time.sleep(0.05)  # for a frame that is on its way
        count = len(seen)
        assert count % 4
        now.restart()
        until(lambda: len(seen) > count)
    assert (seen[count].seed, seen[count].frame) == (1, 0)


def test_frames_come_in_the_videos_own_time_and_speeds_are_told():
    times = []
    with session(Drawn(), fps=50) as now, now.watching(lambda shown: times.append(time.monotonic())):
        assert now.state().showing is None
        until(lambda: len(times) > 30)
        state = now.state()
    assert (times[30] - times[0]) * 50 >= 29  # never faster; a busy machine may be slower
    assert state.showing is not None
    assert 5 < state.showing < 60
    assert state.making == pytest.approx(40)  # four frames in a tenth of a second
    assert state.viewers == 1


def test_a_stall_is_not_made_up_for_by_a_rush():
    times = []
    with session(Drawn(seconds=0.2), fps=50) as now, now.watching(lambda shown: times.append(time.monotonic())):
        until(lambda: len(times) >= 12)
    for block in (1, 2):
        first, last = times[4 * block], times[4 * block + 3]
        assert last - first >= 2 / 50


@pytest.mark.parametrize("error", [HarnessError("the film broke"), RuntimeError("out of memory")])
def test_an_error_ends_it_and_is_raised_where_it_is_held(error):
    now = session(Drawn(fails_at=8, error=error))
    with pytest.raises(type(error), match=str(error)), now, now.watching(lambda shown: None):
        now.wait(20)
    assert now.error is error
    assert now.stopped
    assert not any(thread.is_alive() for thread in now._threads)


def test_a_record_that_cannot_be_written_ends_it():
    def full(image):
        raise HarnessError("x.mp4: cannot be written")

    with pytest.raises(HarnessError, match=r"x\.mp4"), session(Drawn(), record=full) as now:  # noqa: SIM117
        with now.watching(lambda shown: None):
            assert now.wait(20)


def test_the_holders_own_error_goes_first_and_threads_end():
    now = session(Drawn(seconds=0.05))
    with pytest.raises(KeyboardInterrupt), now, now.watching(lambda shown: None):
        raise KeyboardInterrupt
    assert not any(thread.is_alive() for thread in now._threads)
    assert not now.wait(0) or now.stopped
