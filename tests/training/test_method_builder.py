import pytest
import torch
from attrs import asdict, evolve

from harness.errors import HarnessError
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_model, save_model
from harness.models.lora import has_adapters
from harness.models.presets import build_model, geometry
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.method_builder import build_method, initial_generator


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_random_weights_are_those_of_the_seed(project, small_run):
    state = torch.get_rng_state()
    first, again = (initial_generator(small_run(project, "sft"), project) for _ in range(2))
    other = initial_generator(small_run(project, "sft", "seed=1"), project)
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_roles_of_dmd_start_from_their_weights_and_share_no_memory(project, small_run):
    torch.manual_seed(5)
    save_model(build_model("tiny", zero_output=False), project / "checkpoints/causal_sft/seed0/model")
    method = build_method(small_run(project, "dmd", "init.kind=causal_sft"), project)
    assert same(method.critic, method.teacher)
    assert not same(method.generator, method.teacher)
    pointers = [p.data_ptr() for role in method.networks().values() for p in role.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert [group["name"] for group in method.parameter_groups()] == ["generator", "critic"]


def test_weights_of_another_size_are_refused(project, small_run):
    small = CausalWan(num_attention_heads=2, attention_head_dim=12, num_layers=1, ffn_dim=8, text_dim=8, freq_dim=8)
    save_model(small, project / "mine")
    config = small_run(project, "causal_sft", "init.kind=checkpoint", "init.path=mine")
    with pytest.raises(HarnessError, match=r"num_layers is 1, `model: tiny` has 4"):
        build_method(config, project)


def test_the_attention_back_end_reaches_every_network_and_a_wrong_one_is_refused(project, small_run):
    method = build_method(small_run(project, "dmd", "init.kind=teacher", "attention_backend=_native_math"), project)
    for network in method.networks().values():
        processors = [attention.processor for b in network.blocks for attention in (b.attn1, b.attn2)]
        assert {p._attention_backend for p in processors} == {"_native_math"}
    with pytest.raises(HarnessError, match="sage has no backward pass"):
        build_method(small_run(project, "sft", "attention_backend=sage"), project)


def test_the_critic_may_be_smaller_than_the_teacher(project, small_run):
    shape = {**asdict(geometry("tiny")), "num_layers": 2, "ffn_dim": 64}
    save_model(CausalWan(**shape), project / "pretrained/small/transformer")
    config = small_run(project, "dmd", "init.kind=teacher", "critic=pretrained/small")
    method = build_method(config, project)
    layers = {role: len(network.blocks) for role, network in method.networks().items()}
    assert layers == {"generator": 4, "critic": 2, "teacher": 4}
    assert "critic" in input_digests(config, project)
    assert fingerprint(config, {}) == fingerprint(evolve(config, critic=None), {})  # its digest counts, not its place


def test_a_critic_of_other_latents_is_refused(project, small_run):
    save_model(CausalWan(**{**asdict(geometry("tiny")), "num_layers": 1, "text_dim": 32}), project / "other")
    with pytest.raises(HarnessError, match=r"other/config.json: text_dim is 32, `model: tiny` has 64"):
        build_method(small_run(project, "dmd", "init.kind=teacher", "critic=other"), project)


IMAGE = ("rollout.image_conditioning=channels", "init.kind=checkpoint", "init.path=checkpoints/teacher")


def save_image_teacher(project, **changes):
    torch.manual_seed(6)
    shape = {**asdict(geometry("tiny-i2v")), **changes}
    save_model(CausalWan(**shape), project / "checkpoints/teacher_i2v/model")


def test_a_text_network_is_widened_to_the_image_model(project, small_run):
    state = torch.get_rng_state()
    config = small_run(project, "sft", *IMAGE)
    first, again = (initial_generator(config, project) for _ in range(2))
    assert same(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(first, initial_generator(evolve(config, seed=1), project))
    original = load_model(project / "checkpoints/teacher/model")
    assert torch.equal(first.patch_embedding.weight[:, :16], original.patch_embedding.weight[:, :16])
    assert torch.equal(first.patch_embedding.weight[:, 36:], original.patch_embedding.weight[:, 16:])
    assert torch.equal(first.proj_out.weight, original.proj_out.weight)
    assert first.config["in_channels"] == 41


@pytest.mark.parametrize("way", ["channels", "first_latent", "both"])
def test_critic_and_teacher_read_the_image_whatever_the_generator_does(project, small_run, way):
    save_image_teacher(project)
    settings = (f"rollout.image_conditioning={way}", "init.kind=checkpoint", "init.path=checkpoints/teacher")
    method = build_method(small_run(project, "dmd", *settings), project)
    dims = {role: network.config["image_dim"] for role, network in method.networks().items()}
    assert dims == {"generator": None if way == "first_latent" else 64, "critic": 64, "teacher": 64}


def test_a_first_frame_that_is_given_reaches_supervised_training(project, small_run):
    way = ("rollout.image_conditioning=first_latent", "init.kind=checkpoint", "init.path=checkpoints/teacher")
    assert build_method(small_run(project, "sft", *way), project).first_frame_given
    assert build_method(small_run(project, "causal_sft", *way), project).first_frame_given
    assert not build_method(small_run(project, "causal_sft", *IMAGE), project).first_frame_given


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("teacher=checkpoints/teacher",), "image_dim is None.*channels: critic and teacher must be image-to-video"),
        (("critic=checkpoints/teacher",), "image_dim is None.*channels: critic and teacher must be image-to-video"),
        (("teacher=wide",), "in_channels is 42, of which 22 are no image channels; `model: tiny-i2v` has 21"),
        (("critic=other",), "image_dim is 32, the teacher's is 64"),
    ],
)
def test_scores_that_do_not_fit_an_image_run_are_refused(project, small_run, settings, words):
    save_image_teacher(project)
    tiny = {**asdict(geometry("tiny-i2v")), "num_layers": 1}
    save_model(CausalWan(**{**tiny, "in_channels": 42}), project / "wide")
    save_model(CausalWan(**{**tiny, "image_dim": 32}), project / "other")
    with pytest.raises(HarnessError, match=words):
        build_method(small_run(project, "dmd", *IMAGE, *settings), project)


def test_an_image_teacher_of_a_text_run_is_refused(project, small_run):
    save_image_teacher(project)
    config = small_run(
        project, "dmd", "teacher=checkpoints/teacher_i2v", "init.kind=checkpoint", "init.path=checkpoints/teacher"
    )
    with pytest.raises(HarnessError, match=r"image_dim is 64.*none: critic and teacher must be text-to-video"):
        build_method(config, project)


def test_a_network_that_cannot_be_widened_is_refused(project, small_run):
    save_model(CausalWan(**{**asdict(geometry("tiny")), "in_channels": 16}), project / "flat")
    config = small_run(project, "sft", "rollout.image_conditioning=channels", "init.kind=checkpoint", "init.path=flat")
    with pytest.raises(HarnessError, match=r"flat/config.json: .*in_channels is 16, expected 21.*tiny-i2v"):
        build_method(config, project)


def test_an_image_network_is_no_text_generator(project, small_run):
    save_image_teacher(project)
    config = small_run(project, "sft", "init.kind=checkpoint", "init.path=checkpoints/teacher_i2v")
    with pytest.raises(HarnessError, match="in_channels is 41, `model: tiny` has 21"):
        build_method(config, project)


LORA = ("lora.rank=2", "lora.alpha=4.0")


def test_adapters_are_put_on_generator_and_critic_and_the_seed_decides(project, small_run):
    config = small_run(project, "dmd", *LORA)
    method, again = build_method(config, project), build_method(config, project)
    for role in ("generator", "critic"):
        trained = {n: p for n, p in method.networks()[role].named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 4 * 10
        assert all(p.shape[0 if "lora_A" in n else 1] == 2 for n, p in trained.items())
        assert same(method.networks()[role], again.networks()[role])
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not has_adapters(method.teacher)
    a = [n for n, _ in method.generator.named_parameters() if "lora_A" in n]
    first, second = method.generator.state_dict(), method.critic.state_dict()
    assert not any(torch.equal(first[name], second[name]) for name in a)
    other = build_method(evolve(config, seed=1), project).generator.state_dict()
    assert not any(torch.equal(first[name], other[name]) for name in a)


def test_the_shared_teacher_is_the_critics_base(project, small_run):
    method = build_method(small_run(project, "dmd", *LORA, "lora.share_teacher=true"), project)
    assert not list(method.teacher.parameters())
    own = load_model(project / "checkpoints/teacher/model").state_dict()
    base = {n.replace(".base_layer", ""): w for n, w in method.critic.state_dict().items() if ".lora_" not in n}
    assert own.keys() == base.keys()
    assert all(torch.equal(own[name], base[name]) for name in own)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("sft", LORA, r"lora.rank: adapters are for `method: dmd`, not sft"),
        ("dmd", ("lora.share_teacher=true",), r"lora.share_teacher: .*set lora.rank"),
        ("dmd", (*LORA, "lora.targets=[to_z]"), r"lora.targets: to_z is no linear layer.*attn1.to_q"),
        (
            "dmd",
            (*LORA, "lora.share_teacher=true", "critic=pretrained/small"),
            r"must start from the teacher's folder .*checkpoints/teacher/model, and starts from .*pretrained/small",
        ),
        (
            "dmd",
            (*LORA, "lora.share_teacher=true", "parallelism.kind=fsdp2", "parallelism.teacher_cpu_offload=true"),
            r"teacher_cpu_offload: true: .*no teacher to offload",
        ),
    ],
)
def test_settings_of_adapters_that_do_not_fit_are_refused(project, small_run, method, settings, words):
    with pytest.raises(HarnessError, match=words):
        build_method(small_run(project, method, *settings), project)


def test_a_critic_named_by_the_teachers_own_folder_may_share_it(project, small_run):
    settings = (*LORA, "lora.share_teacher=true", "critic=checkpoints/teacher/model")
    assert not list(build_method(small_run(project, "dmd", *settings), project).teacher.parameters())
