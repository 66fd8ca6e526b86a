"""Weights of the images in a bag, an option of UCC and RCC for comparison with their papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smidgen.maths.kde import bag_log_softmax


class GatedAttention(nn.Module):
    """The weight of each image in its bag: softmax over the bag of w·(tanh(V f) ⊙ sigmoid(U f)).

    Source: Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning", ICML 2018.
    """

    def __init__(self, features: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.what, self.gate = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, features: Tensor, offsets: Tensor) -> Tensor:
        """Return log weights (images,), whose exponentials sum to one in each bag."""
        hidden = torch.tanh(self.what(features)) * torch.sigmoid(self.gate(features))
        return bag_log_softmax(self.score(hidden).squeeze(1).float(), offsets)
