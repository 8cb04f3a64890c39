"""Prompts with the frames from which they are wanted, and the blocks where that can be."""

import pytest

from harness.errors import HarnessError
from harness.pipeline.schedule import Cue, Switch, check_cues, first_frame_of, latents_for, place_switches, read_cues


def test_frames_before_prompts_make_one_video():
    assert read_cues(["0: a red 3", " 40 :a blue: 1"]) == (Cue(0, "a red 3"), Cue(40, "a blue: 1"))
    assert read_cues(["0:\na\nb"]) == (Cue(0, "a\nb"),)
    assert read_cues(["a red 3", "at 3: a blue 1"]) is None
    assert read_cues([]) is None


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["0: a", "b"], r'prompt "b": others begin with a frame \("0: a"\)'),
        (["4: a"], r'prompt "4: a": the first prompt of a video is that of frame 0'),
        (["0: a", "9: b", "9: c"], r'prompt "9: c": comes after that of frame 9; expected growing frames'),
        (["0: a", "9: b", "5: c"], r'prompt "5: c": comes after that of frame 9'),
        (["0: a", "9: "], r'prompt "9:": an empty prompt'),
    ],
)
def test_what_makes_no_video_is_told(prompts, message):
    with pytest.raises(HarnessError, match=message):
        read_cues(prompts)


def test_a_video_without_a_prompt_is_told():
    with pytest.raises(HarnessError, match="the first prompt of a video is that of frame 0"):
        check_cues([])


def test_frames_and_latent_frames():
    assert [first_frame_of(latent, 4) for latent in range(4)] == [0, 1, 5, 9]
    assert [latents_for(frames, 4) for frames in (1, 2, 5, 6, 9, 2000, 2001)] == [1, 2, 2, 3, 3, 501, 501]


def placed(*frames: int, starts=range(0, 21, 3)) -> list[tuple[int, int]]:
    cues = [Cue(0, "first"), *(Cue(frame, f"of {frame}") for frame in frames)]
    switches = place_switches(cues, list(starts), 4)
    assert [(switch.asked, switch.prompt) for switch in switches] == [(frame, f"of {frame}") for frame in frames]
    return [(switch.latent, switch.frame) for switch in switches]


def test_a_switch_waits_for_the_next_block():
    """Blocks of three latent frames begin at frames 0, 9, 21, 33, 45, …"""
    assert placed() == []
    assert placed(1) == placed(8) == placed(9) == [(3, 9)]
    assert placed(10, 40) == [(6, 21), (12, 45)]
    assert placed(1, starts=[1, 4, 7]) == [(1, 1)]  # behind a given first frame
    assert place_switches([Cue(0, "a"), Cue(2, "b")], [0, 3], 4) == (Switch(3, 9, 2, "b"),)


def test_a_prompt_that_would_never_be_seen_is_told():
    assert placed(69) == [(18, 69)]
    with pytest.raises(HarnessError, match=r'"70: of 70": the last block of the video begins at frame 69'):
        placed(70)
    with pytest.raises(HarnessError, match="frames 10 and 20 both take effect at frame 21"):
        placed(10, 20)
