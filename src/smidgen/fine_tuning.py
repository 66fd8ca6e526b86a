"""A fit on a frozen encoder and the fine-tuning of it after that, as one: two fits, one of which holds the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Protocol, TypeVar

from smidgen.config import Config
from smidgen.errors import RunError
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.run_folder import FROZEN, RunFolder
from smidgen.setup.fine_tuning import frozen_fit, tuning_fit

LEAST_TIME = 0.1
"""The share of `max_seconds` that the fine-tuning has at least."""


class Fitted(Protocol):
    """A finished fit, as `fitting.Outcome` is one."""

    model: Model
    metrics: dict[str, Any]
    config: Config


F = TypeVar("F", bound=Fitted)


class Part(Protocol[F]):
    """Does one fit, see `fitting.fit`."""

    def __call__(
        self,
        config: Config,
        *,
        out: Path | None,
        resume: bool,
        overwrite: bool,
        listener: Listener,
        before: F | None = None,
        whole: Path | None = None,
    ) -> F:
        """Return the fit."""
        ...


def fine_tuned(
    part: Part[F],
    config: Config,
    *,
    out: Path | str | None,
    resume: bool,
    overwrite: bool,
    listener: Listener,
) -> F:
    """Fit on the frozen encoder, then train its last stages further from there, and return the second fit.

    The first one is a run of its own in `out/frozen`. Of `config.max_seconds` it may take half, and the second one has
    what is left. Raises RunError where a run is to be resumed that is not such a fit.
    """
    folder = None if out is None else Path(out)
    inner = None if folder is None else folder / FROZEN
    if inner is not None:
        RunFolder.check(inner, resume=resume, overwrite=overwrite)  # before anything is read, embedded or removed
    if resume and folder is not None:
        _require_first(folder)
    listener = heard = _Heard(listener)
    listener.log("First the images are clustered by the encoder as it is; then its last stages are trained further.")
    first = part(frozen_fit(config), out=inner, resume=resume, overwrite=overwrite, listener=listener, whole=folder)
    listener = _Unheard(listener, heard.said)
    listener.log("The images are clustered; now the encoder is trained further.")
    second = dataclasses.replace(
        tuning_fit(config),
        weights=None,
        init_from=None if inner is None else str(inner),
        n_clusters=first.config.n_clusters,
        max_seconds=_left(config.max_seconds, first.metrics["seconds"]),
    )
    return part(second, out=folder, resume=resume, overwrite=False, listener=listener, before=first)


def _left(seconds: float | None, spent: float) -> float | None:
    """Return the time limit of the second fit.

    >>> _left(60, 12.5), _left(60, 59), _left(None, 12.5)
    (47.5, 6.0, None)
    """
    return None if seconds is None else max(seconds - spent, LEAST_TIME * seconds)


def about_before(config: Config) -> dict[str, Any]:
    """Return a manifest's entries about the fit on the frozen encoder."""
    return {"method": config.method, "encoder": config.encoder}


def scores_before(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the fit on the frozen encoder, `frozen_…`, and the `seconds` of both fits together.

    >>> scores_before({"seconds": 2.5, "test_accuracy": 0.5, "n_images": 9}, {"seconds": 4.0, "test_accuracy": 0.75})
    {'frozen_test_accuracy': 0.5, 'frozen_seconds': 2.5, 'seconds': 6.5}
    """
    scores = {f"frozen_{key}": before[key] for key in after if key.startswith(("train_", "test_")) and key in before}
    return {**scores, "frozen_seconds": before["seconds"], "seconds": round(before["seconds"] + after["seconds"], 2)}


def _require_first(folder: Path) -> None:
    """Raise RunError if the second of two fits was begun in a run folder, or another fit, and the first is missing."""
    if not (folder / "config.toml").exists() or (folder / FROZEN / "config.toml").exists():
        return
    if Path(RunFolder(folder).config.get("init_from", ".")).resolve() == (folder / FROZEN).resolve():
        raise RunError(
            f"The run in {str(folder)!r} goes on from the one in {str(folder / FROZEN)!r}, which is missing: use"
            " --overwrite, or another --out."
        )
    raise RunError(
        f"The run in {str(folder)!r} was started without `fine_tune`: resume it without, or use another --out."
    )


class _Heard(Listener):
    """Forwards messages and notes what they were."""

    def __init__(self, listener: Listener) -> None:
        self.said: set[str] = set()
        self._log, self.progress = listener.log, listener.progress  # type: ignore[method-assign]

    def log(self, text: str) -> None:
        self.said.add(text)
        self._log(text)


class _Unheard(Listener):
    """Forwards messages but for those said before: the second fit opens the same images and evidence."""

    def __init__(self, listener: Listener, said: Set[str]) -> None:
        self._said = frozenset(said)
        self._log, self.progress = listener.log, listener.progress  # type: ignore[method-assign]

    def log(self, text: str) -> None:
        if text not in self._said:
            self._log(text)
