"""What a plan is about: the shapes of a run's batches and the sizes of its networks, without any tensor."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve, fields_dict, frozen

from harness.algorithms.updates import Role
from harness.config.schema import Preset, RunConfig
from harness.errors import HarnessError
from harness.io import read_json
from harness.models.presets import WanGeometry, geometry
from harness.models.widening import image_channels
from harness.training.inputs import critic_folder, teacher_folder

IMAGE_TOKENS = 257  # of CLIP ViT-H/14, as Wan2.1 takes them (arXiv 2503.20314)
RANDOM_CLIP_PATCH = 4  # pixels; `harness.models.image`, which takes seconds to import, makes that encoder


@frozen(kw_only=True)
class Scene:
    """A run on a number of processes.

    networks   role → geometry: `generator`, and for dmd `critic` and `teacher`
    height, width, text_length   of a batch's latents and prompts
    image_tokens   tokens of a batch's images; 0 in text to video
    world_size   processes, one for each device
    """

    config: RunConfig
    networks: tuple[tuple[str, WanGeometry], ...]
    height: int
    width: int
    text_length: int
    image_tokens: int = 0
    world_size: int = 1

    @property
    def batch_size(self) -> int:
        """Samples of a batch over all processes."""
        settings = {"sft": self.config.sft, "causal_sft": self.config.causal_sft, "dmd": self.config.dmd}
        return settings[self.config.method].batch_size

    @property
    def share(self) -> int:
        """Samples of one process's batch. Raises HarnessError if the batch does not divide."""
        if self.batch_size % self.world_size:
            raise HarnessError(
                f"{self.config.method}.batch_size: {self.batch_size} does not divide over {self.world_size} processes; "
                "choose a multiple of it, or another --gpus"
            )
        return self.batch_size // self.world_size

    @property
    def microbatch(self) -> int:
        """Samples of one forward pass."""
        return min(self.config.parallelism.device_microbatch_size or self.share, self.share)

    @property
    def microbatches(self) -> int:
        """Forward and backward passes whose gradients are summed for one update."""
        return -(-self.share // self.microbatch)

    @property
    def trained(self) -> tuple[Role, ...]:
        """The roles that have an optimizer."""
        return ("generator", "critic") if self.config.method == "dmd" else ("generator",)

    @property
    def shards(self) -> int:
        """Over how many processes weights, gradients and moments are spread."""
        parallelism = self.config.parallelism
        return 1 if parallelism.kind == "ddp" else parallelism.shard_degree or self.world_size

    @property
    def rollouts_together(self) -> int:
        """Critic updates whose samples are made in one rollout."""
        dmd = self.config.dmd
        return dmd.critic_updates_per_generator_update if dmd.rollouts_ahead else 1

    def with_layers(self, layers: dict[str, int]) -> Scene:
        """The same with other numbers of layers."""
        networks = tuple((role, evolve(shape, num_layers=layers[role])) for role, shape in self.networks)
        return evolve(self, networks=networks)


def build_scene(
    config: RunConfig, preset: Preset, *, world_size: int = 1, teacher: str | None = None, root: Path = Path(".")
) -> Scene:
    """The scene of a configuration.

    teacher   preset of the teacher; by default what its folder says, and where there is none yet the generator's own,
              or the preset's for image to video. So it is for a critic with a folder of its own; any other has the
              teacher's size

    Raises:
        HarnessError: an unknown model, a damaged config.json.
    """
    own = geometry(config.model)
    if config.method != "dmd":
        networks: tuple[tuple[str, WanGeometry], ...] = (("generator", own),)
    else:
        usual = geometry(_score_model(config, preset))
        score = geometry(teacher) if teacher else written_geometry(teacher_folder(config, root)) or usual
        critic = score if config.critic is None else written_geometry(critic_folder(config, root)) or usual
        networks = (("generator", own), ("critic", critic), ("teacher", score))
    factor = preset.encoders.spatial_factor
    return Scene(
        config=config,
        networks=networks,
        height=preset.data.height // factor,
        width=preset.data.width // factor,
        text_length=preset.encoders.text_length,
        image_tokens=count_image_tokens(preset, root) if config.rollout.has_image else 0,
        world_size=world_size,
    )


def written_geometry(folder: Path) -> WanGeometry | None:
    """The geometry that a model folder names; None where there is no such folder."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    found = {key: value for key, value in read_json(path).items() if key in fields_dict(WanGeometry)}
    found["patch_size"] = tuple(found.get("patch_size", (1, 2, 2)))
    return WanGeometry(**found)


def _score_model(config: RunConfig, preset: Preset) -> str:
    """The preset of critic and teacher, as far as the settings tell: in image to video one that reads the image, even
    where the generator does not.
    """
    if config.rollout.has_image and geometry(config.model).image_dim is None and preset.i2v is not None:
        return str(preset.i2v.get("model", config.model))
    return config.model


def count_image_tokens(preset: Preset, root: Path) -> int:
    """Tokens of an image, as the preset's image encoder makes them; where its folder is not here, as Wan's does."""
    name = preset.encoders.image_encoder
    if name is None:
        return 0
    if name == "random_clip":
        return (min(preset.data.height, preset.data.width) // RANDOM_CLIP_PATCH) ** 2 + 1
    path = root / name / "config.json"
    if not path.is_file():
        return IMAGE_TOKENS
    vision = read_json(path)
    return (vision["image_size"] // vision["patch_size"]) ** 2 + 1


def position_channels(shape: WanGeometry) -> int:
    """Input channels besides the noisy latent and those of the image."""
    return shape.in_channels - shape.out_channels - image_channels(shape.out_channels, shape.image_dim)
