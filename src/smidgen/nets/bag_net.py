"""The net that UCC and RCC share: an encoder, bounded features, one density per feature and bag, and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from smidgen.data.shapes import Shape
from smidgen.maths.kde import density_points, log_densities
from smidgen.maths.reconstruction import mse, ssim
from smidgen.nets.decoders import make_decoder
from smidgen.nets.encoder import Encoder
from smidgen.nets.gated_attention import GatedAttention
from smidgen.nets.unet import UNetEncoder
from smidgen.nets.wide_residual import glorot, image_statistics

Decoder = Literal["none", "plain", "batch-norm"]
Activation = Literal["sigmoid", "softmax", "tanh", "sine"]

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "sigmoid": (torch.sigmoid, 0.0, 1.0),
    "softmax": (lambda logits: logits.softmax(1), 0.0, 1.0),
    "tanh": (torch.tanh, -1.0, 1.0),
    "sine": (lambda logits: (1 + torch.sin(logits)) / 2, 0.0, 1.0),
}
"""Name → (activation, least, most value): all bounded, because a density sees nothing beyond its points."""


LOG_SCALE = 0.1
"""Log densities run from 0 to −50 and beyond (σ = .1); the head gets a tenth of them, or it starts saturated."""


class BagNet(nn.Module):
    """Images → features in a bounded range → densities per bag; features → images.

    features: J. feature_bias: whether the last layer before the activation has one (the paper's has none).
    points: of the density, equally spaced over the activation's range. log_output: whether `describe` gives log
    densities, which keep a gradient where densities have none, or densities as published. attention: whether images
    weigh as `GatedAttention` says. decoder: "none", or that of `nets.decoders` for the encoder, with batch norm or
    without.
    """

    points: Tensor

    def __init__(
        self,
        encoder: Encoder,
        shape: Shape,
        *,
        features: int,
        activation: Activation,
        feature_bias: bool,
        points: int,
        log_output: bool,
        attention: bool,
        decoder: Decoder,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = nn.Linear(encoder.features, features, bias=feature_bias)
        nn.init.xavier_uniform_(self.code.weight)
        self.activation, least, most = ACTIVATIONS[activation]
        self.log_output = log_output
        self.register_buffer("points", density_points(points, least=least, most=most), persistent=False)
        self.attention = GatedAttention(features) if attention else None
        self.decoder = None
        if decoder != "none":
            batch_norm = decoder == "batch-norm"
            self.decoder = make_decoder(features, shape, encoder=encoder, batch_norm=batch_norm)
        self.bag_features = features * points

    def forward(self, images: Tensor) -> Tensor:
        """Return features (batch, J), float32, within the activation's range."""
        return self.features(self.encoder(images))

    def features(self, embeddings: Tensor) -> Tensor:
        """Return the features (batch, J) that embeddings (batch, d) of the encoder have."""
        return self.activation(self.code(embeddings).float())

    def describe(self, features: Tensor, offsets: Tensor, *, bandwidth: float) -> Tensor:
        """Return what is known of each bag, (bags, J · points): its features' densities side by side."""
        weights = None if self.attention is None else self.attention(features, offsets)
        logs = log_densities(features, offsets, self.points, bandwidth=bandwidth, log_weights=weights)
        return (logs * LOG_SCALE if self.log_output else logs.exp()).flatten(1)

    def decode(self, features: Tensor, images: Tensor) -> Tensor:
        """Return standardised images (batch, channels, height, width), float32, made of features (batch, J).

        images: of the same shape. Only a U-Net with skips looks at them: its decoder copies the encoder's first maps.
        They are made anew here rather than kept, so that features may come from anywhere, from other images too.
        """
        assert self.decoder is not None
        maps = self.encoder.maps(images) if isinstance(self.encoder, UNetEncoder) else ()
        return self.decoder(features, *maps).float()

    def reconstruction_loss(self, features: Tensor, images: Tensor, *, kind: Literal["mse", "ssim"]) -> Tensor:
        """Return the mean squared error on the standardised images, or 1 − SSIM on the images in [0, 1], ()."""
        decoded = self.decode(features, images)
        mean, std = image_statistics(images)
        if kind == "mse":
            return mse(decoded, (images - mean) / std).mean()
        return 1 - ssim(decoded * std + mean, images).mean()

    def reconstruction_error(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the mean squared error on the standardised images, (), whatever the decoder was trained with."""
        return self.reconstruction_loss(features, images, kind="mse")

    def rebuild(self, images: Tensor) -> Tensor:
        """Return the decoded images, (batch, channels, height, width), on the brightness scale of the originals."""
        mean, std = image_statistics(images)
        return self.decode(self(images), images) * std + mean

    def take_features(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Take the weights of a layer that makes the features, if it has this one's shapes; return whether it does."""
        mine = self.code
        fits = weight.shape == mine.weight.shape and (bias is None) == (mine.bias is None)
        if fits:
            with torch.no_grad():
                mine.weight.copy_(weight)
                if bias is not None:
                    mine.bias.copy_(bias)
        return fits


def try_copy_weights(mine: nn.Module | None, theirs: nn.Module | None) -> bool:
    """Copy another module's weights if it has the same names and shapes, and return whether it does."""
    if mine is None or theirs is None:
        return False
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (mine, theirs)]
    if shapes[0] == shapes[1]:
        mine.load_state_dict(theirs.state_dict())
    return shapes[0] == shapes[1]


HeadActivation = Literal["relu", "leaky-relu"]
HeadStart = Literal["glorot", "pytorch"]


def bag_head(inputs: int, outputs: int, *, activation: HeadActivation) -> nn.Sequential:
    """Return a head on the description of a bag: 384 units, 192 and its outputs, the UCC paper's with ReLU between."""
    kind = {"relu": nn.ReLU, "leaky-relu": nn.LeakyReLU}[activation]
    return nn.Sequential(*(nn.Linear(inputs, 384), kind()), *(nn.Linear(384, 192), kind()), nn.Linear(192, outputs))


class CountHead(nn.Module):
    """The paper's classifier of a bag's description: 384 and 192 units, then one logit per count.

    Counts are 1 … `counts`; those that no bag of the training set can have are masked, so the softmax is over the
    admissible counts only, as in the paper. start: "glorot" as in its code, or "pytorch", the default of `nn.Linear`,
    whose function of the densities is about a fifth as steep at the start.
    """

    admissible: Tensor

    def __init__(
        self, inputs: int, admissible: Tensor, *, activation: HeadActivation = "relu", start: HeadStart = "glorot"
    ) -> None:
        super().__init__()
        self.layers = bag_head(inputs, len(admissible), activation=activation)
        if start == "glorot":
            glorot(self.layers, bias=0.0)
        self.register_buffer("admissible", admissible.clone())

    def forward(self, densities: Tensor) -> Tensor:
        """Return log P(count), (bags, counts) float32; about −1e30 where a count is not admissible."""
        return self.layers(densities).float().masked_fill(~self.admissible, -1e30).log_softmax(1)


def count_cross_entropy(log_counts: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Return −log P(least ≤ count ≤ most), (bags,); the paper's cross-entropy where least = most.

    log_counts: (bags, counts) log probabilities of 1, 2, …. least, most: (bags,) int64.

    >>> law = torch.tensor([[0.25, 0.25, 0.5]]).log()
    >>> count_cross_entropy(law, torch.tensor([3]), torch.tensor([3]))
    tensor([0.6931])
    """
    counts = torch.arange(1, log_counts.shape[1] + 1, device=log_counts.device)
    given = (counts >= least.unsqueeze(1)) & (counts <= most.unsqueeze(1))
    return -log_counts.masked_fill(~given, -1e30).logsumexp(1)


def count_accuracy(log_counts: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Return the share of bags whose likeliest count lies in its range, ()."""
    likeliest = log_counts.argmax(1) + 1
    return ((likeliest >= least) & (likeliest <= most)).float().mean()


def expected_count(log_counts: Tensor) -> Tensor:
    """Return Σ_u u P(u), (bags,).

    >>> expected_count(torch.tensor([[0.5, 0.25, 0.25]]).log())
    tensor([1.7500])
    """
    counts = torch.arange(1, log_counts.shape[1] + 1, device=log_counts.device)
    return (log_counts.exp() * counts).sum(1)


def frozen(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return embeddings (batch, d) without gradients and in evaluation mode: batch norm stays as it is too."""
    encoder.eval()
    with torch.no_grad():
        return encoder(images)
