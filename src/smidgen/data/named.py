"""The named datasets: their sizes, classes and official files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from smidgen.data.readers import read_cifar, read_idx, read_stl10, read_svhn
from smidgen.data.sources import (
    Source,
    archive_mirror,
    gzipped_mirrors,
    mnist_from_index,
    official_file,
    plain_mirror,
)

Images = tuple[np.ndarray, np.ndarray]  # (n, channels, h, w) or (n, h, w) uint8, and classes (n,) int64


@dataclass(frozen=True)
class NamedDataset:
    """A dataset that a name opens.

    shape: (channels, height, width). read: returns images and classes of "train" or "test".
    about: one line for lists.
    """

    name: str
    class_names: tuple[str, ...]
    n_train: int
    n_test: int
    shape: tuple[int, int, int]
    read: Callable[[str], Images]
    about: str

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
# fmt: off
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on

# Digests of the plain idx files; those of the official .gz are torchvision's.
MNIST = Source(
    name="mnist",
    folder="MNIST/raw",
    digests={
        "train-images-idx3-ubyte": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    fetchers=(
        mnist_from_index,
        *gzipped_mirrors(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
            {
                "train-images-idx3-ubyte": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte": "md5:d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte": "md5:9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte": "md5:ec29112dd5afa0611ce80d1b7f02629c",
            },
        ),
    ),
)
FASHION_MNIST = Source(
    name="fashion-mnist",
    folder="FashionMNIST/raw",
    folders=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
    digests={
        "train-images-idx3-ubyte": "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    fetchers=gzipped_mirrors(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
)


def _from_archive(name: str, *, url: str, digest: str, folder: str, digests: dict[str, str]) -> Source:
    fetcher = archive_mirror(url, digest, folder=folder, wanted=tuple(digests))
    return Source(name=name, folder=folder, digests=digests, fetchers=(fetcher,))


CIFAR10 = _from_archive(
    "cifar10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    digest="md5:c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    digests={
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    },
)
CIFAR100 = _from_archive(
    "cifar100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    digest="md5:eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    digests={"train": "md5:16019d7e3df5f24257cddd939b257f8d", "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"},
)
STL10 = _from_archive(
    "stl10",
    url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    digest="md5:91f7769df0f17e558f3565bffb0c7dfb",
    folder="stl10_binary",
    digests={
        "train_X.bin": "md5:918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "md5:5a34089d4802c674881badbb80307741",
        "test_X.bin": "md5:7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "md5:36f9794fa4beb8a2c72628de14fa638e",
    },
)
_SVHN_DIGESTS = {
    "train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3",
}
SVHN = Source(
    name="svhn",
    folder="",
    digests=_SVHN_DIGESTS,
    fetchers=(plain_mirror("http://ufldl.stanford.edu/housenumbers/", _SVHN_DIGESTS),),
)


def _read_digits(split: str) -> Images:
    """Return scikit-learn's 8 × 8 digits, 0..16 scaled to 0..255; every fifth image (4, 9, 14 …) is for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % 5 == 4) == (split == "test")
    pixels = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    return pixels, digits.target[chosen].astype(np.int64)


def _read_idx_pair(source: Source, split: str) -> Images:
    prefix = "train" if split == "train" else "t10k"
    labels = read_idx(official_file(source, f"{prefix}-labels-idx1-ubyte"))
    return read_idx(official_file(source, f"{prefix}-images-idx3-ubyte")), labels.astype(np.int64)


def _read_cifar(source: Source, split: str, *, train: tuple[str, ...], test: str, label_key: str) -> Images:
    names = train if split == "train" else (test,)
    batches = [read_cifar(official_file(source, name), label_key=label_key) for name in names]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_stl10(split: str) -> Images:
    return read_stl10(official_file(STL10, f"{split}_X.bin"), official_file(STL10, f"{split}_y.bin"))


def _read_svhn(split: str) -> Images:
    return read_svhn(official_file(SVHN, f"{split}_32x32.mat"))


_cifar10 = partial(_read_cifar, CIFAR10, train=tuple(list(CIFAR10.digests)[:5]), test="test_batch", label_key="labels")
_cifar100 = partial(_read_cifar, CIFAR100, train=("train",), test="test", label_key="fine_labels")
_mnist, _fashion = partial(_read_idx_pair, MNIST), partial(_read_idx_pair, FASHION_MNIST)

DATASETS: dict[str, NamedDataset] = {
    dataset.name: dataset
    for dataset in (
        NamedDataset("digits", _DIGITS, 1438, 359, (1, 8, 8), _read_digits, "digits in scikit-learn, needs nothing"),
        NamedDataset("mnist", _DIGITS, 60000, 10000, (1, 28, 28), _mnist, "handwritten digits"),
        NamedDataset("fashion-mnist", _FASHION, 60000, 10000, (1, 28, 28), _fashion, "clothes, in MNIST's format"),
        NamedDataset("cifar10", _CIFAR10, 50000, 10000, (3, 32, 32), _cifar10, "animals and vehicles"),
        NamedDataset("cifar100", _CIFAR100, 50000, 10000, (3, 32, 32), _cifar100, "CIFAR's 100 fine classes"),
        NamedDataset("stl10", _STL10, 5000, 8000, (3, 96, 96), _read_stl10, "larger photographs, the labelled part"),
        NamedDataset("svhn", _DIGITS, 73257, 26032, (3, 32, 32), _read_svhn, "house numbers, without the extra part"),
    )
}
