"""`CausalWanPipeline`: words, and a picture, → video, whole or block by block as it is made. In diffusers' manner.

    pipeline = CausalWanPipeline.from_target("i2v_conditioning/both/seed0")
    frames = pipeline(prompt="a red 7 moving left slowly", image="photo.png").frames  # [B, F, H, W, 3] in [0, 1]
    for frames in pipeline.stream("a red 7 moving left slowly", image="photo.png", num_frames=321):
        ...  # those of one block, while the next is not yet begun
    pipeline.stream([(0, "a red 7 moving left slowly"), (40, "a red 7 moving up slowly")], num_frames=2001)

It samples as the generator was trained: the few steps, blocks and window of its rollout, which are saved with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from harness.config.load import load_params, structure, to_dict
from harness.config.runs import find_run
from harness.config.schema import RolloutConfig
from harness.data.loader import condition_from_texts
from harness.data.shards import read_fingerprint
from harness.errors import HarnessError
from harness.formats.placing import whole_folder
from harness.io import read_json, write_json
from harness.models.attention_backend import check_backend, set_backend
from harness.models.causal_wan import CausalWan
from harness.models.codec import VAE
from harness.models.condition import Condition, position_channels
from harness.models.frame_decoder import FrameDecoder, decode_clip
from harness.models.image import ImageEncoder
from harness.models.reference_latent import factors
from harness.models.text import TextEncoder
from harness.pipeline.generation import buffer_for, made_blocks, noise_by_block
from harness.pipeline.inputs import (
    Picture,
    Prompts,
    image_inputs,
    prompt_vectors,
    read_images,
    read_prompts,
    reads_image,
)
from harness.pipeline.parts import NAMES, cast_parts, load_parts
from harness.pipeline.schedule import Cue, Switch, latents_for, place_switches
from harness.rollout.causal import generated_spans
from harness.rollout.few_step import rollout

INDEX = "model_index.json"
OUTPUTS = ("np", "pt", "pil", "latent")


@frozen(kw_only=True, eq=False)
class _Start:
    """What a rollout of `frames` latent frames starts from: the noise of the first ones (all, or the trained length),
    the first condition, those of later prompts by the latent frame where they begin; `rng` is on the CPU.
    """

    frames: int
    noise: Tensor
    condition: Condition
    later: dict[int, Condition]
    rng: torch.Generator


class CausalWanPipeline(DiffusionPipeline):
    """A few-step generator with its encoders.

    transformer       the generator, causal or bidirectional
    vae               `AutoencoderKLWan` or the small preset's codec
    text_encoder, tokenizer
    image_encoder, image_processor
                      for a generator that reads an image; else None
    rollout           how it makes video (`RolloutConfig`, or its values)
    text_length       tokens that prompts are padded to
    height, width, num_frames
                      pixels and pixel frames of a clip as trained, the defaults of a call
    fps               frames a second as trained; not used here, for whoever writes files
    position_channels whether the network reads `harness.models.condition.position_channels`
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _optional_components = ["image_encoder", "image_processor"]  # noqa: RUF012 (as diffusers declares them)

    def __init__(
        self,
        transformer: CausalWan,
        vae: VAE,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        image_encoder: CLIPVisionModel | None = None,
        image_processor: CLIPImageProcessor | None = None,
        rollout: RolloutConfig | Mapping[str, Any] | None = None,
        text_length: int = 512,
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        fps: float = 16,
        position_channels: bool = False,
    ) -> None:
        super().__init__()
        if rollout is None:
            raise HarnessError("rollout: expected the RolloutConfig that the generator was trained with")
        values = to_dict(rollout) if isinstance(rollout, RolloutConfig) else dict(rollout)
        self.settings = structure(RolloutConfig, values, "rollout")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
            image_processor=image_processor,
        )
        self.register_to_config(
            rollout=values,
            text_length=text_length,
            height=height,
            width=width,
            num_frames=num_frames,
            fps=fps,
            position_channels=position_channels,
        )
        if self.settings.has_image and reads_image(transformer) and image_encoder is None:
            raise HarnessError("the generator reads an image: image_encoder and image_processor are needed")

    @classmethod
    def from_target(cls, target: str, root: str | Path = ".") -> CausalWanPipeline:
        """The generator of a trained run of this project (a target, or `runs/NAME`), with the encoders of its data.

        Raises:
            HarnessError: the target is unknown, is not trained, or is a teacher (which takes many guided steps).
        """
        root = Path(root)
        found = find_run(target, root)
        run, data = found.config, load_params(root / "params.yaml", found.config.preset).preset.data
        if run.method == "sft":
            raise HarnessError(
                f"{target}: a teacher takes many guided steps; this pipeline samples few-step generators. Use "
                f"`python -m harness sample {target}`"
            )
        check_backend(run.attention_backend, precision=run.precision, training=False)
        fingerprint = read_fingerprint(root / run.told_by)
        text_length = int(fingerprint["text_length"])
        encoders = root / "checkpoints" / "encoders"
        parts = load_parts(root / found.checkpoints / "model", encoders, text_length=text_length)
        set_backend(parts["transformer"], run.attention_backend)
        settings = to_dict(run.rollout)
        if run.method == "causal_sft":  # its network is causal, whatever the run's rollout says
            settings["attention"] = "causal"
        return cls(
            **parts,
            rollout=settings,
            text_length=text_length,
            height=data.height,
            width=data.width,
            num_frames=1 + factors(parts["vae"])[1] * (run.frames - 1),
            fps=data.fps,
            position_channels=bool(fingerprint.get("position_channels")),
        )

    def save_pretrained(self, save_directory: str | Path, safe_serialization: bool = True, **options: Any) -> None:  # type: ignore[override]
        """Write every part and `model_index.json`, whole or not at all; an earlier pipeline there is replaced.

        The network is written as diffusers' `WanTransformer3DModel`, for every tool that reads Wan. `options` are those
        of diffusers.

        Raises:
            HarnessError: the folder holds something else, cannot be written, or `safe_serialization` is turned off.
        """
        if not safe_serialization:
            raise HarnessError("safe_serialization: weights are written as safetensors only")
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise HarnessError(f"{folder}: is a file, expected the name of a folder; name another")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
            raise HarnessError(f"{folder}: exists and is no pipeline: it is not replaced. Name another folder")
        with whole_folder(folder) as new:
            super().save_pretrained(str(new), safe_serialization=True, **options)
            network = new / "transformer" / "config.json"
            write_json(network, read_json(network) | {"_class_name": "WanTransformer3DModel"})
            index = read_json(new / INDEX)
            write_json(new / INDEX, index | {"transformer": ["diffusers", "WanTransformer3DModel"]})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> CausalWanPipeline:  # type: ignore[override]
        """Read a folder of `save_pretrained`, every part in the type in which it was saved.

        options   `torch_dtype`: a type, or types by part; parts or settings by name replace the folder's. With
                  `rollout` given, any Wan pipeline folder can be read (for a generator distilled elsewhere)

        Raises:
            HarnessError: the folder is missing, no pipeline, or damaged; an option is unknown.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / INDEX).is_file():
            raise HarnessError(
                f"{folder / INDEX}: no such file. Expected a folder that `save_pretrained` wrote; "
                "`python -m harness import` fetches other checkpoints"
            )
        dtype = options.pop("torch_dtype", None)
        index = read_json(folder / INDEX)
        settings = {name: index[name] for name in _SETTINGS if name in index}
        unknown = sorted(options.keys() - {*NAMES, *_SETTINGS})
        if unknown:
            raise HarnessError(f"from_pretrained: unknown {', '.join(unknown)}; known: {(*NAMES, *_SETTINGS)}")
        settings |= {name: options.pop(name) for name in _SETTINGS if name in options}
        if "rollout" not in settings:
            raise HarnessError(f"{folder / INDEX}: says nothing of `rollout`; give rollout=RolloutConfig(…)")
        length = int(settings.get("text_length", 512))
        parts = load_parts(folder / "transformer", folder, text_length=length, given=options)
        cast_parts(parts, dtype)
        return cls(**parts, **settings)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts,
        image: Picture | Sequence[Picture] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> WanPipelineOutput | tuple[Any]:
        """Make one clip for each prompt, or one of several.

        prompt        words, or a list of them for a clip each; or `[(0, words), (40, others), …]` for one clip whose
                      prompt changes: each takes effect where the first block at its frame or later begins
        image         a picture for all clips, or one for each: PIL, uint8 `[H, W, 3]`, or a file; for image to video
        num_frames    pixel frames, 1 + 4k of them; any length, by default as trained
        generator     on the CPU, so that it gives the same clips on every device; None: torch's global one
        latents       noise to start from, `[B, C, F, h, w]`, instead of the generator's
        output_type   "np" `[B, F, H, W, 3]` and "pt" `[B, F, 3, H, W]` in [0, 1], "pil", or "latent" (normalised,
                      `[B, C, F, h, w]`)

        Raises HarnessError for whatever does not fit the generator.
        """
        start = self._start(prompt, image, height, width, num_frames, generator, latents, output_type)
        made = torch.cat(list(self._blocks(start)), dim=2).float()
        frames = made
        if output_type != "latent":
            frames = self._shown(decode_clip(self.vae, made.to(self.vae.dtype)), output_type)
        self.maybe_free_model_hooks()
        return WanPipelineOutput(frames=frames) if return_dict else (frames,)

    def stream(
        self,
        prompt: Prompts,
        image: Picture | Sequence[Picture] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
    ) -> Iterator[Any]:
        """Yield the frames of each block as soon as it is made: together they are those of the call.

        The arguments are the call's, and wrong ones are refused at once. A given first frame comes first, alone. A
        bidirectional generator has one block, the whole clip. With a window, memory does not grow with `num_frames`:
        noise beyond the trained length is drawn when its block is due.
        """
        start = self._start(prompt, image, height, width, num_frames, generator, latents, output_type)
        decoder = None if output_type == "latent" else FrameDecoder(self.vae)
        return self._pieces(start, decoder, output_type)

    @torch.no_grad()
    def _pieces(self, start: _Start, decoder: FrameDecoder | None, output_type: str) -> Iterator[Any]:
        for block in self._blocks(start):
            if decoder is None:
                yield block.float()
            else:
                yield self._shown(decoder.decode(block.float().to(self.vae.dtype)), output_type)

    def _blocks(self, start: _Start) -> Iterator[Tensor]:
        settings, first = self.settings, start.noise
        if settings.attention == "bidirectional":
            yield rollout(self.transformer, first, start.condition, settings, start.rng)
            return

        def drawn(begin: int, end: int) -> Tensor:
            return torch.randn((*first.shape[:2], end - begin, *first.shape[3:]), generator=start.rng)

        yield from made_blocks(
            self.transformer,
            start.condition,
            settings,
            generated_spans(start.frames, settings),
            noise_by_block(first, drawn),
            start.rng,
            start.later,
            buffer_for(start.frames, settings),
        )

    @torch.no_grad()
    def _start(
        self,
        prompt: Prompts,
        image: Picture | Sequence[Picture] | None,
        height: int | None,
        width: int | None,
        num_frames: int | None,
        generator: torch.Generator | None,
        latents: Tensor | None,
        output_type: str,
    ) -> _Start:
        if output_type not in OUTPUTS:
            raise HarnessError(f"output_type: {output_type!r}, expected one of {', '.join(OUTPUTS)}")
        if generator is not None and generator.device.type != "cpu":
            raise HarnessError("generator: expected one on the CPU, which gives the same clips on every device")
        prompts, cues = read_prompts(prompt)
        size = self.config["height"] if height is None else height, self.config["width"] if width is None else width
        shape = self._shape(self.config["num_frames"] if num_frames is None else num_frames, *size)
        pictures = read_images(image, len(prompts), *size, wanted=self.settings.has_image)
        switches = self._switches(cues, shape[1])
        frames = shape[1] if self.settings.attention == "bidirectional" else min(shape[1], self._trained_frames)
        covered = (shape[0], frames, *shape[2:])
        condition, *later = self._conditions([prompts, *([one.prompt] for one in switches)], pictures, covered)
        rng = generator
        if rng is None:
            rng = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        wanted = (len(prompts), *shape)
        if latents is not None and tuple(latents.shape) != wanted:
            raise HarnessError(f"latents: {list(latents.shape)}, expected {list(wanted)}")
        noise = torch.randn((len(prompts), *covered), generator=rng) if latents is None else latents
        device = self._execution_device
        return _Start(
            frames=shape[1],
            noise=noise.to(device, torch.float32),
            condition=condition.to(device),
            later={switch.latent: part.to(device) for switch, part in zip(switches, later, strict=True)},
            rng=rng,
        )

    @property
    def _trained_frames(self) -> int:
        """Latent frames of a clip as trained: `y` covers these, and goes on as its last frame."""
        return latents_for(self.config["num_frames"], factors(self.vae)[1])

    def _switches(self, cues: Sequence[Cue], frames: int) -> tuple[Switch, ...]:
        if len(cues) < 2:
            return ()
        if self.settings.attention == "bidirectional":
            raise HarnessError("prompt: a bidirectional generator makes the whole clip at once, of one prompt")
        starts = [start for start, _ in generated_spans(frames, self.settings)]
        return place_switches(cues, starts, factors(self.vae)[1])

    def _shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """`(C, F, h, w)` of a clip's latents."""
        spatial, temporal = factors(self.vae)
        network = self.transformer.config
        if frames < 1 or (frames - 1) % temporal:
            below = 1 + max(frames - 1, 0) // temporal * temporal
            raise HarnessError(
                f"num_frames {frames}: expected 1 + {temporal}k pixel frames, such as {below} or {below + temporal}"
            )
        if frames == 1 and self.settings.first_frame_given:
            raise HarnessError("num_frames 1: the only frame would be the given picture; ask for more")
        for name, size, patch in zip(("height", "width"), (height, width), network["patch_size"][1:]):
            if size < 1 or size % (spatial * patch):
                raise HarnessError(f"{name} {size}: expected a multiple of {spatial * patch} pixels")
        return network["out_channels"], 1 + (frames - 1) // temporal, height // spatial, width // spatial

    def _conditions(
        self, parts: Sequence[Sequence[str]], pictures: Tensor | None, shape: Sequence[int]
    ) -> list[Condition]:
        """The condition of each part's prompts; they differ in the text alone."""
        encoder = TextEncoder(self.tokenizer, self.text_encoder, self.config["text_length"])
        image = {}
        texts = [[prompt_vectors(encoder, prompt) for prompt in prompts] for prompts in parts]
        if pictures is not None:
            eyes = None
            if self.image_encoder is not None:
                eyes = ImageEncoder(self.image_processor, self.image_encoder)
            image = image_inputs(self.vae, eyes, pictures, shape[1], tokens=reads_image(self.transformer))
        where = position_channels(*shape[1:]) if self.config["position_channels"] else None
        length = self.config["text_length"]
        return [condition_from_texts(part, length, None, where, **image) for part in texts]

    def _shown(self, video: Tensor, output_type: str) -> Any:
        """Video `[B, 3, F, H, W]` in [−1, 1] as the caller asked for it."""
        return VideoProcessor().postprocess_video(video.float(), output_type)


_SETTINGS = ("rollout", "text_length", "height", "width", "num_frames", "fps", "position_channels")
