from checkpoint_makers import I2V, T2V, random_state

from harness.formats.model_card import LOADING, Provenance, model_card
from harness.formats.tensor_stream import from_tensors
from harness.formats.wan_config import check_fit


def card(geometry=T2V, layout="diffusers", **known):
    config = check_fit(geometry, from_tensors(random_state(geometry)).infos, "here")
    return model_card(Provenance(name="it", **known), config, layout, ["float32"], {"a": "b"})


def test_weights_of_which_nothing_is_known():
    text = card()
    assert text.startswith("---\nlibrary_name: diffusers\npipeline_tag: text-to-video\n")
    assert "unknown: neither a run nor an import" in text
    assert "Not evaluated." in text
    assert "## Method" not in text
    assert "pipeline_tag: image-to-video" in card(I2V)


def test_each_format_says_how_it_is_used():
    texts = {layout: card(layout=layout) for layout in LOADING}
    assert all(LOADING[layout] in text for layout, text in texts.items())
    assert len(set(texts.values())) == len(LOADING)


def test_an_imported_teacher_was_not_trained():
    imported = {"source": "Wan-AI/x", "revision": "abc", "sha256": "123"}
    text = card(manifest={"target": "teacher", "config": {"method": "sft"}, "imported": imported})
    assert "Not trained here" in text
    assert "imported from `Wan-AI/x`, revision `abc`, SHA-256 `123`" in text
    assert "method `sft`" not in text


def test_a_card_of_an_old_or_partial_run_is_still_written():
    assert "updates unknown" in card(manifest={}, cards={})
