"""For all tests: the same examples in every run, so that a red run can be repeated; no W&B unless a test asks."""

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
os.environ["WANDB_MODE"] = "disabled"
for _name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_DIR"):
    os.environ.pop(_name, None)
