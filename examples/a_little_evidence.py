"""What a little evidence adds: no labels, two labels per class, and how many classes are in each of 100 bags."""

import numpy as np

from smidgen import Evidence, ImageClusterer, open_dataset

digits = open_dataset("digits")  # 1,438 training images of 8 × 8 pixels; the classes are used for the evidence only
random = np.random.default_rng(0)

labels = np.full(len(digits), -1)
for c in range(10):
    labels[random.choice(np.flatnonzero(digits.classes == c), 2, replace=False)] = c

bags, counts = [], []
for _ in range(100):
    classes = random.choice(10, random.integers(1, 5), replace=False)
    bags.append(random.choice(np.flatnonzero(np.isin(digits.classes, classes)), 16).tolist())
    counts.append(len(np.unique(digits.classes[bags[-1]])))

known = {
    "nothing": Evidence(),
    "20 labels": Evidence.from_labels(labels),
    "20 labels, 100 bags": Evidence.from_labels(labels) | Evidence.from_bags(bags, counts=counts),
}
for name, evidence in known.items():
    model = ImageClusterer(10, steps=100, options={"refine_steps": 50}, random_state=0)
    model.fit("digits", evidence=evidence)
    print(f"{name:<20} accuracy on the 359 test images: {model.metrics_['test_accuracy']:.1%}")
