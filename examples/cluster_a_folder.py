"""Cluster a folder of images without a label, look at the report, and keep the model.

Run it with a folder of yours, `python examples/cluster_a_folder.py photos/`, or with none: it then makes a folder of
handwritten digits to show what happens.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from smidgen import ImageClusterer

work = Path(tempfile.mkdtemp(prefix="smidgen-"))
photos = Path(sys.argv[1]) if len(sys.argv) > 1 else work / "photos"
if len(sys.argv) == 1:
    photos.mkdir()
    for row, pixels in enumerate(load_digits().images[:500]):
        Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)).save(photos / f"digit-{row:03d}.png")

# 150 steps are a quick look; leave `steps` and `options` out for the real thing.
model = ImageClusterer(n_clusters=10, steps=150, options={"refine_steps": 50}, random_state=0, out=work / "run")
labels = model.fit_predict(photos)

print("images per cluster:", dict(sorted(Counter(labels.tolist()).items())))
sure = model.predict_proba(photos).max(1).argsort()[::-1]
print("the surest:", ", ".join(f"{model.image_ids_[row]} (cluster {labels[row]})" for row in sure[:3]))
print("the report:", work / "run" / "report.html")

again = ImageClusterer.load(work / "run")  # in another program, on other images
print("the loaded model agrees:", bool((again.predict(photos) == labels).all()))
