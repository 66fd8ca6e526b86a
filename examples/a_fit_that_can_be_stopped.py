"""The layer below the estimator: a configuration in, a run folder out, stopped in the middle and gone on with."""

import tempfile
from pathlib import Path

from smidgen import Config, fit
from smidgen.listener import Listener
from smidgen.run_folder import RunFolder


class PullThePlug(Listener):
    """Hears how far a run is, and ends it, as a crash would."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Hear that `done` of `total` are done."""
        if (what, done) == ("cluster", 70):
            raise RuntimeError("the plug was pulled")


out = Path(tempfile.mkdtemp(prefix="smidgen-")) / "run"
config = Config("digits", checkpoint_every=25, options={"steps": 100, "refine_steps": 50})
try:
    fit(config, out=out, listener=PullThePlug())
except RuntimeError as error:
    print(f"{error}; finished: {RunFolder.open(out).finished}")

outcome = fit(config, out=out, resume=True)  # bit for bit what it would have been
print(f"accuracy on the test images: {outcome.metrics['test_accuracy']:.1%}")
print("in the run folder:", ", ".join(sorted(path.name for path in out.iterdir() if path.name[0] != ".")))
