"""Embeddings that you have already, from any network, inside scikit-learn: a pipeline, and a search without labels."""

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from smidgen import ImageClusterer

X, classes = load_digits(return_X_y=True)  # (1797, 64): put your own (n, features) here

# `score` is how often neighbours share a cluster, corrected for chance: it needs no labels.
pipeline = make_pipeline(PCA(), ImageClusterer(10, method="kmeans", random_state=0))
search = GridSearchCV(pipeline, {"pca__n_components": [2, 10, 30]}, cv=3).fit(X)
print("components:", search.best_params_["pca__n_components"], "consistency:", round(search.best_score_, 3))

options = {"refine_steps": 50}
fused = make_pipeline(PCA(30), ImageClusterer(10, steps=150, options=options, random_state=0)).fit(X)

# Labels by row follow their images; -1 is not known.
few = [c if row < 50 else -1 for row, c in enumerate(classes)]
helped = make_pipeline(PCA(30), ImageClusterer(10, steps=150, options=options, random_state=0))
helped.fit(X, imageclusterer__evidence=few)

for name, model in {"k-means": search, "fusion": fused, "fusion, 50 labels": helped}.items():
    print(f"{name:<18} NMI with the classes: {normalized_mutual_info_score(classes, model.predict(X)):.3f}")
