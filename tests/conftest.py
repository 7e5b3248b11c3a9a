"""Tiny models run fastest, and the same everywhere, on one thread."""

import torch

torch.set_num_threads(1)
