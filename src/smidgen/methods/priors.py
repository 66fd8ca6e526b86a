"""The shares of the images that clusters or groups have: the option `prior`, and how a learned one is released."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smidgen.errors import InputError
from smidgen.maths.entropy import entropy
from smidgen.options import option

UNIFORM, LEARNED = "uniform", "learned"
WORDS = (UNIFORM, LEARNED)
"""The values of `prior` that are not numbers."""

RELEASED_AT = 0.4
"""The fraction of the training at whose end clusters have formed, of equal sizes until then."""

RELEASED_TO = 0.3
"""The exponent of the column scaling at the end: 0 would let clusters vanish."""


def prior_option(default: str, *, of: str, letter: str = "") -> Any:
    """Return the field `prior` of a configuration. of: what has a share, in the plural; letter: of it in equations."""
    name = f"{letter}, the {of}'" if letter else f"the {of}'"
    return option(
        default,
        f"{name} shares of the images: uniform, learned (equal until {of} have formed, then released), or one number"
        f" for each of the {of}, separated by commas",
    )


@dataclass(frozen=True)
class Prior:
    """Shares (clusters,), above 0 and of sum one, and whether they are only where training starts from."""

    shares: Tensor
    learned: bool

    def exponent(self, progress: float, *, strength: float = 1.0, after: float = RELEASED_AT) -> float:
        """Return how far the shares are enforced, from 1 (as given) to 0 (not at all), see `released`.

        progress: the fraction of the training that is done. strength: the power of the probabilities whose columns are
        scaled: a higher one asks for more, for sizes to count as much beside them. after: the progress at which learned
        shares begin to be released.

        >>> prior = Prior(torch.tensor([0.5, 0.5]), learned=True)
        >>> round(prior.exponent(1.0), 2), round(prior.exponent(1.0, strength=10), 2), prior.exponent(0.0, strength=10)
        (0.3, 0.81, 1.0)
        """
        f = released(progress, after=after) if self.learned else 1.0
        return strength * f / (strength * f + 1 - f)


def released(progress: float, *, after: float = RELEASED_AT) -> float:
    """Return the exponent f of the column scaling: 1 until a fraction `after` of the training, then falling to .3.

    Clusters that are free from the start inherit bad merges, and clusters whose shares follow their own assignments
    learn nothing, as any shares confirm themselves; so sizes are equal first, and later dear but not fixed.

    >>> [round(released(t), 2) for t in (0.0, 0.4, 0.7, 1.0)]
    [1.0, 1.0, 0.65, 0.3]
    """
    late = min(1.0, max(0.0, (progress - after) / (1 - after)))
    return 1 - (1 - RELEASED_TO) * late


def read_prior(prior: str, wanted: int, *, of: str) -> Prior:
    """Return the prior that an option names, for so many clusters. of: what has a share, in the plural.

    Raises InputError for what `read_shares` refuses, or for another number of numbers.

    >>> read_prior("1,3", 2, of="clusters").shares
    tensor([0.2500, 0.7500])
    """
    given = read_shares(prior)
    if given is None:
        return Prior(torch.full((wanted,), 1 / wanted), learned=prior == LEARNED)
    if len(given) != wanted:
        raise InputError(f"`prior` must have a number for each of the {wanted} {of}, got {len(given)}.")
    return Prior(given, learned=False)


def read_shares(prior: str) -> Tensor | None:
    """Return the shares that an option `prior` names, summing to one; None where it is one of `WORDS`.

    Raises InputError for anything but these words and numbers above 0.

    >>> read_shares("1,3"), read_shares("uniform")
    (tensor([0.2500, 0.7500]), None)
    """
    if prior in WORDS:
        return None
    try:
        given = torch.tensor([float(each) for each in prior.split(",")], dtype=torch.float64)
    except ValueError:
        given = torch.zeros(1)
    shares = (given / given.sum()).float()
    if not bool(((given > 0) & (shares > 0) & shares.isfinite()).all()):
        wanted = f"{', '.join(WORDS)}, or numbers above 0 separated by commas, one for each"
        raise InputError(f"`prior` must be {wanted}, got {prior!r}.")
    return shares


def unfairness(mean: Tensor, prior: Tensor) -> Tensor:
    """Return KL(mean ‖ π) in nats along the last dimension: how far the clusters' use is from the prior, (…).

    mean, prior: (…, clusters), sum to one; the prior has no zeros. With a uniform prior it is ln(clusters) − H(mean).

    >>> unfairness(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    return -entropy(mean) - (mean * prior.log()).sum(-1)
