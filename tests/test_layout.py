"""Tests of the layouts of folders of images: what is a split, what is a class, and what is told."""

import unicodedata
from pathlib import Path

import pytest

from tl_keras.errors import DataError
from tl_keras.pictures.layout import Layout, find_layout

LABELLED = ("train/a/0", "train/a/1", "train/b/2")


def make(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(found: Layout, split: str) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    files = found.splits[split]
    for path, label in zip(files.paths, files.labels, strict=True):
        named.setdefault(found.classes[label], []).append(Path(path).name)
    return named


def test_folders_are_classes(tmp_path: Path) -> None:
    found = find_layout(make(tmp_path, "b/0", "a/1", "a/2", "notes.txt"))
    assert found.classes == ["a", "b"] and not found.notes
    assert set(found.splits) == {"train"}
    assert names(found, "train") == {"a": ["1", "2"], "b": ["0"]}


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "TEST"), ("training", "Testing")]
)
def test_splits_are_known_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    files = (f"{train}/a/0", f"{train}/b/1", f"{test}/b/2")
    found = find_layout(make(tmp_path, *files))
    assert found.classes == ["a", "b"] and set(found.splits) == {"train", "test"}
    assert names(found, "test") == {"b": ["2"]}


@pytest.mark.parametrize("split", ["test", "Test", "val", "validation"])
def test_unlabelled_split_beside_classes_is_no_class(tmp_path: Path, split: str) -> None:
    found = find_layout(make(tmp_path, "cat/0", "dog/1", f"{split}/2", f"{split}/3"))
    assert found.classes == ["cat", "dog"] and set(found.splits) == {"train"}
    [note] = found.notes
    assert note == (
        f"{tmp_path / split} has no class folders: its images have no labels, and are left for"
        " prediction"
    )


def test_unlabelled_test_folder_beside_a_train_folder_is_told(tmp_path: Path) -> None:
    found = find_layout(make(tmp_path, *LABELLED, "test/4", "test/5"))
    assert set(found.splits) == {"train"}
    [note] = found.notes
    assert note.startswith(f"{tmp_path / 'test'} has no class folders")


@pytest.mark.parametrize("name", ["valid", "val", "Validation", "dev"])
def test_validation_folder_is_the_test_split_where_there_is_no_other(
    tmp_path: Path, name: str
) -> None:
    found = find_layout(make(tmp_path, *LABELLED, f"{name}/a/6"))
    assert names(found, "test") == {"a": ["6"]}
    assert found.notes == [f"{tmp_path / name} is the test split, as there is no other"]


def test_validation_folder_beside_a_test_folder_validates(tmp_path: Path) -> None:
    found = find_layout(make(tmp_path, *LABELLED, "valid/a/6", "test/b/7"))
    assert set(found.splits) == {"train", "validation", "test"} and not found.notes
    assert names(found, "validation") == {"a": ["6"]}
    assert names(found, "test") == {"b": ["7"]}


def test_validation_folder_is_the_test_split_where_the_test_folder_has_no_labels(
    tmp_path: Path,
) -> None:
    found = find_layout(make(tmp_path, *LABELLED, "valid/a/6", "test/7"))
    assert names(found, "test") == {"a": ["6"]}
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/0", "valid/1"), "train has no class folders. 'train' is the name of a split"),
        (("Train/0", "Test/1"), "Train has no class folders. 'Train' is the name of a split"),
        (("valid/a/0", "valid/b/1", "test/a/2"), "has 'test', 'valid' and no train folder"),
        (("valid/a/0", "cat/1", "dog/2"), "valid has class folders, and .* has no train folder"),
        ((*LABELLED, "val/a/0", "valid/a/1"), "two folders for the validation split: 'val' and"),
        ((*LABELLED, "Train/a/0"), "two folders for the train split: 'Train' and 'train'"),
        ((*LABELLED, "car/0"), "has folders beside train and test: car. Move them away"),
        ((*LABELLED, "valid/c/0"), "valid has classes that .*train lacks: 'c'"),
        ((*LABELLED, "test/c/0", "valid/a/0"), "test has classes that .*train lacks: 'c'"),
        (("a/0",), "has only the class 'a'. Put the images of each class into a separate folder"),
        (("0.png",), "has no class. Put the images"),
        (("a/b/0", "c/1"), "is a folder inside a class"),
    ],
)
def test_layout_that_cannot_be_understood_is_refused(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_layout(make(tmp_path, *files))


def test_empty_test_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, *LABELLED)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="test is empty. Remove it"):
        find_layout(tmp_path)


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    files = (f"train/{composed}/0", "train/tea/1", f"test/{decomposed}/2")
    found = find_layout(make(tmp_path / "splits", *files))
    assert found.classes == [composed, "tea"]
    assert names(found, "test") == {composed: ["2"]}
    found = find_layout(make(tmp_path / "both", f"{composed}/0", f"{decomposed}/1", "tea/2"))
    assert names(found, "train") == {composed: ["0", "1"], "tea": ["2"]}


# Links


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a class and a split, outside of the folder that is read."""
    return make(tmp_path / "outside", "c/4", "c/5", "split/a/6")


@pytest.mark.parametrize(
    ("link", "target", "split", "expected"),
    [
        ("train/a/4", "c/4", "train", {"a": ["0", "1", "4"], "b": ["2"]}),
        ("train/c", "c", "train", {"a": ["0", "1"], "b": ["2"], "c": ["4", "5"]}),
        ("Test", "split", "test", {"a": ["6"]}),
    ],
    ids=["file", "class", "split"],
)
def test_link_out_of_the_folder_is_followed_with_the_flag_alone(
    tmp_path: Path,
    outside: Path,
    link: str,
    target: str,
    split: str,
    expected: dict[str, list[str]],
) -> None:
    root = make(tmp_path / "root", *LABELLED)
    (root / link).symlink_to(outside / target)
    with pytest.raises(DataError) as raised:
        find_layout(root)
    assert str(raised.value) == (
        f"{str(root / link)!r} leads out of {root}, to {str(outside / target)!r}. Put the files"
        " into that folder, or give --follow_links"
    )
    found = find_layout(root, follow_links=True)
    assert names(found, split) == expected
    assert all(Path(path).is_relative_to(root) for path in found.splits[split].paths)


def test_link_within_the_folder_and_to_the_folder_needs_no_flag(tmp_path: Path) -> None:
    root = make(tmp_path / "root", *LABELLED)
    (root / "train" / "c").symlink_to("b")
    (root / "train" / "a" / "3").symlink_to(root / "train" / "b" / "2")
    (tmp_path / "link").symlink_to(root)
    found = find_layout(tmp_path / "link")
    assert names(found, "train") == {"a": ["0", "1", "3"], "b": ["2"], "c": ["2"]}


def test_link_to_a_folder_whose_name_begins_the_same_leads_out(tmp_path: Path) -> None:
    root = make(tmp_path / "root", *LABELLED)
    (root / "train" / "c").symlink_to(make(tmp_path / "root2", "4"))
    with pytest.raises(DataError, match="leads out of"):
        find_layout(root)


def test_links_of_linked_folders_are_followed_too(tmp_path: Path, outside: Path) -> None:
    root = make(tmp_path / "root", *LABELLED)
    (outside / "c" / "6").symlink_to(make(tmp_path / "third", "7") / "7")
    (root / "train" / "c").symlink_to(outside / "c")
    assert names(find_layout(root, follow_links=True), "train")["c"] == ["4", "5", "6"]


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/a/x", "x"),
        ("train/x", "x"),
        ("Test", "Test"),
        ("train/x", "nowhere"),
        ("test", "nowhere"),
    ],
)
def test_link_in_a_circle_or_to_nowhere_is_refused_by_name(
    tmp_path: Path, link: str, target: str, follow_links: bool
) -> None:
    (make(tmp_path, *LABELLED) / link).symlink_to(target)
    with pytest.raises(DataError, match=f"{link}' is a link that leads nowhere: "):
        find_layout(tmp_path, follow_links)


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(("link", "target"), [("train/a/x", ".."), ("train/x", "../train")])
def test_link_to_a_folder_above_it_is_refused(
    tmp_path: Path, link: str, target: str, follow_links: bool
) -> None:
    (make(tmp_path, *LABELLED) / link).symlink_to(target)
    with pytest.raises(DataError, match="is a folder inside a class"):
        find_layout(tmp_path, follow_links)


def test_image_that_is_a_link_to_nowhere_is_listed_for_its_reader(tmp_path: Path) -> None:
    (make(tmp_path, *LABELLED) / "train" / "a" / "x").symlink_to("nowhere")
    assert names(find_layout(tmp_path), "train")["a"] == ["0", "1", "x"]
