"""Tests of the command line: what it takes, what it refuses, and how it says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import sweep

from tl_keras.cli import flags
from tl_keras.config import Config, Training, from_flat, named_options
from tl_keras.config.options import to_plain
from tl_keras.data import catalog
from tl_keras.errors import UsageError
from tl_keras.experiment import validate
from tl_keras.methods.catalog import METHODS
from tl_keras.models.catalog import MODELS

EVERY = {name: (option, default) for name, option, default in named_options(Config())}
# Those of scratch are the target's, with None for "as on the target".
OPTIONS = {name: one for name, one in EVERY.items() if not name.startswith("scratch_")}
# Text of a form of its own, which is parsed where it comes in.
PARSED = [name for name, (option, _) in OPTIONS.items() if option.parse]
BOOLEANS = [name for name, (_, default) in OPTIONS.items() if isinstance(default, bool)]
NUMBERS = [
    name
    for name, (_, default) in OPTIONS.items()
    if isinstance(default, (int, float, tuple)) and name not in BOOLEANS + PARSED
]
CHOICES = [n for n, (option, _) in OPTIONS.items() if option.choices and n not in NUMBERS]
WHOLE = [name for name in NUMBERS if not isinstance(OPTIONS[name][1], float)]


TEXTS = [n for n, (_, default) in OPTIONS.items() if isinstance(default, str) and n not in CHOICES]
TEXTS += PARSED

# What stands beside a setting that means something only there.
BESIDE = {
    "cached_views=": ("--augment=flip", "--trainable=head"),
    "pretrain=simclr": ("--source_augment=auto",),
    "replicas=": ("--batch_size=1024", "--source_batch_size=1024"),
    "optimizer=adamw": ("--weight_decay=0.01",),
    "source_optimizer=adamw": ("--source_weight_decay=0.01",),
    "tfds_": ("--target=some/set_of_tfds",),
    "source_tfds_": ("--source=some/set_of_tfds",),
}


def beside(word: str) -> tuple[str, ...]:
    return next((words for start, words in BESIDE.items() if word.startswith(f"--{start}")), ())


def parse(*words: str) -> Config:
    config = flags.parse(["tl_keras", *words])
    assert config is not None
    return config


def refusal(*words: str) -> str:
    """Return the message of the UsageError that these words raise, which is one line."""
    with pytest.raises(UsageError) as error:
        flags.parse(["tl_keras", *words])
    assert error.value.exit_code == 2
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


# --help


def test_help_has_every_flag_with_its_default_unit_and_range_or_choices() -> None:
    entries = flags.help_text(full=True).split("\n  --")
    entries = {entry.partition("=")[0]: " ".join(entry.split()) for entry in entries[1:]}
    assert list(entries) == list(OPTIONS)
    for name, (option, default) in OPTIONS.items():
        shown = "0" if name == "seeds" else str(to_plain(default, option))
        shown = shown.lower() if name in BOOLEANS else shown
        assert entries[name].startswith(f"{name}={shown}"), name
        assert f"unit: {option.unit}]" in entries[name] or not option.unit, name
        if name in NUMBERS:
            assert f"from {number(option.low)} to {number(option.high)}" in entries[name]
        if option.choices:
            assert f"{', '.join(option.choices)}]" in entries[name]
        own_help = option.help in entries[name]
        assert own_help or name.startswith("source_"), name


def number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def test_help_without_rare_flags_is_half_as_long_and_names_every_group() -> None:
    short, full = flags.help_text(), flags.help_text(full=True)
    assert len(short.splitlines()) < 0.55 * len(full.splitlines())
    assert "--helpfull" in short
    for name, (option, _) in OPTIONS.items():
        assert option.rare == (f"--{name}" not in short.replace("=", " ").split()), name
    for group in {option.group for option, _ in EVERY.values()}:
        assert f"{group}:" in short


def test_help_lists_methods_datasets_and_models() -> None:
    text = " ".join(flags.help_text(full=True).split())
    words = text.replace(",", " ").replace(":", " ").split()
    for name in [*METHODS, *catalog.DATASETS, *MODELS]:
        assert name in words
    for method in METHODS.values():
        assert f"{method.form} {method.summary}" in text


@pytest.mark.parametrize("full", [False, True])
def test_help_fits_a_terminal(full) -> None:
    assert max(map(len, flags.help_text(full).splitlines())) <= 100


def test_help_says_to_which_mean_sqrt_scales_the_class_weights() -> None:
    entry = flags.help_text(full=True).split("\n  --class_weights=")[1].split("\n  --")[0]
    assert "mean of 1 over the training images" in " ".join(entry.split())


# Numbers


@pytest.mark.parametrize("name", NUMBERS)
def test_number_that_is_none_or_out_of_range_is_refused_by_name(name) -> None:
    option, default = OPTIONS[name]
    assert option.low is not None
    assert option.high is not None
    step = 1 if name in WHOLE else abs(option.low) * 0.5 or 1e-9
    below, above = option.low - step, option.high * 1.01 + 1
    texts = ["-1", str(below), str(int(above) + 1), "nan", "inf", "-inf", "", "x", "1e400", "0x1"]
    texts += ["9" * 400, "9" * 5000, "1 2", "--", "None", "1j", "1,x", "true"]
    if name in WHOLE:
        texts += ["0.5", "1.0", "1e2"]
    for text in texts:
        message = refusal(f"--{name}={text}")
        assert f"--{name}={text}:" in message
        assert f"from {number(option.low)} to {number(option.high)}" in message
        assert option.help in message


@pytest.mark.parametrize("name", NUMBERS)
def test_number_at_its_bounds_is_accepted(name) -> None:
    option, default = OPTIONS[name]
    for bound in (option.low, option.high):
        value = int(bound) if name in WHOLE else float(bound)
        # Shots of one need a schedule without validation, which is the default.
        word = f"--{name}={value}"
        found = parse(word, *beside(word)).flat()[name]
        assert found == ((value,) if name == "seeds" else value)
        assert type(found) is type(default)


@pytest.mark.parametrize("name", sweep(NUMBERS, fast=["seeds", "steps", "learning_rate"]))
@given(text=st.text(st.characters(codec="utf-8"), max_size=6))
def test_number_flag_takes_a_number_in_range_or_refuses_in_one_line(name, text) -> None:
    option, _ = OPTIONS[name]
    try:
        value = parse(f"--{name}={text}").flat()[name]
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
    else:
        for one in value if isinstance(value, tuple) else (value,):
            assert option.low <= one <= option.high


# Choices, booleans, lists


@pytest.mark.parametrize("name", CHOICES)
def test_choice_takes_its_choices_and_names_them_where_it_refuses(name) -> None:
    option, _ = OPTIONS[name]
    for choice in option.choices:
        word = f"--{name}={choice}"
        if word == "--source_batch_norm=frozen":
            assert "has none. Choose recomputed or moving" in refusal(word)
            continue
        assert parse(word, *beside(word)).flat()[name] == choice
    for text in ("", "other", option.choices[0].upper(), option.choices[0] + " "):
        message = refusal(f"--{name}={text}")
        assert f"--{name}=" in message
        assert "|".join(option.choices) in message


@pytest.mark.parametrize("name", BOOLEANS)
def test_boolean_is_set_and_unset(name) -> None:
    for word, value in ((f"--{name}", True), (f"--no{name}", False), (f"--{name}=false", False)):
        assert parse(word).flat()[name] is value
    assert f"--no{name}=3" in refusal(f"--no{name}=3")
    for text in ("", "maybe", "2"):
        assert f"--{name}={text}: must be true or false" in refusal(f"--{name}={text}")


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_several_lines_or_with_control_characters_is_refused(name) -> None:
    for text in ("a\nb", "\n", "a\0b", "a\x1b[31m", "a\u2028b", "a\tb"):
        message = refusal(f"--{name}={text}")
        assert f"--{name}=" in message
        assert "must be one line, without control characters" in message
        with pytest.raises(UsageError, match=f"^--{name}=.* must be one line") as refused:
            validate.check(from_flat({name: text}))
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", TEXTS)
def test_text_flag_does_not_take_the_next_flag_for_its_value(name) -> None:
    assert (
        f"--{name}=--steps=3: begins with two dashes like a flag. Give the value that is missing"
        in refusal(f"--{name}", "--steps=3")
    )


def test_text_of_any_script_and_of_bytes_that_are_no_text_is_taken() -> None:
    for text in ("folder:/Bücher/語", "folder:/a\xa0b", "folder:/\udcff"):
        assert parse(f"--target={text}").target == text


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5, unique=True))
def test_seeds_are_a_list_of_different_numbers(seeds) -> None:
    assert parse(f"--seeds={','.join(map(str, seeds))}").seeds == tuple(seeds)


@pytest.mark.parametrize("text", ["", ",", "1,", ",1", "1,,2", "1;2", "1-3", f"0,{2**31}"])
def test_seeds_that_are_no_list_are_refused(text) -> None:
    assert f"--seeds={text}: must be a whole number" in refusal(f"--seeds={text}")


def test_seeds_named_twice_are_refused() -> None:
    assert "--seeds=3,1,3: names a seed twice" in refusal("--seeds=3,1,3")


# Words that are no flags, and flag files


def test_unknown_flag_is_refused_with_the_nearest_name() -> None:
    assert "--learning_rat is not a flag: did you mean --learning_rate?" in refusal(
        "--learning_rat=1"
    )
    assert refusal("--qqq") == "--qqq is not a flag. --helpfull lists the flags"


def test_word_that_is_no_flag_is_refused() -> None:
    assert "'extra' is not a flag" in refusal("--steps=3", "extra")
    assert "'extra' is not a flag" in refusal("--", "extra")


def test_misspelt_flag_is_refused_even_where_absl_would_let_it_pass(tmp_path) -> None:
    path = tmp_path / "some.flags"
    path.write_text("--undefok=step\n")
    for word in ("--undefok=step", f"--flagfile={path}"):
        assert "--undefok is not a flag" in refusal(word, "--step=3")


def test_flag_without_its_value_is_refused() -> None:
    assert "Missing value for flag --steps" in refusal("--steps")


def test_flagfile_that_cannot_be_read_is_named(tmp_path) -> None:
    missing = tmp_path / "missing.flags"
    assert refusal(f"--flagfile={missing}") == (
        f"--flagfile={missing} cannot be read: No such file or directory"
    )
    assert f"--flagfile={tmp_path} cannot be read" in refusal(f"--flagfile={tmp_path}")
    assert "--flagfile= names no file" in refusal("--flagfile=")
    binary = tmp_path / "binary.flags"
    binary.write_bytes(b"--steps=\xff\xfe\n")
    assert "--flagfile cannot be read" in refusal(f"--flagfile={binary}")


def test_flagfile_that_leads_back_to_itself_is_refused(tmp_path, capsys) -> None:
    first, second = tmp_path / "first.flags", tmp_path / "second.flags"
    first.write_text(f"--steps=1\n--flagfile={second}\n")
    second.write_text(f"--flagfile={first}\n")
    assert refusal(f"--flagfile={first}") == f"--flagfile={first} includes itself. Remove that line"
    assert capsys.readouterr().err == ""


def test_flagfiles_that_nest_without_end_are_refused(tmp_path) -> None:
    for index in range(1100):
        (tmp_path / str(index)).write_text(f"--flagfile={tmp_path / str(index + 1)}\n")
    assert "--flagfile: the files are nested too deeply" in refusal(f"--flagfile={tmp_path / '0'}")


def test_name_of_a_flag_that_is_endless_is_refused_at_once(tmp_path) -> None:
    path = tmp_path / "a.flags"
    path.write_text("--" + "x" * 1_000_000)
    for word in ("--" + "x" * 50_000, "-" * 50_000, f"--flagfile={path}"):
        message = refusal(word)
        assert message.endswith("... is not a flag. --help lists the flags")
        assert len(message) < 200
    assert len(parse("--target=" + "x" * 50_000).target) == 50_000


def test_refusal_is_one_line_whatever_the_name_of_a_flag_or_a_file() -> None:
    assert refusal("--a\nb=1").startswith("--a b is not a flag")
    assert refusal("--flagfile=a\nb").startswith("--flagfile=a b cannot be read")


def test_flagfiles_nest_and_later_flags_win(tmp_path) -> None:
    inner, outer = tmp_path / "inner.flags", tmp_path / "outer.flags"
    inner.write_text("# a comment\n--steps=1\n--shots=1\n--batch_size=1\n\n--nobaseline\n")
    outer.write_text(f"--steps=2\n--flagfile={inner}\n--shots=2\n")
    config = parse("--batch_size=9", f"--flagfile={outer}", "--epochs=7")
    assert (config.training.steps, config.shots, config.training.batch_size) == (1, 2, 1)
    assert config.baseline is False
    assert parse(f"--flagfile={outer}", "--shots=3", "--baseline").shots == 3


def test_flagfile_with_a_wrong_flag_is_refused_like_the_command_line(tmp_path) -> None:
    path = tmp_path / "wrong.flags"
    path.write_text("--steps=-1\n")
    assert "--steps=-1: must be a whole number" in refusal(f"--flagfile={path}")
    path.write_text("steps=1\n")
    assert "'steps=1' is not a flag" in refusal(f"--flagfile={path}")


# Combinations


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--target=", "--target is empty"),
        ("--source=", "--source is empty"),
        ("--method=nothing", "--method=nothing: 'nothing' is not known. Choose from features"),
        ("--model=resnet5", "--model=resnet5 is not known: did you mean resnet50?"),
        ("--augment=twist", "--augment=twist: 'twist' is not known"),
        ("--source_augment=flip:1", "--source_augment=flip:1: flip takes no value"),
        (
            "--optimizer=adamw",
            "--optimizer=adamw with --weight_decay=0 is adam. Give --weight_decay,",
        ),
        (
            "--optimizer=adamw --source_weight_decay=0.1 --weight_decay=0.1"
            " --source_optimizer=adamw --source_weight_decay=0",
            "--source_optimizer=adamw with --source_weight_decay=0 is adam",
        ),
        ("--source=none --method=l2sp", "--method=l2sp transfers from a source, and --source=none"),
        ("--source=none --method=features", "--method=features transfers from a source"),
        ("--source=none --method=joint", "--method=joint transfers from a source"),
        ("--source=imagenet --method=joint --model=vgg16", "--source=imagenet has none"),
        ("--source=none --source_weights=a.weights.h5 --method=joint", "--source=none has none"),
        ("--source=imagenet", "no ImageNet weights for --model=small_cnn"),
        ("--method=features --augment=flip", "--augment=flip changes the images in each epoch"),
        ("--method=features --augment=mixup:1", "--augment=mixup:1 changes the images in each"),
        ("--augment=mixup:0", "--augment=mixup:0: '0' is out of range. Allowed: mixup:A"),
        ("--ema=0.9 --swa=0.5", "--ema=0.9 and --swa=0.5 are two averages of the weights"),
        ("--strategy=one_device --replicas=2", "--replicas=2 are more than --strategy=one_device"),
        ("--batch_size=2 --replicas=3", "--batch_size=2 has no image for some of --replicas=3"),
        ("--source_batch_size=1 --replicas=2", "--source_batch_size=1 has no image for some"),
        ("--source_ema=0.9 --source_swa=0.5", "--source_ema=0.9 and --source_swa=0.5 are two"),
        ("--label_smoothing=1", "--label_smoothing=1: must be a number from 0 to 0.99"),
        ("--class_weights=even", "--class_weights=even: value should be one of"),
        ("--method=features --augment=auto", "--augment=auto changes the images in each epoch"),
        ("--early_stopping=2 --validation=0", "--early_stopping=2 needs a validation set"),
        ("--schedule=plateau --validation=0", "--schedule=plateau needs a validation set"),
        (
            "--source_schedule=plateau --validation=0",
            "--source_schedule=plateau needs a validation set",
        ),
        ("--shots=1 --early_stopping=1", "--shots=1 leaves no image for it"),
        ("--shots=1 --schedule=plateau", "--schedule=plateau needs a validation set"),
        ("--temperature=0.5", "not a flag any more. Give --pretrain=simclr:TEMPERATURE"),
        ("--joint_lambda=1", "not a flag any more. Give --method=joint:LAMBDA"),
        ("--feature_head=mlp", "not a flag any more. Give --method=features:UNITS"),
        ("--shots=0", "--shots=0 means no labels, and --method=finetune trains on labels. Give"),
        ("--pretrain=simclr:0", "--pretrain=simclr:0: '0' is not a number from 0.001 to 100"),
        ("--pretrain=supervised:1", "--pretrain=supervised:1: supervised takes at most 0 numbers"),
        ("--pretrain=other", "--pretrain=other: 'other' is not known. Choose from supervised"),
        ("--method=joint:-1", "--method=joint:-1: '-1' is not a number from 0 to 1e+09"),
        ("--method=joint:1:2", "--method=joint:1:2: joint takes at most 1 numbers (joint:LAMBDA)"),
        ("--method=features:1.5", "--method=features:1.5: '1.5' is not a whole number from 0"),
        ("--method=finetune:1", "--method=finetune:1: finetune takes at most 0 numbers"),
        ("--method=l2:1 --penalty=l2:2", "both give the strengths of l2. Remove one of them"),
        ("--trainable=last:0", "--trainable=last:0: last:N takes a whole number of layers from 1"),
        ("--trainable=conv[", "--trainable=conv[: is not all, head, last:N, or a regular"),
        (
            "--method=scratch --trainable=head",
            "--trainable=head does not apply to --method=scratch",
        ),
        ("--cached_views=2", "--cached_views=2 needs augmented images, and --augment=none"),
        (
            "--cached_views=2 --trainable=head --augment=flip,mixup:0.2",
            "--cached_views cannot be combined with mixup or cutmix. Remove one of them",
        ),
        (
            "--cached_views=2 --augment=flip",
            "--cached_views=2 is for layers that do not train, and all do. Give --trainable",
        ),
        ("--method=features --augment=flip", "or give --cached_views, such as 10"),
        (
            "--pretrain=simclr",
            "--pretrain=simclr compares two views of each image, and with --source_aug",
        ),
        (
            "--pretrain=simclr --source_augment=auto --source_batch_size=1",
            "--pretrain=simclr compares each image with the others of its batch, and --sour",
        ),
        (
            "--pretrain=autoencoder --source=imagenet --model=vgg16",
            "--pretrain=autoencoder trains on the source's images, and --source=imagenet leaves",
        ),
        ("--pretrain=autoencoder --source=none", "--source=none leaves nothing to pretrain"),
        (
            "--pretrain=simclr --source_augment=auto --source_weights=a.weights.h5",
            "--source_weights=a.weights.h5 leaves nothing to pretrain",
        ),
        (
            "--pretrain=simclr --source_augment=auto --source_early_stopping=3",
            "--source_early_stopping=3 needs labels, and --pretrain=simclr trains without them",
        ),
        (
            "--pretrain=autoencoder --source_schedule=plateau",
            "--source_schedule=plateau needs labels",
        ),
        (
            "--pretrain=autoencoder --source_label_smoothing=0.1",
            "--source_label_smoothing=0.1 needs labels",
        ),
        (
            "--pretrain=autoencoder --source_class_weights=sqrt",
            "--source_class_weights=sqrt needs labels",
        ),
        (
            "--pretrain=simclr --source_augment=flip,mixup:0.2",
            "--source_augment=flip,mixup:0.2 needs labels",
        ),
        ("--pretrain=autoencoder --source_augment=cutmix:1", "cutmix:1 needs labels"),
        ("--pretrain=autoencoder --method=joint", "--pretrain=autoencoder brings none"),
        ("--pretrain=autoencoder --penalty=distill", "--pretrain=autoencoder brings no head"),
    ],
)
def test_contradiction_is_refused_by_the_names_of_its_flags(words, expected) -> None:
    assert expected in refusal(*words.split())


@pytest.mark.parametrize(
    "words",
    [
        "--source=none",
        "--source=none --method=scratch",
        "--source=none --source_weights=a.weights.h5 --method=l2sp",
        "--source=imagenet --model=vgg16 --method=features",
        "--method=features --source_augment=auto",
        "--label_smoothing=0.1 --class_weights=sqrt --ema=0.99 --source_swa=0.5",
        "--source_label_smoothing=0.1 --source_class_weights=balanced --source_ema=0.9 --swa=0.25",
        "--augment=mixup:0.2,cutmix:1 --source_augment=cutmix:0.5",
        "--shots=1 --validation=0",
        "--shots=2 --early_stopping=1",
        "--shots=1 --source_early_stopping=1",
        "--target=folder:/some/where --augment=auto",
        "--target=some/set_of_tfds",
        "--target=some/set --tfds_label_key=species --source=a_set --source_tfds_label_key=a/b",
        "--pretrain=autoencoder --source=usps --target=usps",
        "--pretrain=simclr:0.5 --source_augment=flip",
        "--pretrain=simclr --source_augment=auto --early_stopping=1 --label_smoothing=0.1",
        "--pretrain=autoencoder --augment=mixup:0.2",
    ],
)
def test_combination_that_makes_sense_is_accepted(words) -> None:
    config = parse(*words.split()).flat()
    for word in words.split():
        name, value = word.removeprefix("--").split("=")
        assert str(config[name]) in (value, f"{value}.0")


def test_check_holds_for_a_config_that_was_made_in_python() -> None:
    with pytest.raises(UsageError, match="--validation=0"):
        validate.check(Config(training=Training(early_stopping=1), validation=0))
    validate.check(Config(validation=0, training=Training(momentum=0, epochs=3)))


@pytest.mark.parametrize("name", NUMBERS + CHOICES + BOOLEANS)
def test_check_refuses_a_config_out_of_bounds_by_the_name_of_the_flag(name) -> None:
    option, default = OPTIONS[name]
    values: list = [None]
    if name in NUMBERS:
        values += [option.low - 1, option.high + 1, float("nan"), float("inf"), True]
        values += [0.5] if name in WHOLE else []
    for value in values:
        with pytest.raises(UsageError, match=rf"^--{name}=\(?{value},?\)? must be") as refused:
            validate.check(from_flat({name: (value,) if name == "seeds" else value}))
        if name in NUMBERS:
            assert f"from {number(option.low)} to {number(option.high)}" in str(refused.value)


@pytest.mark.parametrize("name", TEXTS)
def test_check_refuses_what_is_no_text_by_the_name_of_the_flag(name) -> None:
    values = [b"a", ["a"]]
    # None stands for a word of some flags, auto or all, and some take numbers too.
    words = ("augment", "source_augment", "source_preprocessing")
    numbers = ("shots", "body_lr_multiplier")
    values += [] if name in words + numbers else [None]
    values += [] if name in numbers else [3]
    for value in values:
        with pytest.raises(UsageError, match=rf"^--{name}=.* must be text$"):
            validate.check(from_flat({name: value}))


@pytest.mark.parametrize("seeds", [(), (1, 1), 3, None, "12", {1}])
def test_check_refuses_seeds_that_are_none_or_twice(seeds) -> None:
    with pytest.raises(UsageError, match="--seeds="):
        validate.check(Config(seeds=seeds))


# The whole


def values_of(name: str) -> st.SearchStrategy:
    option, default = OPTIONS[name]
    if option.parse:
        return st.integers(0, 10**7) if name == "shots" else st.just(to_plain(default, option))
    if isinstance(default, bool):
        return st.booleans()
    if option.choices:
        return st.sampled_from(option.choices)
    if isinstance(default, tuple):
        return st.lists(st.integers(0, 2**31 - 1), min_size=1, unique=True).map(tuple)
    if isinstance(default, int):
        return st.integers(int(option.low), int(option.high))
    if isinstance(default, float):
        return st.floats(option.low, option.high)
    return st.just(default)


@given(st.fixed_dictionaries({name: values_of(name) for name in OPTIONS}))
def test_config_comes_back_from_flags_and_from_its_flat_form(values) -> None:
    # Some combinations are refused, and tested above.
    values |= {"validation": max(values["validation"], 0.1), "shots": max(values["shots"], 2)}
    for prefix in ("", "source_"):
        if values[f"{prefix}ema"]:
            values[f"{prefix}swa"] = 0.0
        if values[f"{prefix}optimizer"] == "adamw":
            values[f"{prefix}weight_decay"] = max(values[f"{prefix}weight_decay"], 1e-3)
    # Without labels much is refused that goes with any other pretraining; tested above too.
    values |= {"pretrain": "supervised"}
    # There are views of augmented images only, and of layers that do not train.
    values["cached_views"] = 0
    # A batch has an image for each replica.
    values["replicas"] = 0
    # A pretraining has no statistics to keep.
    values["source_batch_norm"] = "recomputed"
    words = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in values.items()
    ]
    config = parse(*words)
    of_scratch = {name: None for name in EVERY if name not in OPTIONS}
    assert config.flat() == {**values, **of_scratch}
    assert from_flat(config.flat()) == config


def test_config_keeps_the_default_of_what_is_not_named() -> None:
    assert from_flat({}) == Config()
    assert from_flat({"steps": 3}) == Config(training=Training(steps=3))
    source = Training(steps=3, swa=0.25)
    assert from_flat({"source_steps": 3}) == Config(source_training=source)
    assert from_flat({"source_ema": 0.9}) == Config(source_training=Training(ema=0.9))
    assert from_flat({"shots": 3}) == Config(shots=3)


def test_defaults_are_those_of_the_config() -> None:
    assert parse() == Config()


# The scratch arm


def test_scratch_trains_as_the_target_does_but_for_what_is_given() -> None:
    config = parse("--learning_rate=0.01", "--scratch_steps=900", "--scratch_augment=flip")
    assert config.training == Training(learning_rate=0.01)
    assert config.scratch == Training(learning_rate=0.01, steps=900, augment="flip")
    assert from_flat(config.flat()) == config
    assert parse("--steps=7").scratch == Training(steps=7)


def test_epochs_of_scratch_are_not_outdone_by_the_steps_of_the_target() -> None:
    assert parse("--steps=200", "--scratch_epochs=50").scratch == Training(epochs=50.0)
    both = parse("--steps=200", "--scratch_epochs=50", "--scratch_steps=9").scratch
    assert (both.epochs, both.steps) == (50.0, 9)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in OPTIONS])
def test_flag_of_scratch_is_held_to_the_bounds_of_the_target_s(name) -> None:
    option, default = OPTIONS[name.removeprefix("scratch_")]
    wrong = str(option.high * 2 + 1) if option.high is not None else "nothing:of:that"
    assert f"--{name}={wrong}" in refusal(f"--{name}={wrong}")
    shown = to_plain(default, option)
    assert parse(f"--{name}={shown}").flat()[name] in (None, shown)
    assert f"--{name}" in flags.help_text(full=True)


def test_config_of_scratch_is_checked_in_python_too() -> None:
    for training, flag in (
        (Training(steps=-1), "--scratch_steps=-1"),
        (Training(ema=0.9, swa=0.5), "--scratch_ema=0.9 and --scratch_swa=0.5"),
        (Training(early_stopping=2), "--scratch_early_stopping=2"),
    ):
        with pytest.raises(UsageError, match=f"^{flag}"):
            validate.check(Config(scratch_training=training, validation=0.0))


# A pretraining for each seed


def test_source_seed_takes_a_number_or_paired() -> None:
    assert parse("--source_seed=paired").source_seed == "paired"
    assert parse("--source_seed=7").source_seed == 7
    assert "or paired" in refusal("--source_seed=pair")


@pytest.mark.parametrize(
    "words",
    [("--source=imagenet", "--model=resnet50"), ("--source=none",), ("--source_weights=a.h5",)],
)
def test_paired_pretraining_is_refused_where_nothing_is_pretrained(words) -> None:
    assert "nothing to pretrain" in refusal("--source_seed=paired", *words)
