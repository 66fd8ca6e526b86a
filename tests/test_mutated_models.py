"""Whatever happens to model.json, loading ends in one sentence or in the very model that was saved."""

import json
import random
from collections import Counter
from functools import partial

import pytest

from mutations import MODELS, fit_model, judge, mutated
from smidgen.errors import RunError
from smidgen.files import read_json, write_json
from smidgen.model import Model
from smidgen.model_file import read_model_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves a model of `MODELS` once: its folder, images and their assignments."""
    found = {}

    def save(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("model")
            model, images = fit_model(name)
            model.save(folder)
            found[name] = folder, images, Model.load(folder).assign(images)
        return found[name]

    return save


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_mutation_of_a_description_escapes(name, forged, saved):
    folder, images, sound = saved(name)
    path = folder / "model.json"
    content, whole = path.read_bytes(), read_model_file(folder)
    verdicts = Counter()
    for seed in range(1000, 1010 if "embeddings" in name else 1040):
        path.write_bytes(mutated(content, random.Random(seed), forged=forged))
        verdicts[judge(folder, images, sound, whole)] += 1
    path.write_bytes(content)
    allowed = {"refused", "same", "another"} if forged else {"refused", "same"}
    assert set(verdicts) <= allowed, verdicts
    assert verdicts["refused"] > sum(verdicts.values()) / 2


def flipped(whole, place):
    damaged = bytearray(whole)
    damaged[place] ^= 1
    return bytes(damaged)


def says_the_same(damaged, whole):
    """Return whether both are JSON of the same values: the seventeenth digit of a number may say nothing."""
    try:
        return json.loads(damaged) == json.loads(whole)
    except ValueError:
        return False


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors", "extractor.safetensors"])
def test_one_flipped_bit_in_any_file_of_a_model_is_refused_in_one_sentence(file, saved):
    path = saved("fusion on embeddings")[0] / file
    whole = path.read_bytes()
    for place in (len(whole) // 2, len(whole) - 9):
        damaged = next(d for d in map(partial(flipped, whole), range(place, 0, -1)) if not says_the_same(d, whole))
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"damaged|format") as refusal:
            Model.load(path.parent)
        assert "\n" not in str(refusal.value)
    path.write_bytes(whole)


def test_weights_of_another_model_of_the_same_shape_are_refused(saved, tmp_path):
    model, _ = fit_model("kmeans")
    model.save(tmp_path)
    kept = (tmp_path / "model.json").read_bytes()
    model.method.centroids.add_(1)
    model.save(tmp_path)
    (tmp_path / "model.json").write_bytes(kept)  # as if a kill had come between the two files
    with pytest.raises(RunError, match=r"weights\.safetensors.*checksum"):
        Model.load(tmp_path)


def test_a_model_without_checksums_is_still_read(saved):
    folder, images, sound = saved("kmeans")
    path = folder / "model.json"
    content = path.read_bytes()
    table = {key: value for key, value in read_json(path).items() if key not in ("checksum", "weights")}
    write_json(path, table)
    assert (Model.load(folder).assign(images) == sound).all()
    path.write_bytes(content)
