import json
import shutil

import pytest

from harness.data.shards import (
    main,
    read_fingerprint,
    require_fingerprint,
    require_image,
    verify_data,
    verify_encoders,
    verify_shards,
)
from harness.errors import HarnessError


@pytest.fixture
def encoded(data, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(data.encoded, tmp_path / "encoded")
    return tmp_path / "encoded"


def shard_of(encoded):
    return encoded / "train" / "part-00000" / "shard.00000.mds"


def test_whole_data_passes(data, encoded, capsys):
    assert verify_data(encoded) == {"train": 46, "validation": 5, "test": 5}
    assert main([str(data.clips), str(encoded), "--encoders", str(data.encoders)]) == 0
    told = capsys.readouterr().err
    assert f"{encoded}: encoded by {data.encoders} (vae, text_encoder, tokenizer)" in told
    assert told.count("every shard is as written") == 2


def test_other_encoders_are_refused(data, encoded, tmp_path):
    assert verify_encoders(data.clips, "nowhere") == (), "source clips are encoded by nothing"
    shutil.copytree(data.encoders, tmp_path / "encoders")
    with open(tmp_path / "encoders/vae/config.json", "a") as file:
        file.write(" ")
    with pytest.raises(HarnessError, match=r"encoded by something else:\n  vae: '\w+' here, '\w+' wanted\nRun"):
        main([str(encoded), "--encoders", str(tmp_path / "encoders")])
    shutil.rmtree(tmp_path / "encoders/tokenizer")
    with pytest.raises(HarnessError, match="tokenizer: no such folder, so it cannot be checked"):
        verify_encoders(encoded, tmp_path / "encoders")


def test_the_image_encoder_is_compared_too(image_data, tmp_path, capsys):
    assert main([str(image_data.encoded), "--encoders", str(image_data.encoders)]) == 0
    assert "(vae, text_encoder, tokenizer, image_encoder, image_processor)" in capsys.readouterr().err
    for part in ("image_encoder/config.json", "image_processor/preprocessor_config.json"):
        encoders = shutil.copytree(image_data.encoders, tmp_path / part.partition("/")[0])
        with open(encoders / part, "a") as file:
            file.write(" ")
        with pytest.raises(HarnessError, match=rf"by something else:\n  {part.partition('/')[0]}: '\w+' here"):
            verify_encoders(image_data.encoded, encoders)
    shutil.rmtree(tmp_path / "image_encoder/image_encoder")
    with pytest.raises(HarnessError, match="image_encoder: no such folder, so it cannot be checked"):
        verify_encoders(image_data.encoded, tmp_path / "image_encoder")


def test_data_for_image_to_video_is_known_by_its_fingerprint(data, image_data):
    require_image(image_data.encoded)
    with pytest.raises(HarnessError, match=r"fingerprint\.json: this data has no image tokens"):
        require_image(data.encoded)


def test_encoded_data_without_a_fingerprint_is_refused(data, encoded):
    (encoded / "fingerprint.json").unlink()
    with pytest.raises(HarnessError, match=r"fingerprint\.json: no such file"):
        verify_encoders(encoded, data.encoders)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(HarnessError, match=r"nope: no such folder\. Expected data with the splits train"):
        main([str(tmp_path / "nope")])


def test_flipped_byte_is_found(encoded):
    content = bytearray(shard_of(encoded).read_bytes())
    content[len(content) // 2] ^= 1
    shard_of(encoded).write_bytes(content)
    with pytest.raises(HarnessError, match=r"train/part-00000/shard\.00000\.mds: damaged, its sha256 is"):
        verify_data(encoded)


def test_truncated_shard_is_found(encoded):
    shard_of(encoded).write_bytes(shard_of(encoded).read_bytes()[:-1])
    with pytest.raises(HarnessError, match=r"train/part-00000/shard\.00000\.mds: has [\d,]+ bytes, .* says [\d,]+"):
        verify_shards(encoded / "train")


def test_missing_shard_is_found(encoded):
    shard_of(encoded).unlink()
    with pytest.raises(HarnessError, match=r"shard\.00000\.mds: shard is missing"):
        verify_shards(encoded / "train")


def test_index_without_sums_is_refused(encoded):
    index = encoded / "train" / "index.json"
    content = json.loads(index.read_text())
    content["shards"][0]["raw_data"]["hashes"] = {}
    index.write_text(json.dumps(content))
    with pytest.raises(HarnessError, match="no sha256 sum"):
        verify_shards(encoded / "train")


def test_no_splits(tmp_path):
    with pytest.raises(HarnessError, match="none of the splits"):
        verify_data(tmp_path)


def test_fingerprint_of_the_right_encoders_passes(encoded):
    found = read_fingerprint(encoded)
    assert require_fingerprint(encoded, {"vae": found["vae"], "frames": 9, "latent_shape": [16, 3, 4, 6]}) == found


def test_fingerprint_mismatch_shows_both_sides_of_every_difference(encoded):
    found = read_fingerprint(encoded)
    with pytest.raises(HarnessError) as caught:
        require_fingerprint(encoded, {"vae": "another", "frames": 33, "height": 16})
    message = str(caught.value)
    assert f"vae: {found['vae']!r} here, 'another' wanted" in message
    assert "frames: 9 here, 33 wanted" in message
    assert "height" not in message


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "no such file"), ("{", "not valid JSON"), ('{"schema": 99}', "schema is 99")]
)
def test_unusable_fingerprint(encoded, content, expected):
    (encoded / "fingerprint.json").unlink()
    if content is not None:
        (encoded / "fingerprint.json").write_text(content)
    with pytest.raises(HarnessError, match=expected):
        read_fingerprint(encoded)
