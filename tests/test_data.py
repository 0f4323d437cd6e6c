from __future__ import annotations

import itertools
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pathnas import data
from pathnas.data import Augment, Files, Images, Normalization

law = settings(deadline=None, derandomize=True, max_examples=60)

PLAIN = Normalization((0.0,), (1.0,))


def numbered(labels: list[int] | np.ndarray) -> Images:
    """Images whose only pixel is their own index."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    return Images(torch.arange(len(labels), dtype=torch.float32).view(-1, 1, 1, 1), labels)


def numbers(source: data.Source) -> list[int]:
    assert isinstance(source, Images)
    return source.pixels.flatten().long().tolist()


def noise(n: int, c: int, h: int, w: int, seed: int = 0) -> Images:
    """Images without a pixel equal to zero."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(n, c, h, w, generator=generator) + 0.5
    return Images(pixels, torch.arange(n))


def unit(channels: int) -> Normalization:
    return Normalization((0.0,) * channels, (1.0,) * channels)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 2, dtype=torch.float64), torch.zeros(2).long(), "`pixels` must"),
        (torch.zeros(2, 2, 2), torch.zeros(2).long(), "`pixels` must"),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2), "`labels` must"),
        (torch.zeros(2, 1, 2, 2), torch.zeros(3).long(), "`labels` must"),
    ],
)
def test_images_are_checked(pixels: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(pixels, labels)


def test_files_are_checked() -> None:
    with pytest.raises(ValueError, match="2 paths and 1 labels"):
        Files("/", ("a", "b"), (0,), 8)
    with pytest.raises(ValueError, match="`size`"):
        Files("/", ("a",), (0,), 0)


def test_join_appends() -> None:
    both = data.join(numbered([0, 1]), numbered([2]))
    assert numbers(both) == [0, 1, 0] and data.labels_of(both).tolist() == [0, 1, 2]
    files = data.join(Files("/", ("a",), (0,), 8), Files("/", ("b",), (1,), 8))
    assert files == Files("/", ("a", "b"), (0, 1), 8)


@pytest.mark.parametrize(
    "other",
    [
        noise(1, 2, 1, 1),
        Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1).long()),
        Files("/", ("a",), (0,), 8),
    ],
)
def test_join_refuses_unlike_sets(other: data.Source) -> None:
    with pytest.raises(ValueError, match="can be joined"):
        data.join(numbered([0, 1]), other)


# Splits -------------------------------------------------------------------------------------------

label_lists = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@law
@given(label_lists, st.data(), st.integers(0, 2**32))
def test_split_is_disjoint_exact_stratified_and_a_function_of_the_seed(
    labels: list[int], draw: st.DataObject, seed: int
) -> None:
    total = len(labels)
    count = draw.draw(st.integers(1, total - 1))
    kept = draw.draw(st.none() | st.integers(1, total - count))
    source = numbered(labels)
    training, held_out = data.split(source, validation=count, train=kept, seed=seed)
    assert (len(training), len(held_out)) == (kept or total - count, count)
    assert len({*numbers(training), *numbers(held_out)}) == len(training) + len(held_out)
    for part in (training, held_out):
        assert data.labels_of(part).tolist() == [labels[i] for i in numbers(part)]
    for label in set(labels):
        quota = count * labels.count(label) / total
        assert abs(data.labels_of(held_out).tolist().count(label) - quota) < 1
    again, same = data.split(source, validation=count, seed=seed)
    assert numbers(same) == numbers(held_out)
    if kept is None:
        assert numbers(again) == numbers(training)


def test_split_depends_on_the_seed_and_mixes_the_classes() -> None:
    source = numbered(np.repeat(np.arange(4), 50))
    training, held_out = data.split(source, validation=40, seed=1)
    assert numbers(held_out) != numbers(data.split(source, validation=40, seed=2)[1])
    assert set(data.labels_of(training)[:40].tolist()) == {0, 1, 2, 3}
    rng = np.random.default_rng(1)
    assert numbers(data.split(source, validation=40, seed=rng)[1]) == numbers(held_out)


def test_split_of_files_matches_split_of_images() -> None:
    labels = [0, 1] * 10
    files = Files("/r", tuple(str(i) for i in range(20)), tuple(labels), 8)
    for on_disk, in_memory in zip(
        data.split(files, validation=6, seed=3),
        data.split(numbered(labels), validation=6, seed=3),
        strict=True,
    ):
        assert [int(path) for path in on_disk.paths] == numbers(in_memory)  # type: ignore[union-attr]
        assert data.labels_of(on_disk).tolist() == data.labels_of(in_memory).tolist()


@pytest.mark.parametrize(("validation", "train"), [(0, None), (10, None), (5, 6), (3, 0), (-1, 2)])
def test_split_refuses_what_does_not_fit(validation: int, train: int | None) -> None:
    with pytest.raises(ValueError, match=r"asked of a set of 10"):
        data.split(numbered([0, 1] * 5), validation=validation, train=train, seed=0)


def test_sample_is_stratified_and_bounded() -> None:
    source = numbered([0] * 30 + [1] * 10)
    drawn = data.sample(source, 8, 0)
    assert sorted(data.labels_of(drawn).tolist()) == [0] * 6 + [1] * 2
    assert sorted(numbers(data.sample(source, 40, 0))) == list(range(40))
    for count in (0, 41):
        with pytest.raises(ValueError, match=f"{count} images were asked of a set of 40"):
            data.sample(source, count, 0)


# Normalization ------------------------------------------------------------------------------------


@law
@given(
    st.integers(1, 600), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 2**32)
)
def test_measure_is_mean_and_deviation_of_each_channel(
    n: int, channels: int, width: int, whole: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (n, channels, 3, width)).astype(np.uint8 if whole else np.float32)
    measured = data.measure(Images(torch.from_numpy(raw), torch.zeros(n).long()))
    wide = raw.astype(np.float64)
    np.testing.assert_allclose(measured.mean, wide.mean((0, 2, 3)), rtol=1e-12)
    deviation = wide.std((0, 2, 3))
    np.testing.assert_allclose(measured.std, np.where(deviation == 0, 1, deviation), rtol=1e-9)


def test_a_constant_channel_has_deviation_one() -> None:
    pixels = torch.full((4, 1, 2, 2), 7, dtype=torch.uint8)
    assert data.measure(Images(pixels, torch.zeros(4).long())) == Normalization((7.0,), (1.0,))


# Storage ------------------------------------------------------------------------------------------


def mapped_file(address: int) -> str:
    """The file that this process has mapped at an address, as the kernel says."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_ = fields = line.split()
        low, high = (int(bound, 16) for bound in span.split("-"))
        if low <= address < high:
            return fields[-1]
    raise AssertionError("the address is not mapped")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_opened_pixels_are_the_saved_ones_and_stay_on_disk(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    pixels = (noise(500, 3, 6, 5).pixels * 100).to(dtype)
    data.save(Images(pixels, torch.arange(500)), tmp_path / "a" / "train")
    opened = data.open_source(tmp_path / "a" / "train")
    assert isinstance(opened, Images)
    assert torch.equal(opened.pixels, pixels) and torch.equal(opened.labels, torch.arange(500))
    assert opened.pixels.is_contiguous(memory_format=torch.channels_last)
    assert mapped_file(opened.pixels.data_ptr()) == str(tmp_path / "a" / "train" / "pixels.npy")
    opened.pixels[0] = 0  # this process's copy
    again = data.open_source(tmp_path / "a" / "train")
    assert isinstance(again, Images) and torch.equal(again.pixels, pixels)


def test_files_are_stored_as_json(tmp_path: Path) -> None:
    files = Files("/somewhere", ("a/é.png", "b.png"), (0, 1), 64)
    data.save(files, tmp_path / "train")
    assert data.open_source(tmp_path / "train") == files


def test_a_set_is_written_once(tmp_path: Path) -> None:
    data.save(numbered([0]), tmp_path / "train")
    with pytest.raises(FileExistsError, match="written once"):
        data.save(numbered([0]), tmp_path / "train")


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        data.save(numbered([0]), tmp_path / "train")
    assert list(tmp_path.iterdir()) == []


def test_open_refuses_absent_sets_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        data.open_source(tmp_path)
    marker = tmp_path / "marker"
    payload = np.array([Payload(str(marker))], dtype=object)
    np.save(tmp_path / "pixels.npy", payload, allow_pickle=True)
    np.save(tmp_path / "labels.npy", payload, allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        data.open_source(tmp_path)
    assert not marker.exists()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(self.path),)


def test_the_payload_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(str(tmp_path / "marker"))))
    assert (tmp_path / "marker").exists()


# Batches ------------------------------------------------------------------------------------------


@law
@given(
    st.integers(1, 12), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.booleans(),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_plain_batches_are_the_normalized_images_in_order(
    n: int, channels: int, height: int, batch_size: int, whole: bool, drop: bool, last: bool
) -> None:
    raw = noise(n, channels, height, 4)
    pixels = (raw.pixels * 100).to(torch.uint8) if whole else raw.pixels
    if last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    source = Images(pixels, raw.labels)
    normalization = data.measure(source)
    made = data.batches(source, batch_size=batch_size, normalization=normalization, drop_last=drop)
    parts = list(made)
    used = n - n % batch_size if drop else n
    assert len(made) == len(parts) and made.images == n
    assert sum(len(y) for _, y in parts) == used
    for x, y in parts:
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.is_contiguous(memory_format=torch.channels_last)
        mean, std = (
            torch.tensor(v).view(-1, 1, 1) for v in (normalization.mean, normalization.std)
        )
        torch.testing.assert_close(x, (pixels[y].float() - mean) / std)
    if parts:
        assert torch.cat([y for _, y in parts]).tolist() == list(range(used))


shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


def epoch(source: Images, augment: Augment, seed: int) -> list[tuple[Tensor, Tensor]]:
    made = data.batches(
        source,
        batch_size=5,
        normalization=unit(source.shape[0]),
        augment=augment,
        generator=seeded(seed),
        shuffle=True,
    )
    return list(made)


@law
@given(shapes, st.integers(1, 3), st.booleans(), st.integers(0, 999))
def test_crop_is_a_shift_of_the_image_in_a_frame_of_zeros(
    shape: tuple[int, int, int], pad: int, flip: bool, seed: int
) -> None:
    source = noise(7, *shape)
    _, height, width = shape
    framed = torch.nn.functional.pad(source.pixels, (pad,) * 4)
    views = [framed, torch.nn.functional.pad(source.pixels.flip(3), (pad,) * 4)][: 1 + flip]
    for x, y in epoch(source, Augment(crop=pad, flip=flip), seed):
        for image, index in zip(x, y, strict=True):
            shifts = [
                view[index, :, down : down + height, right : right + width]
                for view in views
                for down in range(2 * pad + 1)
                for right in range(2 * pad + 1)
            ]
            assert any(torch.equal(image, shift) for shift in shifts)


def test_crop_uses_every_shift_and_normalizes_before_the_frame() -> None:
    # One bright pixel in a dark image: where it lands is the shift; what comes in is exactly zero.
    pixels = torch.full((2000, 1, 5, 5), 10, dtype=torch.uint8)
    pixels[:, :, 2, 2] = 200
    source = Images(pixels, torch.zeros(2000).long())
    made = data.batches(
        source,
        batch_size=2000,
        normalization=Normalization((50.0,), (20.0,)),
        augment=Augment(crop=2),
        generator=seeded(),
    )
    [(x, _)] = list(made)
    counts = (x == 7.5).sum(0).flatten()
    assert int(counts.sum()) == 2000 and counts.min() > 40  # 80 expected, deviation 9
    assert set(x.unique().tolist()) == {-2.0, 0.0, 7.5}


@law
@given(shapes, st.integers(0, 999))
def test_flip_mirrors_about_half_of_the_images(shape: tuple[int, int, int], seed: int) -> None:
    source = noise(11, *shape)
    for x, y in epoch(source, Augment(flip=True), seed):
        for image, index in zip(x, y, strict=True):
            original = source.pixels[index]
            assert torch.equal(image, original) or torch.equal(image, original.flip(2))


def test_flip_is_a_fair_coin() -> None:
    source = noise(1000, 1, 1, 2)
    parts = epoch(source, Augment(flip=True), 0)
    kept = sum(int((x == source.pixels[y]).all(3).sum()) for x, y in parts)
    assert 430 < kept < 570


@law
@given(shapes, st.integers(1, 8), st.integers(0, 999))
def test_cutout_zeroes_one_square_cut_by_the_border(
    shape: tuple[int, int, int], side: int, seed: int
) -> None:
    source = noise(7, *shape)
    _, height, width = shape
    for x, y in epoch(source, Augment(cutout=side), seed):
        for image, index in zip(x, y, strict=True):
            zero = (image == 0).all(0)
            assert torch.equal((image == 0).any(0), zero)  # all channels or none
            assert torch.equal(image[:, ~zero], source.pixels[index][:, ~zero])
            rows, columns = zero.any(1), zero.any(0)
            assert torch.equal(zero, rows[:, None] & columns[None])  # a rectangle
            for marks, extent in ((rows, height), (columns, width)):
                at = marks.nonzero().flatten()
                assert len(at) == at[-1] - at[0] + 1 <= side
                inner = at[0] > 0 and at[-1] < extent - 1
                assert len(at) == side or not inner


def test_the_middle_of_cutout_is_anywhere_in_the_image() -> None:
    source = Images(torch.ones(4000, 1, 5, 5), torch.zeros(4000).long())
    made = data.batches(
        source, batch_size=4000, normalization=PLAIN, augment=Augment(cutout=3), generator=seeded()
    )
    [(x, _)] = list(made)
    # A row is cut when the middle is in it or beside it: 2 of 5 at the border, 3 of 5 within.
    line = torch.tensor([0.4, 0.6, 0.6, 0.6, 0.4])
    torch.testing.assert_close((x == 0).float().mean((0, 1)), line.outer(line), atol=0.04, rtol=0)


def test_epochs_are_fresh_and_repeat_with_the_generator() -> None:
    source = noise(40, 1, 4, 4)
    augment = Augment(crop=1, flip=True, cutout=2)
    state = torch.get_rng_state()

    def epochs(seed: int) -> list[list[tuple[Tensor, Tensor]]]:
        made = data.batches(
            source, batch_size=16, normalization=PLAIN, augment=augment,
            generator=seeded(seed), shuffle=True,
        )  # fmt: skip
        return [list(made), list(made)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    for mine, same in zip(first, again, strict=True):
        for (x, y), (x_same, y_same) in zip(mine, same, strict=True):
            assert torch.equal(x, x_same) and torch.equal(y, y_same)
    orders = [torch.cat([y for _, y in epoch]).tolist() for epoch in (*first, other[0])]
    assert orders[0] != orders[1] and orders[0] != orders[2]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_leave_the_set_as_it_is() -> None:
    source = noise(20, 2, 4, 4)
    before = source.pixels.clone()
    for x, _ in epoch(source, Augment(crop=1, flip=True, cutout=3), 0):
        x.zero_()
    assert torch.equal(source.pixels, before)


def test_batches_refuse_what_makes_no_sense() -> None:
    source = noise(4, 1, 2, 2)
    for wrong in ({"shuffle": True}, {"augment": Augment(flip=True)}):
        with pytest.raises(ValueError, match="need a `generator`"):
            data.batches(source, batch_size=2, normalization=PLAIN, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1, but got 0 and 4"):
        data.batches(source, batch_size=0, normalization=PLAIN)
    with pytest.raises(ValueError, match="must have 1 channels"):
        data.batches(source, batch_size=2, normalization=unit(3))
    for negative in ({"crop": -1}, {"cutout": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            Augment(**negative)  # type: ignore[arg-type]


# Sets on disk -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Nine images of several sizes and modes; the class is the number modulo 2."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(9):
        height, width = 20 + 3 * i, 40 - 2 * i
        shape = (height, width) if i == 4 else (height, width, 3)
        raw = rng.integers(0, 256, shape).astype(np.uint8)
        paths.append(f"{i}.png")
        Image.fromarray(raw).save(tmp_path / paths[-1])
    return Files(str(tmp_path), tuple(paths), tuple(i % 2 for i in range(9)), 14)


def test_evaluation_takes_the_middle_of_the_resized_file(tmp_path: Path) -> None:
    # Of an image of 16x32 with size 14 nothing is resized: the middle is rows 1-14, columns 9-22.
    raw = np.random.default_rng(0).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    Image.fromarray(raw).save(tmp_path / "a.png")
    source = Files(str(tmp_path), ("a.png",), (0,), 14)
    middle = torch.from_numpy(raw[1:15, 9:23]).permute(2, 0, 1)
    assert torch.equal(data.decode(source).pixels[0], middle)
    assert data.measure(source) == data.measure(data.decode(source))
    [(x, y)] = list(data.batches(source, batch_size=2, normalization=unit(3), workers=0))
    assert torch.equal(x[0], middle.float()) and y.tolist() == [0]
    assert x.is_contiguous(memory_format=torch.channels_last) and source.shape == (3, 14, 14)


def test_batches_of_files_are_those_of_the_decoded_images(files: Files) -> None:
    decoded = data.decode(files)
    normalization = data.measure(decoded)
    augment = Augment(flip=True, cutout=4)
    mine, same = (
        list(
            data.batches(
                source,
                batch_size=4,
                normalization=normalization,
                augment=augment,
                generator=seeded(5),
                shuffle=True,
                drop_last=True,
                workers=0,
            )
        )
        for source in (files, decoded)
    )
    assert len(mine) == len(same) == 2
    for (x, y), (x_same, y_same) in zip(mine, same, strict=True):
        assert torch.equal(x, x_same) and torch.equal(y, y_same)


def training_epochs(files: Files, workers: int) -> list[tuple[Tensor, Tensor]]:
    made = data.batches(
        files, batch_size=4, normalization=unit(3), augment=Augment(crop=4, flip=True),
        generator=seeded(7), shuffle=True, workers=workers,
    )  # fmt: skip
    return [*made, *made]


def test_random_crops_of_files_repeat_and_leave_the_global_generator(files: Files) -> None:
    state = torch.get_rng_state()
    first, again = training_epochs(files, 0), training_epochs(files, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 6 and first[0][0].shape == (4, 3, 14, 14)
    for (x, y), (x_same, y_same) in zip(first, again, strict=True):
        assert torch.equal(x, x_same) and torch.equal(y, y_same)
    epochs = [torch.cat([x for x, _ in part]).sum((1, 2, 3)) for part in (first[:3], first[3:])]
    assert not torch.equal(epochs[0].sort().values, epochs[1].sort().values)


@pytest.mark.slow
def test_random_crops_do_not_depend_on_the_number_of_workers(files: Files) -> None:
    for (x, y), (x_same, y_same) in zip(
        training_epochs(files, 0), training_epochs(files, 2), strict=True
    ):
        assert torch.equal(x, x_same) and torch.equal(y, y_same)


def test_a_daemonic_process_decodes_by_itself(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = multiprocessing.current_process()
    monkeypatch.setitem(process._config, "daemon", True)  # type: ignore[attr-defined]
    made = data.batches(files, batch_size=9, normalization=unit(3))
    [(x, _)] = list(made)
    assert len(x) == 9 and multiprocessing.active_children() == []


def test_a_damaged_file_is_named(files: Files) -> None:
    path = Path(files.root, files.paths[3])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot decode the image .*3\.png"):
        data.decode(files)


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 4), st.integers(0, 99))
def test_shares_make_whole_batches_of_nearly_equal_size(
    images: int, batch_size: int, processes: int, seed: int
) -> None:
    source = Images(torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(images))

    def epoch(share: tuple[int, int]) -> list[list[int]]:
        made = data.batches(
            source,
            batch_size=batch_size,
            normalization=data.Normalization((0.0,), (1.0,)),
            generator=torch.Generator().manual_seed(seed),
            shuffle=True,
            share=share,
        )
        return [y.tolist() for _, y in made]

    whole = epoch((0, 1))
    sizes = [len(batch) for batch in whole]
    assert sorted(itertools.chain(*whole)) == list(range(images))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    if min(sizes) < processes:
        with pytest.raises(ValueError, match="no batch of fewer than n images"):
            epoch((0, processes))
        return
    shares = [epoch((i, processes)) for i in range(processes)]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    for parts in zip(*shares, strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("kind", ["images", "files"])
def test_shares_are_augmented_as_the_whole_batch_is(kind: str, tmp_path: Path) -> None:
    source: data.Source
    pixels = torch.randint(256, (11, 3, 9, 9), dtype=torch.uint8)
    source = Images(pixels, torch.arange(11))
    if kind == "files":
        for number, image in enumerate(pixels):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
        names = tuple(f"{number}.png" for number in range(11))
        source = data.Files(str(tmp_path), names, tuple(range(11)), 8)

    def epochs(share: tuple[int, int]) -> list[Tensor]:
        made = data.batches(
            source,
            batch_size=6,
            normalization=data.Normalization((100.0,) * 3, (50.0,) * 3),
            augment=data.Augment(crop=2, flip=True, cutout=3),
            generator=torch.Generator().manual_seed(3),
            shuffle=True,
            workers=0,
            share=share,
        )
        return [x for _ in range(2) for x, _ in made]

    halves = [torch.cat(parts) for parts in zip(epochs((0, 2)), epochs((1, 2)), strict=True)]
    for half, whole in zip(halves, epochs((0, 1)), strict=True):
        assert torch.equal(half, whole)
