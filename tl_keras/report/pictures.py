"""Figures for TensorBoard, drawn into arrays.

Each figure has its own Agg canvas. pyplot would keep references to all figures, and would choose a
window system, which may not exist.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from tl_keras.pictures.arrays import Images

DOTS_PER_INCH = 100
COLUMNS = 8
MAX_PICTURES = 32
CELL_INCHES = 1.3
GAP_INCHES = 0.06
TITLE_INCHES = 0.22
HEADING_INCHES = 0.4
TITLE_LETTERS = 16
ANNOTATED_CLASSES = 20
NAMED_CLASSES = 100


def draw_grid(
    images: Sequence[np.ndarray] | np.ndarray, titles: Sequence[str], heading: str
) -> np.ndarray:
    """Draw images in rows of eight, each under its title.

    Args:
        images: n images, (height, width, channels) uint8, or float from 0 to 255, with 1 or 3
            channels.
        titles: n titles with the same number of lines.
        heading: a line above the grid.

    Returns:
        (height, width, 3) uint8.
    """
    rows = -(-len(images) // COLUMNS)
    title_lines = max((title.count("\n") + 1 for title in titles), default=1)
    cell_height = CELL_INCHES + TITLE_INCHES * title_lines
    width, height = COLUMNS * CELL_INCHES, HEADING_INCHES + rows * cell_height
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    # One axes for all images, in inches, y downwards. 32 axes would take ten times as long.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, COLUMNS)
        middle = (column + 0.5) * CELL_INCHES
        bottom = HEADING_INCHES + (row + 1) * cell_height - GAP_INCHES
        sides = _fit_extent(image, middle, bottom, CELL_INCHES - 2 * GAP_INCHES)
        axes.imshow(_to_rgb(image), extent=sides, aspect="auto")
        axes.text(
            middle, sides[3] - 0.04, title, size=8.5, ha="center", va="bottom", parse_math=False
        )
    axes.text(
        GAP_INCHES,
        HEADING_INCHES / 2,
        heading,
        size=10,
        weight="bold",
        va="center",
        parse_math=False,
    )
    axes.set(xlim=(0, width), ylim=(height, 0))
    return _render(figure)


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix. The colours are normalised by row.

    Up to 20 classes, the cells contain the counts. Up to 100 classes, each class has its name.

    Args:
        matrix: (classes, classes) int counts, rows true, columns predicted.
        class_names: in the order of the rows.

    Returns:
        (height, width, 3) uint8.
    """
    matrix = np.asarray(matrix)
    classes, total = len(matrix), matrix.sum()
    parts = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.5 * classes + 1.5, 5.5, 13))
    figure = Figure(figsize=(side + 0.8, side), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    # A square root scale. On a linear scale, 5 % of a class would be almost white.
    scale = PowerNorm(0.5, 0, 1)
    shown = axes.imshow(parts, cmap="Blues", norm=scale, interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="part of the true class", shrink=0.8, aspect=30)
    every = -(-classes // NAMED_CLASSES)
    places = np.arange(0, classes, every)
    names = [_shorten(class_names[place]) for place in places.tolist()]
    size = 9 if classes <= ANNOTATED_CLASSES else float(np.clip(560 / len(places), 5.5, 9))
    upright = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(places, names, rotation=upright, size=size, parse_math=False)
    axes.set_yticks(places, names, size=size, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    right = int(np.trace(matrix))
    axes.set_title(f"{right} of {total} right ({100 * right / max(total, 1):.2f} %)", size=10)
    if classes <= ANNOTATED_CLASSES:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if scale(parts[row, column]) > 0.6 else "black"
                axes.text(column, row, str(count), size=8, ha="center", va="center", color=color)
    return _render(figure)


def draw_mistakes(
    images: Images,
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    confidences: np.ndarray | None = None,
) -> np.ndarray:
    """Draw up to 32 misclassified images, in order of falling confidence.

    Args:
        images: (examples, height, width, channels) uint8, the whole test set. Only drawn images are
            read.
        labels: (examples,) int.
        predictions: (examples,) int.
        class_names: in the order of the labels.
        confidences: (examples,) probability of each prediction, 0 to 1; without them, the order of
            the examples is kept.

    Returns:
        (height, width, 3) uint8.
    """
    wrong = find_mistakes(labels, predictions, confidences)
    shown = wrong[:MAX_PICTURES]
    between = " " if max(map(len, class_names)) * 2 + 3 <= TITLE_LETTERS else "\n"
    titles = []
    for index in shown.tolist():
        true, predicted = (_shorten(class_names[part[index]]) for part in (labels, predictions))
        title = f"{true}{between}\N{RIGHTWARDS ARROW} {predicted}"
        if confidences is not None:
            title += f"\n{100 * confidences[index]:.0f} % sure"
        titles.append(title)
    heading = f"{len(wrong)} of {len(labels)} misclassified (true \N{RIGHTWARDS ARROW} predicted)"
    if len(wrong) > len(shown):
        heading += f"; {len(shown)} of them" + (", surest first" * (confidences is not None))
    return draw_grid(images[shown], titles, heading)


def find_mistakes(
    labels: np.ndarray, predictions: np.ndarray, confidences: np.ndarray | None = None
) -> np.ndarray:
    """Return the (mistakes,) indices of the misclassified examples, in order of falling confidence.

    Args:
        labels: (examples,) int.
        predictions: (examples,) int.
        confidences: (examples,) probability of each prediction; without them, the order is kept.
    """
    wrong = np.flatnonzero(np.asarray(labels) != np.asarray(predictions))
    if confidences is None:
        return wrong
    return wrong[np.argsort(-np.asarray(confidences)[wrong], kind="stable")]


def draw_batch(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Draw the first 32 images of a training batch with their class names.

    Args:
        images: (batch, height, width, channels) uint8, or float from 0 to 255.
        labels: (batch,) int.
        class_names: in the order of the labels.

    Returns:
        (height, width, 3) uint8.
    """
    shown = images[:MAX_PICTURES]
    titles = [_shorten(class_names[label]) for label in labels[:MAX_PICTURES]]
    size = " x ".join(str(side) for side in np.shape(images)[1:])
    return draw_grid(shown, titles, f"{len(shown)} training images as the model sees them, {size}")


def draw_pairs(above: np.ndarray, below: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Draw the first 16 pairs of images, in alternating rows of eight.

    Args:
        above: (n, height, width, channels) uint8, or float from 0 to 255.
        below: the same; the first n are drawn.
        titles: of each image above, and of each image below.

    Returns:
        (height, width, 3) uint8.
    """
    count = min(len(above), MAX_PICTURES // 2)
    drawn: list[np.ndarray] = []
    names: list[str] = []
    for start in range(0, count, COLUMNS):
        for images, title in zip((above, below), titles, strict=True):
            row = list(images[start : min(start + COLUMNS, count)])
            # Fill the last row with empty images, so that the images of a pair are one above the
            # other.
            empty = COLUMNS - len(row)
            drawn += row + [np.full_like(row[0], 255)] * empty
            names += [title] * len(row) + [""] * empty
    size = " x ".join(str(side) for side in np.shape(above)[1:])
    return draw_grid(drawn, names, f"{count} pairs: {titles[0]} above, {titles[1]} below, {size}")


def _fit_extent(
    image: np.ndarray, middle: float, bottom: float, side: float
) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of the image at the bottom of a square of `side`."""
    height, width = (side * length / max(image.shape[:2]) for length in image.shape[:2])
    return middle - width / 2, middle + width / 2, bottom, bottom - height


def _to_rgb(image: np.ndarray) -> np.ndarray:
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _shorten(name: str, letters: int = TITLE_LETTERS) -> str:
    return name if len(name) <= letters else name[: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _render(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
