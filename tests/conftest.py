"""Settings that all tests share."""

import hypothesis
import torch

hypothesis.settings.register_profile(
    "pathnas", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("pathnas")
torch.set_num_threads(1)
