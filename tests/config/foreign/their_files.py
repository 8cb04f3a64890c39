"""The published settings of the three code bases, key for key (their values; written anew, without their texts)."""

_COMMON = """\
denoising_step_list: [1000, 750, 500, 250]
warp_denoising_step: true
ts_schedule: false
num_train_timestep: 1000
timestep_shift: 5.0
denoising_loss_type: flow
mixed_precision: true
seed: 0
lr: 2.0e-06
lr_critic: 4.0e-07
beta1: 0.0
beta2: 0.999
beta1_critic: 0.0
beta2_critic: 0.999
batch_size: 1
total_batch_size: 64
dfake_gen_update_ratio: 5
image_or_video_shape: [1, 21, 16, 60, 104]
distribution_loss: dmd
trainer: score_distillation
gradient_checkpointing: true
num_frame_per_block: 3
load_raw_video: false
negative_prompt: blurred
generator_fsdp_wrap_strategy: size
real_score_fsdp_wrap_strategy: size
fake_score_fsdp_wrap_strategy: size
text_encoder_fsdp_wrap_strategy: size
wandb_host: HOST
wandb_key: hunter2
wandb_entity: ENTITY
wandb_project: PROJECT
"""
_AVERAGE = "ema_weight: 0.99\nema_start_step: 200\n"
_LONG = "model_kwargs: {timestep_shift: 5.0, local_attn_size: 12, sink_size: 3}\n"
_ADAPTER = "adapter: {type: lora, rank: 256, alpha: 256, dropout: 0.0, dtype: bfloat16, verbose: false}\n"
_ADAPTERS = _ADAPTER.replace("verbose: false", "apply_to_critic: true, verbose: true")
_SECOND_STAGE = (
    _COMMON.replace("lr: 2.0e-06", "lr: 1.0e-05")
    .replace("lr_critic: 4.0e-07", "lr_critic: 2.0e-06")
    .replace("loss: dmd", "loss: dmd_switch")
    .replace("[1, 21, 16, 60, 104]", "[1, 240, 16, 60, 104]")
)
FILES = {
    "self_forcing_dmd": f"""\
{_COMMON}{_AVERAGE}generator_ckpt: checkpoints/ode_init.pt
real_name: Wan2.1-T2V-14B
guidance_scale: 3.0
sharding_strategy: hybrid_full
data_path: prompts/vidprom_filtered_extended.txt
log_iters: 50
model_kwargs: {{timestep_shift: 5.0}}
""",
    "self_forcing_sid": f"""\
{_COMMON.replace("lr_critic: 4.0e-07", "lr_critic: 2.0e-06").replace("loss: dmd", "loss: sid")}{_AVERAGE}
generator_ckpt: checkpoints/ode_init.pt
real_name: Wan2.1-T2V-1.3B
guidance_scale: 3.0
sharding_strategy: hybrid_full
weight_decay: 0.0
sid_alpha: 1.0
data_path: prompts/vidprom_filtered_extended.txt
log_iters: 50
model_kwargs: {{timestep_shift: 5.0}}
""",
    "longlive_train_init": f"""\
{_COMMON}{_AVERAGE}{_LONG}generator_ckpt: checkpoints/ode_init.pt
real_name: Wan2.1-T2V-1.3B
fake_name: Wan2.1-T2V-1.3B
guidance_scale: 3.0
sharding_strategy: hybrid_full
data_path: prompts/vidprom_filtered_extended.txt
gradient_accumulation_steps: 1
log_iters: 100
max_checkpoints: 5
max_iters: 700
vis_interval: 200
vis_ema: false
vis_video_lengths: [21]
val_batch_size: 1
val_data_path: prompts/vidprom_filtered_extended.txt
min_num_training_frames: 21
num_training_frames: 21
slice_last_frames: 21
""",
    "longlive_train_long": f"""\
{_SECOND_STAGE}{_AVERAGE}{_LONG}{_ADAPTERS}
generator_ckpt: checkpoints/longlive_init.pt
real_name: Wan2.1-T2V-1.3B
fake_name: Wan2.1-T2V-1.3B
guidance_scale: 3.0
sharding_strategy: hybrid_full
data_path: prompts/vidprom_filtered_extended.txt
switch_prompt_path: prompts/vidprom_filtered_extended_switch.txt
gradient_accumulation_steps: 1
log_iters: 50
max_checkpoints: 3
max_iters: 3000
global_sink: false
vis_interval: 500
vis_ema: false
vis_video_lengths: [240]
val_batch_size: 1
val_data_path: prompts/vidprom_filtered_extended.txt
val_switch_prompt_path: prompts/vidprom_filtered_extended_switch.txt
slice_last_frames: 21
switch_mode: random_choice
switch_choices: [21, 39, 57, 75, 93, 111, 129, 147, 165, 183, 201]
streaming_training: true
streaming_chunk_size: 21
streaming_max_length: 240
streaming_min_new_frame: 18
train_first_chunk: true
last_step_only: false
""",
    "longlive_inference": f"""\
{_LONG}{_ADAPTER}denoising_step_list: [1000, 750, 500, 250]
warp_denoising_step: true
num_frame_per_block: 3
model_name: Wan2.1-T2V-1.3B
data_path: prompts/long.txt
output_folder: videos/long
inference_iter: -1
num_output_frames: 120
use_ema: false
seed: 0
num_samples: 1
save_with_index: true
global_sink: true
context_noise: 0
generator_ckpt: models/longlive_base.pt
lora_ckpt: models/lora.pt
""",
    "self_forcing_14b_dmd": f"""\
{_COMMON}{_AVERAGE}i2v: false
real_name: Wan2.1-T2V-14B
fake_name: Wan2.1-T2V-14B
generator_type: bidirectional
generator_name: Wan2.1-T2V-14B
text_encoder_cpu_offload: true
guidance_scale: 4.0
sharding_strategy: full
data_type: text_folder
data_path: prompts/many/
data_max_count: 30000
log_iters: 200
model_kwargs: {{timestep_shift: 5.0}}
""",
    "self_forcing_14b_i2v_dmd": f"""\
{_COMMON}i2v: true
real_name: /models/Wan2.1-I2V-14B-480P/
fake_name: /models/Wan2.1-I2V-14B-480P
generator_type: bidirectional
generator_name: /models/Wan2.1-I2V-14B-480P
image_encoder_fsdp_wrap_strategy: size
text_encoder_cpu_offload: true
guidance_scale: 6.0
sharding_strategy: full
data_type: text_folder
data_path: lmdb/
log_iters: 100
model_kwargs: {{timestep_shift: 5.0}}
""",
}
DEFAULTS = """\
independent_first_frame: false
warp_denoising_step: false
weight_decay: 0.01
same_step_across_blocks: true
discriminator_lr_multiplier: 1.0
last_step_only: false
i2v: false
num_training_frames: 21
gc_interval: 100
context_noise: 0
causal: true
ckpt_step: 0
prompt_name: MovieGenVideoBench
prompt_path: prompts/MovieGenVideoBench.txt
eval_first_n: 64
num_samples: 1
height: 480
width: 832
num_frames: 81
"""
