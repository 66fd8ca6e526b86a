"""What a kind of evidence is: files and Python values → statements → arrays → losses → explanation → words.

A kind's file (`kinds/…`) may import NumPy, and torch inside the functions that need it: reports do without.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.findings import Finding
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk
    from smidgen.evidence.statements import Statements
    from smidgen.evidence.view import EvidenceView

Columns = Mapping[str, Sequence[str]]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Loss:
    """A loss of statements, each by itself.

    targets: what is given, name → (statements, …) on the host. of: of a kind about images or pairs
    `of((p, …), given)`, with assignments (statements, clusters) for each image of a statement; of one about bags
    `of(p, offsets, given)`; both return (statements,). given: the targets of the statements in the batch.
    chance_loss: returns the losses (statements,) of a constant model, which predicts the frequency of each
    answer for every image and bag; None where that has no meaning.
    which: (statements,) bool, those that it is for; None for all. late: whether clusters must have formed.
    learned: the targets that change during training, and are kept with its state.
    """

    targets: Mapping[str, Tensor]
    of: Callable[..., Tensor]
    chance_loss: Callable[[], Tensor] | None = None
    which: Tensor | None = None
    late: bool = False
    learned: Collection[str] = ()


@dataclass(frozen=True)
class Said:
    """A row of a table of explained evidence in words: what was given, what the model finds, and of which images.

    bag: the name of the bag that it is about, "" where `images` names them.
    """

    given: str
    seen: str
    images: Sequence[str] = ()
    bag: str = ""


@dataclass(frozen=True)
class Agreement:
    """How often what was given (rows) is found as what (columns), both numbers of `names`; note: says so in words."""

    given: np.ndarray
    seen: np.ndarray
    names: Sequence[str]
    note: str


@dataclass(frozen=True)
class Words:
    """What texts call a kind. title: in the report; one, many: "1 … is", "2 … are" most likely wrong. noun: as in
    "12 labels"; "" for the kind's name.

    losses: name of a loss → what a sentence calls its statements.
    """

    title: str = ""
    one: str = ""
    many: str = ""
    losses: Mapping[str, str] = field(default_factory=dict)
    noun: str = ""


class Kind:
    """A kind of evidence; the methods here are those of one that says nothing.

    name: of the kind, its file and its table in `Statements`; tables: where there are several.
    about: what its statements are about. forms: the columns that its file may have, in any order; cells: column → what
    reads a cell of it, besides image, bag and label. subject: how many cells of a row say what it is about: without one
    after them it says nothing. class_at: which cell of a statement names a class; None where none does.
    words: what texts call it.
    """

    name: str
    about: Literal["images", "pairs", "bags"]
    forms: tuple[tuple[str, ...], ...]
    cells: Mapping[str, Callable[[Any], Any]] = {}
    subject: int = 1
    class_at: int | None = None
    words: Words = Words()

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of statements."""
        return (self.name,)

    @property
    def noun(self) -> str:
        """What texts call several statements."""
        return self.words.noun or self.name

    # --------------------------------------------------------------------------------------- files and Python values

    def from_file(self, columns: Sequence[str], rows: tuple[Row, ...]) -> tuple[str, tuple[Row, ...]]:
        """Return the table that rows of a file belong to, and its statements."""
        return self.name, rows

    def to_file(self, evidence: Statements) -> tuple[Sequence[str], Sequence[Row]]:
        """Return the columns and rows of the file that reads back the same."""
        return self.forms[0], getattr(evidence, self.name)

    def of_bag(self, table: str, bag: str, value: Any) -> Iterator[Row]:
        """Yield the statements that a value in Python makes about a bag; raises InputError."""
        raise NotImplementedError

    def size(self, rows: Sequence[Row]) -> int:
        """Return how many statements there are: of images or bags, not of their parts."""
        return len({row[0] for row in rows})

    # -------------------------------------------------------------------------------------------------------- arrays

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return the arrays in `Resolved` of someone who knows nothing."""
        return {}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Return the arrays in `Resolved`; raises InputError naming file and line of what cannot be so."""
        return {}

    def known(self, evidence: Resolved) -> Tensor:
        """Return what statements are about: (statements, 1 or 2) rows of images, or (statements,) numbers of bags."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- what it allows

    def may_be(self, view: EvidenceView, rows: np.ndarray) -> np.ndarray | None:
        """Return which classes each of some images may be of, (rows, clusters) bool; None where all may be of any."""
        return None

    def bounds(self, view: EvidenceView, low: np.ndarray, high: np.ndarray) -> None:
        """Narrow how many images of each class a bag may hold, (bags, clusters) int64, in place."""

    def findings(self, view: EvidenceView) -> Iterator[Finding]:
        """Yield what these statements leave undetermined."""
        return iter(())

    # ------------------------------------------------------------------------------------------------------- learning

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return name → loss; epsilon: the probability that a statement is wrong."""
        return {}

    def votes(self, evidence: Resolved, p: Tensor, bag_means: Callable[[], Tensor]) -> Tensor | None:
        """Return (clusters, classes) float64, how much speaks for a cluster being a class; None if nothing does.

        p: (n_images, clusters) float64 assignments of all images. bag_means: returns those of bags, (bags, clusters).
        """
        return None

    # ----------------------------------------------------------------------------------------------------- explaining

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return a table of the statements beside what the model says, and how its probabilities were calibrated."""
        raise NotImplementedError

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return a row of that table, as read from its file, in words."""
        raise NotImplementedError

    def fit_in_words(self, columns: Columns) -> str:
        """Return how well the statements are explained."""
        values = [float(cell) for cell in columns["probability"]]
        return f"{np.mean(values) if values else 0.0:.3f}"

    def agreement(self, columns: Columns) -> Agreement | None:
        """Return what a figure shows of the table; None where there is none to show."""
        return None
