"""A film is what `sample` makes with the same seed, and goes on from there as a stream does."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from attrs import evolve
from image_project import FRAMES, SIZE, photo, target

from harness.config.schema import RolloutConfig
from harness.errors import HarnessError
from harness.evaluation import sample
from harness.interactive.film import Film, endless
from harness.interactive.loading import load_film

PROMPT, OTHER = "a red 7 moving left slowly", "a blue 1 moving up quickly"
CLIP = FRAMES  # pixel frames of a clip as trained: 3 latent frames, in blocks of one


@pytest.fixture(scope="module")
def loaded(project):
    return load_film(target("none"), project)


def made(film: Film, blocks: int) -> np.ndarray:
    return np.concatenate([film.next().frames for _ in range(blocks)])


@pytest.mark.parametrize("way", ["none", "channels", "first_latent", "both"])
def test_the_first_clip_is_that_of_sample(project, tmp_path, monkeypatch, way):
    picture = [] if way == "none" else ["--image", str(photo(tmp_path / "p.png"))]
    kept = []
    monkeypatch.setattr(sample, "save_video", lambda path, video, fps: kept.append(video))
    monkeypatch.setattr(sample, "enlarge", lambda video, factor: video)
    arguments = sample.parser().parse_args([target(way), PROMPT, "--seed", "3", "--out", str(tmp_path / "o"), *picture])
    sample.sample(arguments, project)
    loaded = load_film(target(way), project, image=picture[-1] if picture else None)
    loaded.film.begin(loaded.reader.read(PROMPT), 3)
    frames = made(loaded.film, 3)
    assert frames.shape == (CLIP, SIZE, SIZE, 3)
    assert np.abs(frames.astype(int) - kept[0].astype(int)).max() <= 1  # a VAE that goes on rounds otherwise
    assert frames.std() > 5


def test_a_video_of_several_prompts_is_that_of_sample_bit_for_bit(project, tmp_path):
    """So what was seen can be made again: each prompt with the frame from which it was seen."""
    words = [target("none"), "--prompt", f"0: {PROMPT}", "--prompt", f"13: {OTHER}", "--seed", "5", "--frames", "33"]
    words += ["--window", "3", "--sink", "1", "--out", str(tmp_path / "x.webp")]
    (path,) = sample.sample(sample.parser().parse_args(words), project)
    loaded = load_film(target("none"), project)
    film = loaded.film
    assert (film.rollout.window, film.rollout.sink, film.rollout.rope) == (3, 1, "absolute")
    film.begin(loaded.reader.read(PROMPT), 5)
    frames = made(film, 4)
    assert len(frames) == 13
    film.switch(loaded.reader.read(OTHER))
    frames = np.concatenate([frames, made(film, 5)])
    sampled = np.stack([*iio.imiter(path)])[:, ::4, ::4, :3]
    assert np.array_equal(frames, sampled)


def test_it_goes_on_without_growing_and_counts_frames(loaded):
    film = loaded.film
    film.begin(loaded.reader.read(PROMPT), 0)
    pieces = [film.next() for _ in range(5)]
    size = film._going.cache.num_bytes
    pieces += [film.next() for _ in range(35)]
    assert film._going.cache.num_bytes == size
    assert [piece.start for piece in pieces] == [0, *range(1, 4 * 39, 4)]
    assert [len(piece.frames) for piece in pieces] == [1, *[4] * 39]
    assert {piece.prompt for piece in pieces} == {PROMPT}
    later = np.concatenate([piece.frames for piece in pieces[20:]])
    assert len(np.unique(later, axis=0)) == len(later)  # noise is drawn anew for every block


def test_a_switch_changes_the_blocks_after_it_alone(loaded):
    film, (first, other) = loaded.film, map(loaded.reader.read, (PROMPT, OTHER))
    film.begin(first, 0)
    plain = made(film, 6)
    film.begin(first, 0)
    before = made(film, 4)
    film.switch(other)
    piece = film.next()
    assert np.array_equal(before, plain[: len(before)])
    assert (piece.start, piece.prompt) == (len(before), OTHER)
    assert not np.array_equal(piece.frames, plain[len(before) : len(before) + 4])


def test_the_same_prompt_said_again_only_fills_the_cache_again(loaded):
    """With `keep` nothing at all happens; so `on_switch` is heeded."""
    said = loaded.reader.read(PROMPT)

    def video(way: str, again: bool) -> np.ndarray:
        film = Film(
            loaded.film.model,
            loaded.film.vae,
            loaded.film._base,
            evolve(loaded.film.rollout, on_switch=way),
            loaded.film.shape,
        )
        film.begin(said, 0)
        frames = made(film, 4)
        if again:
            film.switch(said)
        return np.concatenate([frames, made(film, 2)])

    plain = video("keep", False)
    assert np.array_equal(video("keep", True), plain)
    assert not np.array_equal(video("clear", True), plain)


def test_seeds_and_restarts(loaded):
    film, said = loaded.film, loaded.reader.read(PROMPT)
    videos = []
    for seed in (0, 1, 0):
        film.begin(said, seed)
        videos.append(made(film, 4))
    assert np.array_equal(videos[0], videos[2])
    assert not np.array_equal(videos[0], videos[1])
    with pytest.raises(ValueError, match="call begin"):
        Film(film.model, film.vae, film._base, film.rollout, film.shape).next()


def test_bf16_is_computed_in_bf16(loaded):
    old = loaded.film
    film = Film(old.model, old.vae, old._base, old.rollout, old.shape, "bf16")
    seen = []
    handle = old.model.blocks[0].attn1.to_q.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        film.begin(loaded.reader.read(PROMPT), 0)
        assert film.next().frames.dtype == np.uint8
    finally:
        handle.remove()
    assert {output.dtype for output in seen} == {torch.bfloat16}
    assert not seen[0].requires_grad


def test_what_was_trained_with_gradient_through_the_cache_is_shown_too(loaded):
    old = loaded.film
    film = Film(old.model, old.vae, old._base, evolve(old.rollout, kv_grad="straight_through"), old.shape)
    film.begin(loaded.reader.read(PROMPT), 0)
    old.begin(loaded.reader.read(PROMPT), 0)
    assert np.array_equal(made(film, 5), made(old, 5))


def test_prompts_that_cannot_be_used(loaded):
    for empty in ("", " \t\n"):
        with pytest.raises(HarnessError, match="empty prompt"):
            loaded.reader.read(empty)
    with pytest.raises(HarnessError, match=r"longer than 12 tokens") as error:
        loaded.reader.read("a red 7 " * 40)
    assert len(str(error.value)) < 150
    assert loaded.reader.read("a red 7").notes == ()
    assert "2 of its words" in loaded.reader.read("a green dragon 7").notes[0]
    assert loaded.reader.read("  a red\n7 ").prompt == "a red 7"


ROLLOUT = RolloutConfig(frames_per_block=3)


def test_a_window_is_chosen_where_there_is_none():
    rollout, note = endless(ROLLOUT, 9, {})
    assert (rollout.window, rollout.sink, rollout.rope) == (9, 3, "absolute")
    assert "9 latent frames" in note
    assert "the first 3" in note
    assert endless(evolve(ROLLOUT, sink=2), 9, {})[0].sink == 2
    assert endless(ROLLOUT, 5, {})[0].sink == 0  # no room beside a block
    rollout, note = endless(ROLLOUT, 9, {"sink": 1, "rope": "relative", "on_switch": None})
    assert (rollout.window, rollout.sink, rollout.rope) == (9, 1, "relative")
    assert "the first 1" in note
    assert endless(evolve(ROLLOUT, rope="relative"), 9, {})[0].rope == "relative"


def test_what_was_trained_with_a_window_keeps_it():
    trained = evolve(ROLLOUT, window=12, rope="absolute")
    assert endless(trained, 9, {}) == (trained, None)
    rollout, note = endless(trained, 9, {"window": 6, "on_switch": "clear"})
    assert rollout == evolve(trained, window=6, on_switch="clear")
    assert note is None
    assert endless(ROLLOUT, 9, {"window": 6})[0] == evolve(ROLLOUT, window=6)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"window": -1}, "--window -1: expected at least 3"),
        ({"window": 2}, "--window 2: expected at least 3"),
        ({"sink": -1}, "--sink -1: expected 0 to 6"),
        ({"sink": 7}, "--sink 7: expected 0 to 6"),
        ({"window": 4, "sink": 2}, "--sink 2: expected 0 to 1"),
    ],
)
def test_windows_that_cannot_be(asked, words):
    with pytest.raises(HarnessError, match=words):
        endless(ROLLOUT, 9, asked)
