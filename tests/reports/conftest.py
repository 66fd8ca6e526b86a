"""The run that most tests of the report look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_samples import METRICS, digits_run, png, write_run, write_story


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it."""
    fake = digits_run()
    thumbnails = {i: png(pixels) for i, pixels in enumerate(fake.pixels)}
    folder = write_run(tmp_path_factory.mktemp("run"), fake, metrics=METRICS, thumbnails=thumbnails)
    write_story(folder)
    return folder
