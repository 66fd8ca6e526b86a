"""Embeddings that you have already, from any network, inside scikit-learn: a pipeline, and a search without labels."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from smidgen import ImageClusterer

X, classes = load_digits(return_X_y=True)  # (1797, 64): put your own (n, features) here


def pipeline(**settings):
    return make_pipeline(PCA(30), ImageClusterer(random_state=0, **settings))


# The score is the information that assignments hold: it needs no labels.
numbers = [5, 10, 20]
quick = {"method": "fusion", "steps": 150, "options": {"batch_size": 512, "refine_steps": 150}}
search = GridSearchCV(pipeline(**quick), {"imageclusterer__n_clusters": numbers}, cv=2).fit(X)
for number, score in zip(numbers, search.cv_results_["mean_test_score"], strict=True):
    print(f"{number:>2} clusters: {score:.2f} nats")

# Labels by row follow their images; -1 is not known.
few = np.where(np.arange(len(X)) < 50, classes, -1)
models = {
    "k-means": pipeline(method="kmeans").fit(X),
    "fusion": search,
    "fusion, 50 labels": pipeline(**quick).fit(X, imageclusterer__evidence=few),
}
for name, model in models.items():
    print(f"{name:<18} NMI with the classes: {normalized_mutual_info_score(classes, model.predict(X)):.3f}")
