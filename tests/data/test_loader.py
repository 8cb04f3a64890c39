import multiprocessing
import os
import shutil
import socket

import numpy as np
import pytest
import torch

from harness.data.loader import (
    LookAhead,
    build_dataloader,
    collate,
    condition_from_texts,
    data_spec,
    load_positions,
    split_batch,
)
from harness.data.mds import load_split
from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.models.condition import position_channels


def loader_of(data, batch_size=8, split="train", **arguments):
    return build_dataloader(data.encoded / split, batch_size, seed=3, text_length=data.text_length, **arguments)


def test_batch(data):
    stored = load_split(data.encoded / "train")
    batch = next(iter(loader_of(data)))
    rows = [stored["key"].index(key) for key in batch["key"]]
    assert batch["latent"].shape == (8, 16, 3, 4, 6)
    assert batch["latent"].dtype == torch.float32
    assert np.array_equal(batch["latent"].numpy(), stored["latent"][rows].astype(np.float32))
    condition = batch["condition"]
    assert condition.text.shape == (8, data.text_length, 32)
    assert np.array_equal(condition.text[5, :7].numpy(), stored["text"][rows[5]].astype(np.float32))
    assert not condition.text[:, 7:].any()
    empty = condition.unconditional().text
    assert empty.shape == condition.text.shape
    assert empty[:, 0].any()
    assert not empty[:, 1:].any()
    assert batch["caption"] == [stored["caption"][r] for r in rows]
    assert batch["attributes"] == [stored["attributes"][r] for r in rows]
    batch["latent"].add_(1)  # a copy: the stored sample does not change
    assert np.array_equal(load_split(data.encoded / "train")["latent"], stored["latent"])


def test_an_epoch_has_every_clip_once_in_a_new_order(data):
    loader = loader_of(data, 4, drop_last=False)
    first, second = ([key for batch in loader for key in batch["key"]] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(load_split(data.encoded / "train")["key"])
    assert first != second
    assert first == [key for batch in loader_of(data, 4, drop_last=False) for key in batch["key"]]
    other = build_dataloader(data.encoded / "train", 4, seed=4, text_length=data.text_length, drop_last=False)
    assert first != [key for batch in other for key in batch["key"]]


def test_without_shuffling_the_order_is_the_stored_one(data):
    keys = [key for batch in loader_of(data, 4, shuffle=False, drop_last=False) for key in batch["key"]]
    assert keys == load_split(data.encoded / "train")["key"]


def test_drop_last(data):
    assert [len(batch["key"]) for batch in loader_of(data)] == [8] * 5
    assert len(loader_of(data)) == 5
    assert [len(b["key"]) for b in loader_of(data, drop_last=False)] == [8] * 5 + [6]


@pytest.mark.parametrize("done", [1, 3, 5])
def test_resume_in_the_middle_of_the_second_epoch(data, done):
    whole = loader_of(data)
    list(whole)
    expected = [batch["key"] for batch in whole]

    begun = loader_of(data)
    list(begun)
    batches = iter(begun)
    for _ in range(done):
        next(batches)
    state = begun.state_dict()
    resumed = loader_of(data)
    resumed.load_state_dict(state)
    assert [batch["key"] for batch in resumed] == expected[done:]


def _keys_of_rank(rank, world_size, port, data, batch_size, queue):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    loader = loader_of(data, batch_size)
    queue.put((rank, [[batch["key"] for batch in loader] for _ in range(2)]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_see_the_global_batches_of_one(data):
    alone = loader_of(data, 8)
    expected = [[batch["key"] for batch in alone] for _ in range(2)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_keys_of_rank, args=(r, 2, port, data, 4, queue)) for r in (0, 1)]
    for child in children:
        child.start()
    results = dict(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
    for epoch in (0, 1):
        for both, single in zip(zip(results[0][epoch], results[1][epoch]), expected[epoch], strict=True):
            interleaved = [key for pair in zip(*both, strict=True) for key in pair]
            assert interleaved == single


def test_microbatches_cut_every_part_of_a_batch(data):
    batch = next(iter(loader_of(data)))
    pieces = split_batch(batch, 3)
    assert [len(piece["key"]) for piece in pieces] == [3, 3, 2]
    assert torch.equal(torch.cat([piece["condition"].text for piece in pieces]), batch["condition"].text)
    assert torch.equal(torch.cat([piece["latent"] for piece in pieces]), batch["latent"])
    assert all(len(piece["condition"].text) == len(piece["key"]) == len(piece["latent"]) for piece in pieces)
    spec = data_spec(loader_of(data))
    assert spec.get_num_samples_in_batch(batch) == 8
    assert len(spec.split_batch(batch, 2)) == 4


def test_fewer_clips_than_a_batch(data):
    with pytest.raises(HarnessError, match="has 5 samples, fewer than one batch of 8"):
        loader_of(data, split="test")


@pytest.mark.parametrize("damage", ["split", "index", "shard", "unconditional", "half"])
def test_missing_files_are_named(data, tmp_path, damage):
    shutil.copytree(data.encoded, tmp_path / "encoded")
    damaged = {
        "split": "train",
        "index": "train/index.json",
        "shard": "train/part-00000/shard.00000.mds",
        "unconditional": "unconditional.safetensors",
        "half": "unconditional.safetensors",
    }[damage]
    path = tmp_path / "encoded" / damaged
    if damage == "split":
        shutil.rmtree(path)
    elif damage == "half":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.unlink()
    with pytest.raises(HarnessError, match=damaged.replace(".", r"\.")):
        build_dataloader(tmp_path / "encoded" / "train", 4, seed=0, text_length=12)


def test_text_longer_than_the_model_takes(data):
    with pytest.raises(HarnessError, match=r"takes 7 tokens, but encoders\.text_length is 6"):
        next(iter(build_dataloader(data.encoded / "train", 4, seed=0, text_length=6)))


def test_texts_of_different_lengths_are_padded():
    condition = condition_from_texts([np.ones((2, 3), np.float16), np.ones((4, 3), np.float16)], 5, None)
    assert condition.text.sum((1, 2)).tolist() == [6, 12]
    assert condition.text.shape == (2, 5, 3)
    assert not condition.unconditional().text.any()


def test_prompts_have_no_latent():
    sample = {"key": "p", "text": np.ones((2, 3), np.float16), "caption": "c", "attributes": {}}
    assert set(collate([sample], text_length=4, unconditional=None)) == {"condition", "key", "caption", "attributes"}


def test_position_channels_are_given_where_the_data_asks_for_them(data, tmp_path):
    assert load_positions(data.encoded) is None
    assert next(iter(loader_of(data)))["condition"].positions is None
    told = shutil.copytree(data.encoded, tmp_path / "encoded")
    write_json(told / "fingerprint.json", read_json(told / "fingerprint.json") | {"position_channels": True})
    loader = build_dataloader(told / "train", 8, seed=3, text_length=data.text_length)
    condition = next(iter(loader))["condition"]
    assert condition.y is None
    assert condition.positions.shape == (8, 5, 3, 4, 6)
    assert torch.equal(condition.positions[7], position_channels(3, 4, 6))
    longer = load_positions(told, frames=5)
    assert longer is not None
    assert torch.equal(longer, position_channels(5, 4, 6))


def test_conditions_carry_first_frames_where_they_are_asked_for(image_data):
    stored = load_split(image_data.encoded / "train")
    batch = next(iter(loader_of(image_data, image=True)))
    condition = batch["condition"]
    rows = [stored["key"].index(key) for key in batch["key"]]
    assert {part.dtype for part in (condition.image_tokens, condition.y, condition.first_latent)} == {torch.float32}
    assert np.array_equal(condition.image_tokens.numpy(), stored["image_tokens"][rows])
    assert np.array_equal(condition.y.numpy(), stored["y"][rows])
    assert np.array_equal(condition.first_latent.numpy(), stored["latent"][rows][:, :, :1])
    assert condition.positions is None
    condition.first_latent.zero_()
    assert batch["latent"][:, :, 0].any(), "a copy: what is done to the condition leaves the latent alone"
    pieces = split_batch(batch, 3)
    assert torch.equal(torch.cat([piece["condition"].y for piece in pieces]), condition.y)


def test_without_asking_the_image_columns_are_not_touched(data, image_data):
    plain, other = (next(iter(loader_of(folder))) for folder in (data, image_data))
    condition = other["condition"]
    assert (condition.image_tokens, condition.y, condition.first_latent) == (None, None, None)
    assert set(plain) == set(other)
    assert plain["key"] == other["key"]
    assert torch.equal(plain["latent"], other["latent"])
    assert torch.equal(plain["condition"].text, condition.text)
    sample = {"key": "p", "text": np.ones((2, 3), np.float16), "caption": "c", "attributes": {}, "y": None}
    assert collate([sample], text_length=4, unconditional=None)["condition"].y is None


def test_images_that_the_data_does_not_have(data):
    with pytest.raises(HarnessError, match=r"no image tokens.*encoders\.image_encoder.*`dvc repro encode`"):
        loader_of(data, image=True)


def test_looking_ahead_consumes_nothing_and_ends_with_the_epoch():
    ahead = LookAhead(list(range(5)))
    given = iter(ahead)
    assert next(given) == 0
    assert ahead.peek(2) == [1, 2]
    assert ahead.peek(1) == [1]
    assert [next(given), next(given)] == [1, 2]
    assert ahead.peek(9) == [3, 4]
    assert list(given) == [3, 4]
    assert ahead.peek(1) == []
    assert list(ahead) == [0, 1, 2, 3, 4]
    assert len(ahead) == 5
    assert ahead.dataset is None


def test_a_batch_is_read_only_when_it_is_wanted():
    read = []

    def batches():
        for number in range(3):
            read.append(number)
            yield number

    given = iter(LookAhead(batches()))
    assert next(given) == 0
    assert read == [0]


def test_a_new_epoch_forgets_what_was_read_of_the_last():
    ahead = LookAhead(list(range(3)))
    given = iter(ahead)
    next(given)
    ahead.peek(2)
    assert next(iter(ahead)) == 0


def test_the_condition_goes_where_the_latent_goes(data):
    spec = data_spec(loader_of(data))
    batch = next(iter(loader_of(data)))
    moved = spec.microbatch_transforms({**batch, "latent": batch["latent"].to("meta")})  # as on a GPU
    assert moved["condition"].text.device.type == "meta"
    assert moved["condition"].unconditional_text.device.type == "meta"
    stayed = spec.microbatch_transforms(batch)
    assert torch.equal(stayed["condition"].text, batch["condition"].text)
