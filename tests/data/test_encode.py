import filecmp
import json
import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from harness.data import encode as encode_module
from harness.data import parts as parts_module
from harness.data.encode import Encoders, encode, to_float16
from harness.data.mds import load_split, write_mds
from harness.data.parts import parts_of
from harness.data.processes import Processes, join_processes
from harness.data.shards import read_fingerprint, verify_data
from harness.errors import HarnessError
from harness.io import directory_digest
from harness.models.codec import decode_latents, encode_video, fit_pca, from_pixels, to_pixels
from harness.models.image import encode_images, random_clip
from harness.models.text import encode_prompt

ROOT = Path(__file__).resolve().parents[2]


def run(data, out, work, **arguments):
    encode(data.clips, data.encoders, out, text_length=data.text_length, work=work, **arguments)


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def assert_same(a, b):
    assert files_of(a) == files_of(b)
    assert filecmp.cmpfiles(a, b, files_of(a), shallow=False)[0] == files_of(a)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "PART_CLIPS", 10)


@pytest.fixture
def in_parts(data, small_parts, tmp_path):
    """The result of one process with parts of 10."""
    run(data, tmp_path / "one", tmp_path / "work-one")
    return tmp_path / "one"


def test_every_clip_is_encoded_once_and_right(data):
    clips, encoded = load_split(data.clips / "train"), load_split(data.encoded / "train")
    encoders = Encoders.load(data.encoders, text_length=data.text_length)
    assert encoded["key"] == clips["key"]
    assert encoded["caption"] == clips["caption"]
    assert encoded["attributes"] == clips["attributes"]
    assert np.array_equal(encoded["first_frame"], clips["video"][:, 0])
    expected = encode_video(encoders.vae, from_pixels(clips["video"]))
    assert encoded["latent"].dtype == np.float16
    assert np.allclose(encoded["latent"], expected.numpy(), atol=5e-3, rtol=2e-3)
    text = encode_prompt(encoders.text, clips["caption"][7]).vectors.numpy()
    assert encoded["text"][7].shape == text.shape == (7, 32)  # six words and the end
    assert np.allclose(encoded["text"][7], text, atol=5e-3)
    decoded = to_pixels(decode_latents(encoders.vae, torch.from_numpy(encoded["latent"]).float()))
    assert np.abs(decoded.astype(int) - clips["video"]).mean() < 8


def test_fingerprint_and_report(data):
    fingerprint = read_fingerprint(data.encoded)
    assert fingerprint["latent_shape"] == [16, 3, 4, 6]
    assert (fingerprint["frames"], fingerprint["height"], fingerprint["width"]) == (9, 16, 24)
    assert fingerprint["vae_class"] == "PCACodec"
    assert len(fingerprint["latents_mean"]) == 16
    assert {k: v for k, v in fingerprint.items() if k in ("vae", "text_encoder", "tokenizer")} == Encoders.load(
        data.encoders, text_length=data.text_length
    ).digests()
    report = json.loads((data.encoded / "report.json").read_text())
    assert report["written"] == {"train": 46, "validation": 5, "test": 5}
    assert report["latents"]["std"] == pytest.approx(1.0, abs=0.1)
    assert report["captions_truncated"] == []


def test_image_conditions_are_added_and_change_nothing_else(data, image_data):
    for split in ("train", "validation", "test"):
        ours, theirs = load_split(image_data.encoded / split), load_split(data.encoded / split)
        assert set(ours) - set(theirs) == {"image_tokens", "y"}
        for name in ("key", "caption", "attributes"):
            assert ours[name] == theirs[name]
        for name in ("latent", "first_frame"):
            assert np.array_equal(ours[name], theirs[name])
        assert all(np.array_equal(a, b) for a, b in zip(ours["text"], theirs["text"], strict=True))
    fingerprint, without = read_fingerprint(image_data.encoded), read_fingerprint(data.encoded)
    assert fingerprint.pop("image_tokens") == [17, 16]
    for part in ("image_encoder", "image_processor"):
        assert fingerprint.pop(part) == directory_digest(image_data.encoders / part)
    assert fingerprint == without, "the same VAE, text encoder and tokenizer: the image encoder takes no random number"


def test_every_clip_has_the_conditions_of_its_own_first_frame(image_data):
    stored = load_split(image_data.encoded / "train")
    encoders = Encoders.load(image_data.encoders, text_length=image_data.text_length, image=True)
    assert stored["image_tokens"].shape == (46, 17, 16)
    assert stored["y"].shape == (46, 20, 3, 4, 6)
    assert {stored["image_tokens"].dtype, stored["y"].dtype} == {np.dtype(np.float16)}
    assert (stored["y"][:, :4, 0] == 1).all()
    assert not stored["y"][:, :4, 1:].any()
    assert np.allclose(stored["y"][:, 4:, 0], stored["latent"][:, :, 0], atol=5e-3, rtol=2e-3)
    gray = np.full((1, 9, 16, 24, 3), 127.5)
    nothing = encode_video(encoders.vae, from_pixels(gray))[0, :, 1:]
    assert np.allclose(stored["y"][:, 4:, 1:], nothing.numpy(), atol=5e-3), "of later frames nothing is told"
    tokens = encode_images(encoders.image, torch.from_numpy(stored["first_frame"]))
    assert np.allclose(stored["image_tokens"], tokens.numpy(), atol=5e-3, rtol=2e-3)


@pytest.mark.parametrize(("count", "frames", "height", "width"), [(1, 1, 24, 24), (3, 5, 16, 40), (2, 13, 40, 16)])
def test_any_number_of_clips_of_any_size(data, count, frames, height, width):
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (20, 5, height, width, 3), dtype=np.uint8)
    text = Encoders.load(data.encoders, text_length=data.text_length).text
    tower = random_clip(16, dim=8, layers=2, seed=0)
    encoders = Encoders(fit_pca(from_pixels(videos), channels=4), text, tower, data.encoders)
    samples = [
        {
            "key": f"k{n}",
            "video": rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8),
            "caption": "a red 3 moving left slowly",
            "attributes": {},
        }
        for n in range(count)
    ]
    rows = list(encode_module.encode_clips(samples, encoders, lambda words: encode_prompt(text, words)))
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(count)]
    assert set(rows[0]) == set(encoders.columns)
    for row in rows:
        assert row["y"].shape == (8, 1 + (frames - 1) // 4, height // 4, width // 4)
        assert row["image_tokens"].shape == (17, 8)
        assert np.allclose(row["y"][4:, 0], row["latent"][:, 0], atol=5e-3)


def test_large_clips_are_encoded_one_at_a_time():
    assert encode_module.batch_of(33, 24, 24) == encode_module.batch_of(1, 16, 16) == 16
    assert encode_module.batch_of(81, 480, 832) == encode_module.batch_of(81, 720, 1280) == 1
    assert encode_module.batch_of(17, 240, 416) == 16
    assert encode_module.batch_of(33, 480, 832) == 2


def test_unusable_image_conditions_are_refused_by_the_clip_they_are_of(image_data):
    encoders = Encoders.load(image_data.encoders, text_length=image_data.text_length, image=True)
    with torch.no_grad():
        encoders.image.model.vision_model.embeddings.class_embedding.fill_(float("nan"))
    samples = [next(encode_module.iter_samples(image_data.clips / "test"))]
    with pytest.raises(HarnessError, match=rf"image tokens of clip {samples[0]['key']} has values that are not finite"):
        list(encode_module.encode_clips(samples, encoders, lambda words: encode_prompt(encoders.text, words)))


def test_images_without_an_image_encoder(data, tmp_path):
    with pytest.raises(HarnessError, match=r"image_encoder/config\.json: no such file.*`dvc repro encoders`"):
        run(data, tmp_path / "out", tmp_path / "work", image=True)
    assert not (tmp_path / "out").exists()


def test_the_verb_encodes_images_where_the_preset_has_an_image_encoder(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(encode_module, "encode", lambda *_, **arguments: given.update(arguments))
    monkeypatch.setattr(encode_module.mds, "count_samples", lambda folder: 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    for name, has in (("random_clip", True), (None, False)):
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        preset = params["presets"][params["preset"]]
        preset["encoders"]["image_encoder"] = name
        preset.pop("i2v", None)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        assert encode_module.main(["--params", str(tmp_path / "params.yaml")]) == 0
        assert given["image"] is has


def test_other_encoders_or_clips_give_another_fingerprint(data, tmp_path):
    shutil.copytree(data.encoders, tmp_path / "encoders")
    config = tmp_path / "encoders" / "vae" / "config.json"
    content = json.loads(config.read_text())
    content["latents_std"][0] *= 2
    config.write_text(json.dumps(content))
    encode(data.clips, tmp_path / "encoders", tmp_path / "out", text_length=data.text_length, work=tmp_path / "work")
    ours, theirs = read_fingerprint(tmp_path / "out"), read_fingerprint(data.encoded)
    assert {k for k in ours if ours[k] != theirs[k]} == {"vae", "latents_std"}


def test_parts_do_not_change_the_samples(data, in_parts):
    assert len(list((in_parts / "train").glob("part-*"))) == 5
    ours, theirs = load_split(in_parts / "train"), load_split(data.encoded / "train")
    assert ours["key"] == theirs["key"]
    assert np.allclose(ours["latent"], theirs["latent"], atol=2e-3)
    verify_data(in_parts)


def _rank(rank, world_size, port, data, out, work):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with join_processes() as processes:
        run(data, out, work, processes=processes)


def test_two_processes_give_the_bytes_of_one(data, in_parts, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_rank, args=(rank, 2, port, data, tmp_path / "two", tmp_path / "work"))
        for rank in (0, 1)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert_same(in_parts, tmp_path / "two")


def test_the_processes_share_the_parts(data, small_parts, tmp_path, monkeypatch):
    made = {}
    for rank in (0, 1):
        made[rank] = []
        monkeypatch.setattr(parts_module.Part, "write", lambda part, *a, rank=rank: made[rank].append(part.number))
        encode_module._make_parts(
            data.clips,
            Encoders.load(data.encoders, text_length=data.text_length),
            [p for p in parts_of(data.clips) if p.number % 2 == rank],
            tmp_path,
            Processes(rank=rank, world_size=2),
        )
    assert (made[0], made[1]) == ([0, 2, 4, 6], [1, 3, 5])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 17, 40])
def test_interrupted_encoding_goes_on_where_it_stopped(data, in_parts, tmp_path, monkeypatch, after):
    real, seen = encode_module.encode_clips, []

    def until_killed(samples, *rest):
        for row in real(samples, *rest):
            if len(seen) == after:
                raise Killed
            seen.append(row["key"])
            yield row

    monkeypatch.setattr(encode_module, "encode_clips", until_killed)
    with pytest.raises(Killed):
        run(data, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()

    again = []

    def count(samples, *rest):
        again.extend(sample["key"] for sample in samples)
        return real(samples, *rest)

    monkeypatch.setattr(encode_module, "encode_clips", count)
    run(data, tmp_path / "out", tmp_path / "work")
    assert len(again) == 56 - after // 10 * 10  # whole parts of 10 are kept, the begun one is made again
    assert_same(in_parts, tmp_path / "out")


def test_a_damaged_part_is_made_again(data, in_parts, tmp_path, monkeypatch):
    real = encode_module.assemble

    def die(*arguments):
        raise Killed

    monkeypatch.setattr(encode_module, "assemble", die)
    with pytest.raises(Killed):
        run(data, tmp_path / "out", tmp_path / "work")
    shard = next((tmp_path / "work").glob("*/train/part-00001/shard.00000.mds"))
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    monkeypatch.setattr(encode_module, "assemble", real)
    run(data, tmp_path / "out", tmp_path / "work")
    assert_same(in_parts, tmp_path / "out")


def test_a_second_call_at_the_same_time_is_refused(data, tmp_path, monkeypatch):
    real = encode_module._make_parts

    def meanwhile(*arguments):
        with pytest.raises(HarnessError, match=rf"process {os.getpid()} is at work on the same data"):
            run(data, tmp_path / "other", tmp_path / "work")
        real(*arguments)

    monkeypatch.setattr(encode_module, "_make_parts", meanwhile)
    run(data, tmp_path / "out", tmp_path / "work")
    assert verify_data(tmp_path / "out")


def test_manifest_and_shards_must_agree(data, tmp_path):
    shutil.copytree(data.clips, tmp_path / "clips")
    manifest = json.loads((tmp_path / "clips" / "clips.json").read_text())
    manifest["keys"]["test"].pop()
    (tmp_path / "clips" / "clips.json").write_text(json.dumps(manifest))
    with pytest.raises(HarnessError, match="names 4 different clips of test, the index has 5"):
        parts_of(tmp_path / "clips")


def test_a_part_with_the_wrong_clips_is_refused(data, tmp_path):
    part = parts_of(data.clips)[1]
    rows = [
        {
            "key": key,
            "latent": np.zeros((1, 1, 1, 1), np.float16),
            "text": np.zeros((1, 1), np.float16),
            "first_frame": np.zeros((1, 1, 3), np.uint8),
            "caption": "a",
            "attributes": {},
        }
        for key in (*part.keys[:-1], part.keys[0])  # one doubled, one lost
    ]
    encoders = Encoders.load(data.encoders, text_length=data.text_length)
    with pytest.raises(HarnessError, match="are not the 5 of data/clips"):
        part.write(tmp_path, encode_module.ENCODED_COLUMNS, rows, lambda text: encode_prompt(encoders.text, text))
    assert not part.folder(tmp_path).exists()


@pytest.mark.parametrize(
    ("value", "expected"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (2e3, "reaches 2000")]
)
def test_unusable_latents_are_refused(value, expected):
    with pytest.raises(HarnessError, match=f"latent of clip k .*{expected}"):
        to_float16(torch.tensor([0.0, value]), "latent of clip k", 1000.0)


def test_clips_that_do_not_fit_the_vae(data, tmp_path):
    row = {"key": "a", "video": np.zeros((8, 16, 24, 3), np.uint8), "caption": "a", "attributes": {}}
    for split in ("train", "validation", "test"):
        write_mds(tmp_path / "clips" / split, encode_module.mds.CLIP_COLUMNS, [row])
    with pytest.raises(HarnessError, match="8 frames of 16×24 does not fit the VAE"):
        encode(tmp_path / "clips", data.encoders, tmp_path / "out", text_length=8, work=tmp_path / "work")


def test_launcher_without_an_address(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HarnessError, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"), join_processes():
        pass
