"""What `--init-from` goes with: `--encoder` names the net of that run, or one of the two is left out."""

import numpy as np
import pytest

from smidgen import fitting
from smidgen.config import Config
from smidgen.errors import InputError
from smidgen.fitting import fit
from smidgen.nets.composed import Projected

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
QUICK = {"supervised": {"steps": 2, "batch_size": 4}, "fusion": {"steps": 4, "refine_steps": 2, "batch_size": 8}}


def started(method, **settings):
    config = Config("array", method=method, n_clusters=2, threads=1, options=QUICK.get(method, {}), **settings)
    return fit(config, data=IMAGES).config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A net trained on images, k-means of embeddings, `fusion` on embeddings, and k-means of pixels."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMIDGEN_CACHE", str(folder / "cache"))
        patch.setattr(fitting, "write_page", lambda path: None)
        for name, method, encoder in (
            ("net", "fusion", None),
            ("embeddings", "kmeans", "lite0@32"),
            ("both", "fusion", "lite0@32"),
            ("pixels", "kmeans", None),
        ):
            options = QUICK.get(method, {})
            config = Config("array", method=method, n_clusters=2, encoder=encoder, threads=1, options=options)
            fit(config, data=IMAGES, out=folder / name)
        yield folder


@pytest.mark.parametrize(
    ("run", "encoder", "taken"),
    [
        ("net", None, (None, "conv")),
        ("net", "conv", (None, "conv")),
        ("embeddings", None, ("lite0@32", None)),
        ("embeddings", "lite0@32", ("lite0@32", None)),
        ("both", None, ("lite0@32", Projected(256))),
        ("both", "lite0@32", ("lite0@32", Projected(256))),
    ],
)
def test_k_means_takes_the_net_of_the_run_and_what_embeds_its_images(runs, run, encoder, taken):
    config = started("kmeans", encoder=encoder, init_from=str(runs / run))
    assert (config.encoder, config.options["encoder"]) == taken


@pytest.mark.parametrize("method", ["kmeans", "fusion"])
@pytest.mark.parametrize(
    ("run", "encoder"), [("net", "lite0@32"), ("embeddings", "lite0@64"), ("embeddings", "conv"), ("both", "conv")]
)
def test_another_encoder_than_the_run_s_is_refused_with_what_to_do(runs, method, run, encoder):
    with pytest.raises(InputError, match=f"goes with `--encoder {encoder}`: leave out one of `--encoder` and `--init-"):
        started(method, encoder=encoder, init_from=str(runs / run))


@pytest.mark.parametrize("encoder", [None, "conv", "lite0@32"])
def test_a_run_without_a_net_is_nothing_to_start_from(runs, encoder):
    with pytest.raises(InputError, match=r"'.*pixels' has no net to start from: leave out `--init-from`"):
        started("kmeans", encoder=encoder, init_from=str(runs / "pixels"))


def test_another_net_by_an_option_is_refused_by_its_name(runs):
    config = Config("array", n_clusters=2, init_from=str(runs / "net"), threads=1, options={"encoder": "unet"})
    with pytest.raises(InputError, match="run to start from is 'conv', and 'unet' is wanted here: leave out the opt"):
        fit(config, data=IMAGES)
