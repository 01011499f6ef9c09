"""Tests of the comparison's command line."""

import pytest

from tl_keras.cli import comparison_flags, flags
from tl_keras.cli.comparison_flags import Comparison, ComparisonConfig
from tl_keras.config import named_options
from tl_keras.config.augmentation import parse as parse_augment
from tl_keras.config.terms import Term
from tl_keras.errors import UsageError
from tl_keras.methods.catalog import METHODS


def parse(*words: str) -> ComparisonConfig:
    comparison_config = comparison_flags.parse(["compare", *words])
    assert comparison_config is not None
    return comparison_config


def names(comparison_config: ComparisonConfig) -> list[str]:
    return [one.name for one in comparison_config.compared_methods]


def test_all_methods_but_scratch_compete_by_default():
    comparison_config = parse()
    assert names(comparison_config) == [name for name in METHODS if name != "scratch"]
    assert comparison_config.left_out == {}
    assert comparison_config.shots == (1, 5, 10, 50, None)
    assert comparison_config.common.method == Term("joint"), "it alone reads the source's images"


def test_all_leaves_out_what_the_flags_do_not_allow_and_says_why():
    comparison_config = parse("--augment=flip", "--source=imagenet", "--model=mobilenet_v2_035")
    assert set(comparison_config.left_out) == {"features", "joint", "distill"}
    assert comparison_config.left_out["features"].startswith(
        "--method=features computes the features"
    )
    assert names(comparison_config)[0] == "finetune"


def test_named_methods_come_in_their_order_and_scratch_needs_no_name():
    assert names(parse("--methods=l2sp, finetune,scratch,bss")) == ["l2sp", "finetune", "bss"]


def test_methods_may_have_their_numbers():
    comparison = parse("--methods=joint:0.5,joint,l2sp:0.1:0.01(steps=7)", "--shots=2")
    assert names(comparison) == ["joint:0.5", "joint", "l2sp:0.1:0.01"]
    configs = [one.config for one in comparison.compared_methods]
    assert [str(config.method) for config in configs] == names(comparison)
    assert configs[2].training.steps == 7
    with pytest.raises(UsageError, match="joint takes at most 1 numbers"):
        parse("--methods=joint:1:2")


def test_settings_in_brackets_are_that_methods_alone():
    comparison_config = parse(
        "--methods=features(augment=none;learning_rate=0.01),both(method=l2sp;penalty=bss:0.1,l2)",
        "--augment=shift:0.1,flip",
        "--steps=7",
        "--seeds=3,4",
    )
    features, both = (one.config for one in comparison_config.compared_methods)
    assert (str(features.training.augment), features.training.learning_rate) == ("none", 0.01)
    assert (str(both.method), str(both.penalty)) == ("l2sp", "bss:0.1,l2")
    assert (
        both.training.augment
        == comparison_config.common.training.augment
        == parse_augment("shift:0.1,flip")
    )
    assert {one.training.steps for one in (features, both, comparison_config.common)} == {7}
    assert comparison_config.common.training.learning_rate == 0.001
    assert both.seeds == (3, 4) and not both.baseline


def test_shots_are_read_in_their_order_and_all_is_none():
    assert parse("--shots=50,all,1").shots == (50, None, 1)
    assert parse("--shots=all").shots == (None,)


def test_recipe_gives_settings_and_its_method_is_passed_over(tmp_path):
    recipe = tmp_path / "a.flags"
    recipe.write_text("--method=l2sp\n--steps=9\n--shots=10\n")
    comparison_config = parse(f"--flagfile={recipe}", "--methods=finetune", "--shots=2")
    assert comparison_config.compared_methods[0].config.method == Term("finetune")
    assert comparison_config.compared_methods[0].config.training.steps == 9
    assert comparison_config.shots == (2,)
    assert parse(f"--flagfile={recipe}").shots == (10,)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--methods=nix", "'nix' is not a method. Choose from features, finetune"),
        ("--methods=finetune,finetune", "names 'finetune' twice"),
        ("--methods=finetune(steps=3", r"is not NAME or NAME\(FLAG=VALUE;FLAG=VALUE\)"),
        ("--methods=", "is not NAME"),
        ("--methods=a/b(method=l2)", "is not NAME"),
        ("--methods=l2(image_size=3)", "--image_size=3 cannot be set for one method"),
        ("--methods=l2(shots=3)", "--shots=3 cannot be set for one method"),
        ("--methods=l2(workdir=x)", "--workdir=x cannot be set for one method"),
        ("--methods=l2(steps=-3)", "--steps=-3: must be a whole number from 0"),
        ("--methods=l2(nix=1)", "--nix=1 cannot be set for one method"),
        ("--methods=features --augment=flip", "--methods=features: --method=features computes"),
        ("--methods=scratch", "leaves no method to compare with scratch$"),
        ("--shots=1 --early_stopping=2", "with scratch. features is left out: --early_stopping=2"),
        ("--methods=l2,scratch(steps=3)", "it another name"),
        ("--methods=finetune(method=l2)", "Remove method=, or choose another name"),
        ("--methods=..(method=l2)", "is not NAME"),
        ("--methods=_hidden(method=l2)", "is not NAME"),
        ("--shots=1,1", "names a number twice"),
        ("--shots=all,all", "names a number twice"),
        (f"--shots={'9' * 5000}", "9' must be a whole number from 1 to 10000000, or all"),
        ("--shots=10000001", "'10000001' must be a whole number from 1 to 10000000, or all"),
        ("--methods=l2(steps=;epochs=3),bss", r"^--methods=l2\(...\): flag --steps=: must be"),
        (f"--methods={'1,' * 50_000}", "names '1' twice"),
        (f"--methods={','.join(map(str, range(30_000)))}", "'0' is not a method"),
        ("--shots=some", "'some' must be a whole number from 1 to 10000000, or all"),
        ("--shots=", "'' must be a whole number"),
        ("--shots=1 --early_stopping=2 --methods=l2", "--shots=1 leaves no image for it"),
        ("--shot=1", "did you mean --shots?"),
    ],
)
def test_mistake_is_told(words, told):
    with pytest.raises(UsageError, match=told):
        parse(*words.split())


def test_help_has_every_flag_of_both_and_fits_a_terminal():
    text = comparison_flags.help_text(full=True)
    assert comparison_flags.parse(["compare", "--help"]) is None
    for name, _, _ in named_options(Comparison()):
        assert text.count(f"\n  --{name}=") == 1
    assert "--source_epochs=" in text and "--workdir=" in text
    assert max(map(len, text.splitlines())) <= 100
    assert text != flags.help_text(full=True)
