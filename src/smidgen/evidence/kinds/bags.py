"""Bags: sets of images that other kinds of evidence refer to; they carry no information by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smidgen.evidence.kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.resolved import Resolved


class Bags(Kind):
    """Rows (bag, image); `resolving` makes them the members and offsets of `Resolved`."""

    name = "bags"
    about = "bags"
    forms = (("bag", "image"),)

    def known(self, evidence: Resolved) -> Tensor:
        """Return all bags."""
        import torch

        return torch.arange(len(evidence.bag_names))


KIND = Bags()
