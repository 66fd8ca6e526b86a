"""Pictures as data URIs, which a page holds within itself."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def png_uri(image: Image.Image) -> str:
    """Return a picture as a PNG's data URI."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
