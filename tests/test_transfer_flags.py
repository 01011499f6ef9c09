"""The flags of fine-tuning: what --penalty and --unfreeze take, and what goes with which method."""

import pytest
from made import Records, setting

from tl_keras.cli import flags
from tl_keras.config import from_flat
from tl_keras.errors import UsageError
from tl_keras.methods import catalog
from tl_keras.models import weights
from tl_keras.training.loop import Loop


def refusal(*words):
    """Return the message of the UsageError that these words raise, which is one line."""
    with pytest.raises(UsageError) as error:
        flags.parse(["tl_keras", *words])
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def penalties(**flags):
    return catalog.get_penalties(from_flat(flags))


# --penalty


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("l2sp", {"l2sp": (0.1, 0.01)}),
        ("l2sp:0.5", {"l2sp": (0.5, 0.01)}),
        ("l2sp:0.1,bss:0.001", {"l2sp": (0.1, 0.01), "bss": (0.001, 1)}),
        ("bss:1e-2:3, l2:0", {"bss": (0.01, 3), "l2": (0.0,)}),
        ("distill:2:0.001", {"distill": (2.0, 0.001)}),
    ],
)
def test_penalty_is_read_with_its_strengths(text, found):
    assert penalties(method="finetune", penalty=text) == found


def test_penalty_of_the_method_has_the_strengths_that_the_flag_gives_it():
    assert penalties(method="l2sp") == {"l2sp": (0.1, 0.01)}
    assert penalties(method="l2sp", penalty="bss,l2sp:5") == {
        "l2sp": (5.0, 0.01),
        "bss": (0.001, 1),
    }
    assert penalties(method="scratch") == {}


@pytest.mark.parametrize("name", catalog.PENALTIES)
def test_method_of_a_penalty_is_finetune_with_it(name):
    assert penalties(method=name) == penalties(method="finetune", penalty=name)
    for strength in penalties(method=name)[name]:
        assert strength > 0


KNOWN = f"Choose from {', '.join(catalog.PENALTIES)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l2spp", f"'l2spp' is not known. {KNOWN}"),
        ("l2sp,,bss", "a name is missing"),
        (",", "a name is missing"),
        (":1", "a name is missing"),
        ("l2sp;bss", f"'l2sp;bss' is not known. {KNOWN}"),
        ("l2sp:1:2:3", "l2sp takes at most 2 numbers (l2sp:ALPHA:BETA), and 3 are given"),
        ("delta:1:2", "delta takes at most 1 numbers (delta:ALPHA), and 2 are given"),
        ("l2sp:", "'' is not a number"),
        ("l2:much", "'much' is not a number"),
        ("l2:-0.1", "'-0.1' is not a number from 0 to 1e+09"),
        ("l2:nan", "'nan' is not a number"),
        ("l2:inf", "'inf' is not a number"),
        ("distill:1:0", "'0' is not a number from 0.001 to 1e+09"),
        ("bss:1:0", "'0' is not a whole number from 1 to 1e+09"),
        ("bss:1:0.5", "'0.5' is not a whole number from 1 to 1e+09"),
        ("bss:1:-1", "'-1' is not a whole number from 1 to 1e+09"),
    ],
)
def test_penalty_that_cannot_be_read_is_refused(text, message):
    assert refusal(f"--penalty={text}") == f"--penalty={text}: {message}"


def test_penalty_of_blanks_is_refused_too():
    assert refusal("--penalty= ") == "--penalty=: a name is missing"


def test_penalty_named_twice_is_refused():
    message = "--penalty=l2sp:1,bss,l2sp: l2sp is given twice. Remove one of them"
    assert refusal("--penalty=l2sp:1,bss,l2sp") == message


def run(folder, **flags):
    given = setting(folder, steps=4, eval_steps=2, **flags)
    prepared = catalog.find(given.config.method).prepare(given)
    records = Records()
    Loop(prepared.task, given.training, given.strategy, folder, records, "test").run()
    return records, weights.hash_tensors(weights.get_tensors(prepared.model))


def test_penalties_together_are_terms_of_the_loss_and_are_recorded(tmp_path):
    records, _ = run(tmp_path, method="finetune", penalty="l2sp:0.1,bss:0.001:8")
    parts = ["cross_entropy", "l2sp", "bss"]
    for _, values in records:
        assert {f"train/{name}" for name in [*parts, "loss", "accuracy"]} <= set(values)
        total = sum(values[f"train/{name}"] for name in parts)
        assert values["train/loss"] == pytest.approx(total, rel=1e-5)
        assert all(values[f"train/{name}"] > 0 for name in parts)


def test_method_l2sp_trains_as_finetune_with_that_penalty(tmp_path):
    found = run(tmp_path / "method", method="l2sp")
    assert found == run(tmp_path / "penalty", method="finetune", penalty="l2sp")
    assert found != run(tmp_path / "plain", method="finetune")


# --unfreeze


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({}, ("none", ())),
        ({"unfreeze": "lp_ft:0.3"}, ("lp_ft", (0.3,))),
        ({"unfreeze": "gradual:0.2:0.1"}, ("gradual", (0.2, 0.1))),
        ({"method": "gradual"}, ("gradual", ())),
        ({"method": "lp_ft", "unfreeze": "lp_ft:0.25"}, ("lp_ft", (0.25,))),
        ({"method": "scratch"}, ("none", ())),
    ],
)
def test_unfreeze_is_read_with_its_lengths(flags, found):
    assert catalog.get_unfreezing(from_flat({"method": "finetune"} | flags)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lpft", "'lpft' is not known. Choose from none, lp_ft, gradual"),
        ("", "a name is missing"),
        ("none:0.3", "none takes at most 0 stage lengths, and 1 are given"),
        ("lp_ft:0.1:0.2", "lp_ft takes at most 1 stage lengths, and 2 are given"),
        ("lp_ft:", "'' is not a number"),
        ("lp_ft:half", "'half' is not a number"),
        ("lp_ft:-0.1", "'-0.1' is not a number from 0 to 1"),
        ("lp_ft:nan", "'nan' is not a number"),
        ("gradual:0.1:2", "'2' is not a number from 0 to 1"),
        (
            "lp_ft:1",
            "the stages leave no time for the last one. Give lengths that add up to less than 1",
        ),
        (
            "gradual:0.5:0.5",
            "the stages leave no time for the last one. Give lengths that add up to less than 1",
        ),
    ],
)
def test_unfreeze_that_cannot_be_read_is_refused(text, message):
    assert refusal(f"--unfreeze={text}") == f"--unfreeze={text}: {message}"


@pytest.mark.parametrize(("method", "other"), [("lp_ft", "gradual"), ("gradual", "lp_ft:0.1")])
def test_unfreeze_that_contradicts_the_method_is_refused(method, other):
    message = f"--unfreeze={other} contradicts --method={method}. Choose one of the two"
    assert refusal(f"--method={method}", f"--unfreeze={other}") == message


# What goes together


@pytest.mark.parametrize("method", ["features", "scratch", "joint"])
def test_penalty_goes_with_finetuning_alone(method):
    message = refusal(f"--method={method}", "--penalty=l2")
    assert message.startswith(f"--penalty=l2 does not apply to --method={method}. ")
    assert "Remove it, or choose --method=finetune" in message


@pytest.mark.parametrize("method", ["features", "scratch"])
@pytest.mark.parametrize(
    "word", ["--unfreeze=lp_ft", "--layer_lr_decay=0.5", "--head_lr_multiplier=10.0"]
)
def test_stages_and_speeds_go_with_methods_that_train_a_body_that_is_there(method, word):
    message = refusal(f"--method={method}", word)
    assert message.startswith(f"{word} does not apply to --method={method}. ")


@pytest.mark.parametrize("name", [n for n, row in catalog.PENALTIES.items() if row.needs_source])
def test_penalty_that_measures_from_a_source_needs_one(name):
    message = refusal("--source=none", f"--penalty={name}")
    assert message.startswith(f"--penalty={name} compares with a source, and --source=none leaves")
    assert f"--method={name} transfers from a source" in refusal(
        "--source=none", f"--method={name}"
    )


@pytest.mark.parametrize("word", ["--penalty=distill", "--method=distill"])
def test_distill_needs_the_head_of_the_source(word):
    message = refusal("--source=imagenet", "--model=vgg16", word)
    assert "--source=imagenet brings no head. Name a dataset with labels as --source" in message
    assert "--pretrain=autoencoder brings no head" in refusal("--pretrain=autoencoder", word)


@pytest.mark.parametrize(
    "words",
    [
        "--penalty=l2sp,bss --unfreeze=gradual --layer_lr_decay=0.5 --head_lr_multiplier=10",
        "--method=joint --unfreeze=lp_ft --layer_lr_decay=0.5 --head_lr_multiplier=10",
        "--method=delta --penalty=delta:1,l2 --unfreeze=lp_ft:0.2",
        "--method=lp_ft --penalty=distill:1:4",
        "--source=none --penalty=l2,bss",
        "--source=imagenet --model=vgg16 --penalty=delta,l2sp,feature_distance",
        "--source=none --source_weights=a.weights.h5 --penalty=distill",
        "--method=features --penalty= --unfreeze=none --layer_lr_decay=1",
    ],
)
def test_flags_of_finetuning_that_go_together_are_accepted(words):
    assert flags.parse(["tl_keras", *words.split()]) is not None
