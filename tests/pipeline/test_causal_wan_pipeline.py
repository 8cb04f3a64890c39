"""The pipeline: whole clips and streams of them, from words and pictures, saved and read back."""

import numpy as np
import pytest
import torch
import yaml
from attrs import evolve
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from image_project import FRAMES, LATENT, SIZE, photo, target
from PIL import Image

from harness.config.schema import RolloutConfig
from harness.data.conditions import image_condition
from harness.data.pictures import fit_picture, read_picture
from harness.errors import HarnessError
from harness.io import read_json
from harness.models.codec import decode_latents
from harness.models.image import load_image_encoder
from harness.models.presets import build_model
from harness.pipeline import CausalWanPipeline

WAYS = ("none", "channels", "first_latent", "both")
PROMPT = "a red 7 moving left slowly"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((40, 30))


def image_for(way: str, seed: int = 0) -> dict:
    return {} if way == "none" else {"image": picture(seed)}


def latents(pipeline: CausalWanPipeline, way: str, seed: int = 0, image: int = 0, **options) -> torch.Tensor:
    return pipeline(PROMPT, **image_for(way, image), generator=seeded(seed), output_type="latent", **options).frames


@pytest.mark.parametrize("way", WAYS)
def test_a_call_gives_a_clip_of_the_trained_size_and_the_generators_noise(pipelines, way):
    first, again, other = (latents(pipelines[way], way, seed) for seed in (0, 0, 1))
    assert first.shape == (1, *LATENT)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    frames = pipelines[way](prompt=PROMPT, **image_for(way), generator=seeded()).frames
    assert frames.shape == (1, FRAMES, SIZE, SIZE, 3)
    assert (frames.min() >= 0, frames.max() <= 1) == (True, True)
    expected = decode_latents(pipelines[way].vae, first).mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
    assert np.array_equal(frames, expected.numpy())


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_picture_reaches_the_network_and_a_given_frame_is_exact(pipelines, project, way):
    first, other = latents(pipelines[way], way), latents(pipelines[way], way, image=1)
    assert not torch.allclose(first[:, :, 1:], other[:, :, 1:], atol=1e-3)
    encoder = load_image_encoder(project / "checkpoints/encoders/image_encoder")
    pixels = torch.from_numpy(fit_picture(picture(), SIZE, SIZE).pixels)[None]
    given = image_condition(pipelines[way].vae, encoder, pixels, LATENT[1]).first_latent
    assert torch.allclose(first[:, :, :1], given, atol=1e-6) == (way != "channels")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_stream_is_the_call_in_pieces(project, way, attention):
    pipeline = CausalWanPipeline.from_target(target(way), project)
    pipeline.settings = evolve(pipeline.settings, attention=attention, frames_per_block=2)
    options = {"num_frames": 17, **image_for(way)}  # 5 latent frames: the last block is shorter
    whole = pipeline(PROMPT, generator=seeded(), output_type="latent", **options).frames
    blocks = list(pipeline.stream(PROMPT, generator=seeded(), output_type="latent", **options))
    assert not any(block.requires_grad for block in blocks)
    given = pipeline.settings.first_frame_given
    expected = [5] if attention == "bidirectional" else [1, 2, 2] if given else [2, 2, 1]
    assert [block.shape[2] for block in blocks] == expected
    assert torch.equal(torch.cat(blocks, dim=2), whole)
    frames = pipeline(PROMPT, generator=seeded(), **options).frames
    pieces = list(pipeline.stream(PROMPT, generator=seeded(), **options))
    assert [piece.shape[1] for piece in pieces] == [4 * expected[0] - 3, *(4 * size for size in expected[1:])]
    assert np.array_equal(np.concatenate(pieces, axis=1), frames)
    assert frames.shape[1] == 17


def test_a_block_is_given_out_before_the_next_is_begun(pipelines):
    pipeline, calls = pipelines["both"], []
    handle = pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        stream = pipeline.stream(PROMPT, picture(), generator=seeded(), num_frames=41, output_type="pt")
        assert calls == []
        assert next(stream).shape == (1, 1, 3, SIZE, SIZE)
        assert calls == []  # the given frame takes no pass
        counts = []
        for _ in stream:
            counts.append(len(calls))
            assert torch.is_grad_enabled()  # nothing leaks to the caller
    finally:
        handle.remove()
    # two steps to a block, and a pass that commits the one before it
    assert counts == [3 * block for block in range(1, 11)]


def test_the_given_frame_is_decoded_first_and_is_the_picture_through_the_vae(pipelines):
    frames = next(pipelines["first_latent"].stream(PROMPT, picture(), generator=seeded()))
    other = next(pipelines["first_latent"].stream(PROMPT, picture(), generator=seeded(1)))
    assert np.array_equal(frames, other)
    assert not np.allclose(frames, next(pipelines["first_latent"].stream(PROMPT, picture(1))), atol=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_longer_than_trained_begins_as_the_trained_length(pipelines, way):
    """Causal: more frames do not change the first ones, given the same noise."""
    noise = torch.randn(1, LATENT[0], 11, *LATENT[2:], generator=seeded())
    pipeline = pipelines[way]

    def made(count: int) -> torch.Tensor:
        start = noise[:, :, :count]
        pieces = pipeline.stream(
            PROMPT, **image_for(way), latents=start, generator=seeded(3), num_frames=4 * count - 3, output_type="latent"
        )
        return torch.cat(list(pieces), dim=2)

    long, short = made(11), made(LATENT[1])
    assert long.shape[2] == 11
    assert torch.allclose(long[:, :, : LATENT[1]], short, atol=1e-4)
    assert long[:, :, LATENT[1] :].isfinite().all()


OTHER = "a blue 1 moving up quickly"


@pytest.mark.parametrize("way", ["none", "both"])
def test_one_clip_of_several_prompts(pipelines, way):
    """Blocks begin at frames 0, 1, 5, 9, 13, …: the second prompt is seen from frame 13 on."""
    options = {"num_frames": 33, **image_for(way)}

    def made(prompt) -> np.ndarray:
        return pipelines[way](prompt, generator=seeded(), **options).frames

    one, two = made(PROMPT), made([(0, PROMPT), (10, OTHER)])
    assert two.shape == one.shape
    assert np.array_equal(two[:, :13], one[:, :13])
    assert not np.allclose(two[:, 13:17], one[:, 13:17], atol=1e-4)
    pieces = list(pipelines[way].stream([(0, PROMPT), (10, OTHER)], generator=seeded(), **options))
    assert np.array_equal(np.concatenate(pieces, axis=1), two)


def test_noise_beyond_the_trained_length_is_drawn_when_its_block_is_due(pipelines):
    rng = seeded()
    stream = pipelines["none"].stream(PROMPT, generator=rng, num_frames=400_001, output_type="latent")
    first = [next(stream) for _ in range(6)]
    short = pipelines["none"](PROMPT, generator=seeded(), num_frames=21, output_type="latent").frames
    assert torch.equal(torch.cat(first, dim=2), short)
    assert not torch.equal(first[4], first[5])


@pytest.mark.parametrize("way", WAYS)
def test_each_clip_of_a_batch_is_its_own(pipelines, way):
    prompts = [PROMPT, "a blue 1 moving up quickly"]
    noise = torch.randn(2, *LATENT, generator=seeded())
    pipeline = pipelines[way]
    pipeline = CausalWanPipeline(**pipeline.components, **_one_step(pipeline))  # nothing is drawn between steps
    images = {} if way == "none" else {"image": [picture(0), picture(1)]}
    both = pipeline(prompts, **images, latents=noise, output_type="latent").frames
    for number, prompt in enumerate(prompts):
        one = {} if way == "none" else {"image": picture(number)}
        alone = pipeline(prompt, **one, latents=noise[number : number + 1], output_type="latent").frames
        assert torch.allclose(both[number : number + 1], alone, atol=1e-4)
    if way != "none":  # one picture serves all
        shared = pipeline(prompts, image=picture(0), latents=noise, output_type="latent").frames
        assert torch.allclose(shared[0], both[0], atol=1e-4)
        assert not torch.allclose(shared[1], both[1], atol=1e-3)


def _one_step(pipeline: CausalWanPipeline) -> dict:
    settings = {name: pipeline.config[name] for name in ("text_length", "height", "width", "num_frames")}
    rollout = evolve(pipeline.settings, denoising_steps=(1000,))
    return settings | {"rollout": rollout, "position_channels": pipeline.config["position_channels"]}


def test_the_prompt_matters_and_global_randomness_serves_without_a_generator(pipelines):
    pipeline = pipelines["none"]
    noise = torch.randn(1, *LATENT, generator=seeded())
    one, other = (
        pipeline(prompt, latents=noise, generator=seeded(), output_type="latent").frames
        for prompt in (PROMPT, "a blue 1 moving up quickly")
    )
    assert not torch.allclose(one, other, atol=1e-4)
    made = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        made.append(pipeline(PROMPT, output_type="latent").frames)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_other_sizes_and_kinds_of_output(pipelines):
    pipeline = pipelines["both"]
    assert pipeline(PROMPT, picture(), height=16, width=40, generator=seeded()).frames.shape == (1, FRAMES, 16, 40, 3)
    (frames,) = pipeline(PROMPT, picture(), generator=seeded(), output_type="pt", return_dict=False)
    assert frames.shape == (1, FRAMES, 3, SIZE, SIZE)
    (clip,) = pipeline(PROMPT, picture(), generator=seeded(), output_type="pil").frames
    assert len(clip) == FRAMES
    assert clip[0].size == (SIZE, SIZE)


@pytest.mark.parametrize("kind", ["file", "pil", "array"])
def test_a_picture_may_be_a_file_an_image_or_an_array(pipelines, tmp_path, kind):
    path = photo(tmp_path / "photo.png")
    given = {"file": path, "pil": Image.open(path), "array": np.asarray(Image.open(path))}[kind]
    made = pipelines["both"](PROMPT, given, generator=seeded(), output_type="latent").frames
    pixels = read_picture(path, SIZE, SIZE).pixels
    assert torch.equal(made, pipelines["both"](PROMPT, pixels, generator=seeded(), output_type="latent").frames)


@pytest.mark.parametrize("way", WAYS)
def test_saved_and_read_back_it_is_the_same_bit_for_bit(pipelines, tmp_path, way):
    pipeline, folder = pipelines[way], tmp_path / "saved"
    pipeline.save_pretrained(folder)
    again = CausalWanPipeline.from_pretrained(folder)
    assert again.settings == pipeline.settings
    assert {name: again.config[name] for name in pipeline.config if not name.startswith("_")}.keys() >= {"rollout"}
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            stored, read = part.state_dict(), getattr(again, name).state_dict()
            assert stored.keys() == read.keys()
            assert all(torch.equal(stored[key], read[key]) and stored[key].dtype == read[key].dtype for key in stored)
    assert torch.equal(latents(again, way, num_frames=17), latents(pipeline, way, num_frames=17))
    again.save_pretrained(folder)  # in its own place
    assert torch.equal(latents(CausalWanPipeline.from_pretrained(folder), way), latents(pipeline, way))
    assert not [path for path in tmp_path.iterdir() if path != folder]


def test_the_saved_network_is_diffusers_own_class(pipelines, tmp_path):
    pipelines["both"].save_pretrained(tmp_path / "saved")
    index = read_json(tmp_path / "saved/model_index.json")
    assert index["_class_name"] == "CausalWanPipeline"
    assert index["transformer"] == ["diffusers", "WanTransformer3DModel"]
    assert index["rollout"]["image_conditioning"] == "both"
    assert read_json(tmp_path / "saved/transformer/config.json")["_class_name"] == "WanTransformer3DModel"
    stock = WanTransformer3DModel.from_pretrained(tmp_path / "saved/transformer")
    own = pipelines["both"].transformer.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in stock.state_dict().items())
    assert not list((tmp_path / "saved").rglob("*.bin"))


def test_types_and_parts_can_be_chosen_when_reading(pipelines, tmp_path):
    folder = tmp_path / "saved"
    pipelines["channels"].save_pretrained(folder)
    half = CausalWanPipeline.from_pretrained(folder, torch_dtype={"transformer": torch.bfloat16})
    assert (half.transformer.dtype, half.text_encoder.dtype) == (torch.bfloat16, torch.float32)
    made = latents(half, "channels")
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    half.save_pretrained(tmp_path / "half")
    assert CausalWanPipeline.from_pretrained(tmp_path / "half").transformer.dtype == torch.bfloat16
    whole = CausalWanPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert whole.vae.dtype == whole.image_encoder.dtype == torch.bfloat16
    assert np.isfinite(whole(PROMPT, picture(), generator=seeded()).frames).all()
    own = build_model("tiny-i2v")
    other = CausalWanPipeline.from_pretrained(folder, transformer=own, rollout=RolloutConfig(frames_per_block=3))
    assert other.transformer is own
    assert other.settings.frames_per_block == 3
    with pytest.raises(HarnessError, match="unknown scheduler"):
        CausalWanPipeline.from_pretrained(folder, scheduler=None)


def test_what_cannot_be_read_or_written_is_told(pipelines, tmp_path, project):
    with pytest.raises(HarnessError, match=r"model_index\.json: no such file"):
        CausalWanPipeline.from_pretrained(tmp_path)
    folder = tmp_path / "saved"
    pipelines["none"].save_pretrained(folder)
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(HarnessError, match="truncated or damaged"):
        CausalWanPipeline.from_pretrained(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(HarnessError, match="is no pipeline: it is not replaced"):
        pipelines["none"].save_pretrained(tmp_path / "mine")
    with pytest.raises(HarnessError, match="safetensors only"):
        pipelines["none"].save_pretrained(tmp_path / "other", safe_serialization=False)
    parts = pipelines["channels"].components | {"image_encoder": None}
    with pytest.raises(HarnessError, match="image_encoder and image_processor are needed"):
        CausalWanPipeline(**parts, rollout=pipelines["channels"].settings)
    with pytest.raises(HarnessError, match="rollout: expected"):
        CausalWanPipeline(**pipelines["none"].components)
    with pytest.raises(HarnessError, match="a teacher takes many guided steps"):
        CausalWanPipeline.from_target("teacher", project)


@pytest.mark.parametrize(
    ("way", "options", "message"),
    [
        ("none", {"image": True}, "makes video from text alone"),
        ("both", {}, "makes video from a picture; give one"),
        ("none", {"prompt": " "}, "an empty prompt"),
        ("none", {"prompt": []}, "prompt: an empty list"),
        ("none", {"prompt": [(0, PROMPT), PROMPT]}, "has no frame; expected"),
        ("none", {"prompt": [(3, PROMPT)]}, "the first prompt of a video is that of frame 0"),
        ("none", {"prompt": [(0, PROMPT), (9, " ")]}, "an empty prompt"),
        ("none", {"prompt": [(0, PROMPT), (9, OTHER)]}, "the last block of the video begins at frame 5"),
        ("none", {"num_frames": 8}, r"num_frames 8: expected 1 \+ 4k pixel frames, such as 5 or 9"),
        ("none", {"num_frames": 0}, "num_frames 0"),
        ("first_latent", {"num_frames": 1, "image": True}, "the only frame would be the given picture"),
        ("none", {"height": 20}, "height 20: expected a multiple of 8"),
        ("none", {"latents": torch.zeros(1, 16, 2, 6, 6)}, r"latents: \[1, 16, 2, 6, 6\], expected \[1, 16, 3, 6, 6\]"),
        ("none", {"output_type": "gif"}, "output_type: 'gif'"),
        ("both", {"image": 3}, "got int"),
        ("both", {"image": [picture()] * 3, "prompt": [PROMPT] * 2}, "3 pictures for 2 prompts"),
        ("both", {"image": "nowhere.png"}, "nowhere.png: no such file"),
    ],
)
@pytest.mark.parametrize("how", ["__call__", "stream"])
def test_what_does_not_fit_is_told_at_once(pipelines, way, options, message, how):
    options = {"prompt": PROMPT} | options
    if options.get("image") is True:
        options["image"] = picture()
    with pytest.raises(HarnessError, match=message):
        getattr(pipelines[way], how)(**options)  # a stream before its first block


def test_the_pipeline_of_a_target_knows_its_run(project, pipelines):
    config = pipelines["channels"].config
    assert (config["height"], config["width"], config["num_frames"], config["fps"]) == (SIZE, SIZE, FRAMES, 8)
    assert (config["text_length"], config["position_channels"]) == (12, True)


def test_a_causal_sft_is_sampled_causally_where_the_preset_is_bidirectional(project, tmp_path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["presets"]["small"]["run"]["rollout"]["attention"] = "bidirectional"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for folder in ("checkpoints", "data", "experiments"):
        (tmp_path / folder).symlink_to(project / folder)
    for name, attention in (("causal_sft_i2v/both/seed0", "causal"), (target("both"), "bidirectional")):
        assert CausalWanPipeline.from_target(name, tmp_path).settings.attention == attention


@pytest.fixture
def stock(pipelines, tmp_path):
    """A folder of diffusers' own image-to-video pipeline, with the real VAE, tiny."""
    torch.manual_seed(0)
    sizes = {"base_dim": 8, "z_dim": LATENT[0], "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    parts = pipelines["channels"].components | {"vae": AutoencoderKLWan(**sizes)}
    geometry = dict(pipelines["channels"].transformer.config) | {"in_channels": 2 * LATENT[0] + 4}
    parts["transformer"] = WanTransformer3DModel.from_config(geometry)
    WanImageToVideoPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path / "stock")
    return tmp_path / "stock"


def test_a_folder_of_diffusers_pipeline_is_read_with_the_rollout_given(stock, tmp_path):
    """And the real VAE streams, over one block more than it would need."""
    rollout = RolloutConfig(image_conditioning="both", frames_per_block=2, denoising_steps=(1000, 500))
    with pytest.raises(HarnessError, match=r"says nothing of `rollout`"):
        CausalWanPipeline.from_pretrained(stock)
    pipeline = CausalWanPipeline.from_pretrained(stock, rollout=rollout, text_length=12, height=16, width=32)
    options = {"num_frames": 17, "generator": seeded()}
    whole = pipeline(PROMPT, picture(), **options).frames
    pieces = list(pipeline.stream(PROMPT, picture(), **options | {"generator": seeded()}))
    assert [piece.shape for piece in pieces] == [(1, 1, 16, 32, 3), (1, 8, 16, 32, 3), (1, 8, 16, 32, 3)]
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)
    pipeline.save_pretrained(tmp_path / "saved")
    again = CausalWanPipeline.from_pretrained(tmp_path / "saved")
    assert np.array_equal(again(PROMPT, picture(), **options | {"generator": seeded()}).frames, whole)


@pytest.mark.parametrize("name", ["wan2.1-i2v-14b-480p", "wan2.1-t2v-1.3b"])
def test_shapes_at_wans_size(name):
    """81 frames of 480 × 832 at the published geometries, without weights."""
    way = "channels" if "i2v" in name else "none"
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    eyes = torch.nn.Identity() if way == "channels" else None
    pipeline = CausalWanPipeline(
        build_model(name, device="meta"), vae, None, None, eyes, None, RolloutConfig(image_conditioning=way)
    )
    assert pipeline._shape(81, 480, 832) == (16, 21, 60, 104)
    assert pipeline._shape(801, 480, 832) == (16, 201, 60, 104)
    with pytest.raises(HarnessError, match="height 488: expected a multiple of 16"):
        pipeline._shape(81, 488, 832)
