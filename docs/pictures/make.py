"""Draws the pictures of the documents: ``python docs/pictures/make.py [runs/digits]``.

With the folder of a run that has ended, it also takes pictures of its report and of what
TensorBoard shows of it, for which Chromium must be installed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from pathnas import costs, drawing, report
from pathnas.transforms import Branch, Insert, Replace
from pathnas.tree import BASE_TREE, Node
from pathnas.treecells import TREES

HERE = Path(__file__).parent
WIDTH = 16
PORT = 6127
PATIENCE = 90
"""Seconds that a page may take."""


def row(trees: list[tuple[str, Node]], name: str) -> None:
    """Writes pictures side by side, each with a line below."""
    pictures = []
    for _, tree in trees:
        drawn = drawing.render(tree, "png", costs=costs.parameters(tree, WIDTH))
        pictures.append(Image.open(io.BytesIO(drawn)))
    widths = [picture.width for picture in pictures]
    tallest = max(picture.height for picture in pictures)
    figure = Figure(figsize=(sum(widths) / 200, tallest / 200 + 0.4), dpi=200, facecolor="white")
    left = 0.0
    for (title, _), picture in zip(trees, pictures, strict=True):
        wide = picture.width / sum(widths)
        high = picture.height / (tallest + 80)
        axes = figure.add_axes((left, 1 - high, wide, high))
        axes.imshow(picture)
        axes.set_axis_off()
        figure.text(left + wide / 2, 0.02, title, ha="center", fontsize=9, family="monospace")
        left += wide
    figure.savefig(HERE / name)


def pages(run: Path) -> None:
    """Takes pictures of the report of a run, and of what TensorBoard shows of it."""
    with tempfile.TemporaryDirectory() as folder:
        page = report.write(run, Path(folder) / "report.html")
        shoot(page.as_uri(), "report.png", (1240, 1480))
        with tensorboard(run / "tensorboard") as address:
            for name, tab in TABS.items():
                shoot(f"{address}/{tab}", name, (1400, 900))


TABS = {
    "tensorboard_graph.png": "?darkMode=false#graphs&run=env",
    "tensorboard_projector.png": "?darkMode=false#projector",
}
"""Pages of TensorBoard by the picture of each; charts of scalars stay blank in virtual time."""


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Serves a folder of event files until the block ends, and yields the address."""
    words = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    words += ["--port", str(PORT)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{PORT}"
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                tags = urllib.request.urlopen(f"{address}/data/plugin/scalars/tags").read()
            except OSError:
                tags = b""
            if b"result/best_test" in tags:  # the last that a run writes
                break
            if time.monotonic() > until:
                raise TimeoutError(f"TensorBoard showed no ended run in {folder}")
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def shoot(address: str, name: str, size: tuple[int, int]) -> None:
    """Writes what a browser shows of a page, once it has come to rest."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise FileNotFoundError("pictures of pages need chromium")
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        words += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        words += [f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
        words += ["--window-size={},{}".format(*size), f"--screenshot={HERE / name}", address]
        subprocess.run(words, check=True, timeout=PATIENCE, capture_output=True)
    with Image.open(HERE / name) as picture:
        picture.convert("RGB").quantize(256).save(HERE / name, optimize=True)


def main(arguments: Sequence[str]) -> None:
    """Draws all of them."""
    steps = [Branch((), "add", 2), Insert((0,)), Replace((0, 0), "sep_conv5x5")]
    titles = ['Branch((), "add", 2)', "Insert((0,))", 'Replace((0, 0),\n"sep_conv5x5")']
    trees = [("a convolution", BASE_TREE)]
    for title, step in zip(titles, steps, strict=True):
        trees.append((title, step(trees[-1][1])))
    row(trees, "steps.png")
    cell = TREES["treecell_a"]
    row([("a convolution", BASE_TREE), ("TreeCell-A", cell)], "growth.png")
    weights = costs.parameters(cell, WIDTH)
    (HERE / "treecell_a.svg").write_bytes(drawing.render(cell, "svg", costs=weights))
    if arguments:
        pages(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
