import filecmp
import json
import multiprocessing
import os
import shutil
import socket

import numpy as np
import pytest
import torch

from harness.data import encode as encode_module
from harness.data import parts as parts_module
from harness.data.encode import Encoders, encode, to_float16
from harness.data.mds import load_split, write_mds
from harness.data.parts import parts_of
from harness.data.processes import Processes, join_processes
from harness.data.shards import read_fingerprint, verify_data
from harness.errors import HarnessError
from harness.models.codec import decode_latents, encode_video, from_pixels, to_pixels
from harness.models.text import encode_prompt


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
