"""Export to ONNX: the run's model as one file for other runtimes, checked against torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.console import Progress
from smidgen.cli.files import require_new_file
from smidgen.files import atomic_write
from smidgen.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from smidgen.model import Preprocessing

_MOST = 64  # pictures compared, besides what `to_onnx` makes itself


def export(run: RunFolder, args: argparse.Namespace, console: Progress) -> str:
    """Write the file, and say how far it is from torch at most."""
    from smidgen.model import Model
    from smidgen.onnx_export import require_onnx, to_onnx

    out = Path(args.out)
    require_new_file(out, overwrite=args.overwrite)
    require_onnx()
    console.update("translate", 0, 1)
    model = Model.load(run.path)
    content, difference = to_onnx(model, images=_pictures(run, model.preprocessing))
    with atomic_write(out) as file:
        file.write(content)
    console.update("translate", 1, 1)
    return f"{len(content) / 1e6:.1f} MB, at most {difference:.1g} from torch"


def _pictures(run: RunFolder, preprocessing: Preprocessing) -> np.ndarray | None:
    """Return some of the run's thumbnails as its method sees images; the collection itself may be gone."""
    import numpy as np

    from smidgen.data.images import load_image

    stored = [*run.thumbnails().values()][:_MOST]
    # They were made by the range of values, and are of 8 bits now.
    how = preprocessing.size, preprocessing.channels, preprocessing.resize
    pictures = [load_image(data, size=how[0], channels=how[1], resize=how[2]) for data in stored]
    return np.stack(pictures) if pictures else None
