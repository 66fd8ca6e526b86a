"""UCC, as in its paper: clusters from nothing but how many classes each bag holds, and counts of new bags."""

import numpy as np

from smidgen import Evidence, ImageClusterer, open_dataset

digits = open_dataset("digits")  # 1,438 training images of 8 × 8 pixels; the classes are used to count them only
random = np.random.default_rng(0)


def draw(n_bags):
    """Bags of 4 to 12 images with 1 to 4 classes, and how many classes each holds."""
    bags = []
    for _ in range(n_bags):
        classes = random.choice(10, random.integers(1, 5), replace=False)
        images = np.flatnonzero(np.isin(digits.classes, classes))
        bags.append(random.choice(images, random.integers(4, 13), replace=False).tolist())
    return bags, [len(np.unique(digits.classes[bag])) for bag in bags]


bags, counts = draw(1000)
model = ImageClusterer(10, method="ucc", options={"preset": "fast", "steps": 250, "bags": 40}, random_state=0)
model.fit("digits", evidence=Evidence.from_bags(bags, counts=counts))
print(f"{len(bags):,} counts, no label: accuracy on the 359 test images {model.metrics_['test_accuracy']:.1%}")

new_bags, truth = draw(200)
found = model.predict_bags("digits", new_bags).head.argmax(1) + 1
print(f"of 200 other bags {np.mean(found == truth):.1%} are counted right")
