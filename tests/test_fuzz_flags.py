"""Odd command lines: each is taken, or refused in one line, and never ends in anything else."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tl_keras.cli import comparison_flags, flags
from tl_keras.cli.comparison_flags import Comparison, ComparisonConfig
from tl_keras.config import Config, from_flat, named_options
from tl_keras.errors import UsageError
from tl_keras.experiment import validate
from tl_keras.methods.catalog import METHODS
from tl_keras.models.catalog import MODELS

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {name: (option, default) for name, option, default in named_options(Config())}
COMPARED = [name for name, _, _ in named_options(Comparison())]

LONG = "9" * 5000  # Python reads no more than 4300 digits
NUMBERS = [
    *("-1", "0", "-0", "+5", "1e5", "1e400", str(10**30), LONG, "0x10", "1_000", "1.", "1,", "1,1"),
    *("nan", "inf", "-inf", "٣", "１", " 5", "5 ", "1 2", "1," * 20_000, "0.5"),
]
WORDS = [
    *("", " ", "word", "None", "true", "True", "ß語\U0001f600", "\udcff", "x" * 50_000, "%s", "{}"),
    *("a\nb", "\n", "a\r\nb", "\t", "\0", "a\0b", "\x1b[31m", "a\u2028b", "\x85", "\xa0", "--"),
    *("=", "--steps=3", "-", "'", '"', "(", ")", "[", "*", "\\", "/", "~", ".", "..", ",", ":"),
    *("~no-such-user", "folder:", "folder:\0", "folder:~no-such-user", "folder:" + "a" * 300),
    *("last:", f"last:{LONG}", "last:-1", "(?P<x>", "(a+)+$", "flip,flip", "shift", "a:" * 9000),
    *("mixup:1e400", "mixup:nan", f"crop:{LONG}", f"randaugment:{LONG}", "l2sp:nan", "l2sp:"),
    *("l2sp:1e400", f"bss:1:{LONG}", f"lp_ft:{LONG}", "gradual:" + "0.001:" * 200, "(" * 9000),
    *("finetune,finetune", "a" * 9000 + "," * 9000, "a(b;c," * 9000, "x(method=)"),
    *("x(method=l2;steps=)", "x(method=l2;model=vgg16)", "x(method=l2;steps=3", "x()", "l2()"),
]
ODD = NUMBERS + WORDS
NO_TEXTS = [None, b"", 0, -1, 10**400, 0.5, float("nan"), float("inf"), True, [], (), {}]


def complaint(parse: Callable, words: Sequence[str], flag: str = "") -> str:
    """Return what is wrong with how a command line is answered; '' if nothing is.

    It is right to take it, as settings that are the same when they are made in Python, and to
    refuse it in one line, which names `flag`.
    """
    printed, found = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            found = parse(["program", *words])
    except UsageError as error:
        message = str(error)
        if len(message.splitlines()) != 1:
            return f"not one line: {message[:200]!r}"
        if f"--{flag}" not in message:
            return f"--{flag} is not named: {message[:200]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    else:
        if found is None and not flags.asks_for_help(["program", *words]):
            return "gives help"
    if printed.getvalue():
        return f"printed {printed.getvalue()[:200]!r}"
    return next((told for told in map(config_complaint, configs_of(found)) if told), "")


def configs_of(found: Config | ComparisonConfig | None) -> list[Config]:
    if isinstance(found, ComparisonConfig):
        return [one.config for one in found.compared_methods]
    return [found] if found else []


def config_complaint(config: Config) -> str:
    try:
        validate.check(config)
    except UsageError as error:
        return f"taken, and refused from Python: {error}"
    for name, option, value in named_options(config):
        # Scratch trains as the target does where nothing is said, and a seed may be a word.
        if option.low is not None and value is not None and value not in option.choices:
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(option.low <= number <= option.high for number in numbers):
                return f"{name} is {value}"
    return "" if from_flat(config.flat()) == config else "differs from its flat form"


def some(values: list, every: int, name: str) -> list:
    """Return each so many-th of the values, beginning at another for each flag."""
    return values[list(OPTIONS).index(name) % every :: every] if name in OPTIONS else values


@pytest.mark.parametrize("name", OPTIONS)
def test_flag_of_any_odd_value_is_taken_or_refused_by_name(
    name: str, rounds: Callable[..., int]
) -> None:
    texts = some(ODD, rounds(16, 1, 1), name)
    told = {text[:40]: complaint(flags.parse, [f"--{name}={text}"], name) for text in texts}
    assert {text: wrong for text, wrong in told.items() if wrong} == {}


@pytest.mark.parametrize("name", [*COMPARED, *(name for name in OPTIONS if name not in COMPARED)])
def test_comparison_takes_or_refuses_a_flag_of_any_odd_value_by_name(
    name: str, rounds: Callable[..., int]
) -> None:
    # One contestant, so that it is read quickly; a --method is passed over.
    few = [] if name == "methods" else ["--methods=finetune"]
    texts = ODD if name in COMPARED else some(ODD, rounds(20, 7, 1), name)
    told = {
        text[:40]: complaint(comparison_flags.parse, [*few, f"--{name}={text}"], name)
        for text in texts
    }
    assert {text: wrong for text, wrong in told.items() if wrong} == {}


@pytest.mark.parametrize("name", OPTIONS)
def test_check_of_any_odd_value_from_python_passes_or_names_the_flag(
    name: str, rounds: Callable[..., int]
) -> None:
    for value in [*some(ODD, rounds(40, 1, 1), name), *NO_TEXTS]:
        try:
            validate.check(from_flat({name: value}))
        except UsageError as error:
            assert f"--{name}" in str(error)
            assert len(str(error).splitlines()) == 1


# Whole command lines

KINDS = ("good", "odd", "any", "bare", "raw", "file")
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
GOOD_TEXTS = {
    "target": ["digits", "usps", "folder:/some/where", "some/set_of_tfds"],
    "source": ["mnist", "none", "imagenet"],
    "source_weights": ["a.weights.h5", ""],
    "method": list(METHODS),
    "model": list(MODELS),
    "trainable": ["all", "head", "last:2", "conv"],
    "penalty": ["", "l2sp", "l2sp:0.1,bss"],
    "unfreeze": ["none", "lp_ft:0.3", "gradual"],
    "augment": ["none", "auto", "flip,crop:4"],
    "source_augment": ["none", "auto", "mixup:0.2"],
    "methods": ["all", "finetune,features", "features(augment=none),x(method=l2;steps=3)"],
    "shots": ["1,5,all", "0", "7"],
}


def good_values(name: str) -> st.SearchStrategy[str]:
    option, default = OPTIONS.get(name, (None, ""))
    known = st.sampled_from(GOOD_TEXTS.get(name, [str(default)]))
    if isinstance(default, bool):
        return st.sampled_from(("true", "false"))
    if isinstance(default, int):
        return st.one_of(st.integers(int(option.low), int(option.high)).map(str), known)
    if isinstance(default, float):
        return st.floats(option.low, option.high).map(str)
    if isinstance(default, tuple):
        return st.lists(st.integers(0, 9), min_size=1).map(lambda seeds: ",".join(map(str, seeds)))
    return st.sampled_from(option.choices) if option and option.choices else known


@st.composite
def word(draw: st.DrawFn, names: Sequence[str], kinds: Sequence[str]) -> str:
    """Draw one word of a command line, of one of these kinds."""
    name, kind = draw(st.sampled_from(names)), draw(st.sampled_from(kinds))
    if kind == "good":
        return f"--{name}={draw(good_values(name))}"
    if kind == "odd":
        return f"--{name}={draw(st.sampled_from(ODD))}"
    if kind == "any":
        return f"--{name}={draw(TEXT)}"
    if kind == "bare":
        return draw(st.sampled_from((f"--{name}", f"--no{name}", f"-{name}=1", f"--{name[:-1]}=1")))
    if kind == "raw":
        flags = (
            "--",
            "-",
            "---",
            "--=1",
            "--undefok=steps",
            "-h",
            "--help",
            "--no",
            "--x" * 999,
            "--a\nb",
        )
        return draw(st.one_of(TEXT, st.sampled_from((*flags, *ODD))))
    file = draw(st.sampled_from(("a", "b", "missing", "", ".", "\0", "~no-such-user", LONG)))
    return draw(st.sampled_from(("--flagfile={}", "-flagfile={}", "--flagfile {}"))).format(file)


@st.composite
def command_line(draw: st.DrawFn, names: Sequence[str]) -> tuple[list[str], dict[str, bytes]]:
    """Draw a command line, and the contents of the flag files a and b."""
    kinds = draw(st.sampled_from((("good", "file"), ("good",), KINDS)))
    words, files = word(names, kinds), {}
    for name in "ab":
        lines = draw(st.lists(st.one_of(words, st.sampled_from(("", "# a"))), max_size=3))
        errors = draw(st.sampled_from(("surrogatepass", "replace")))
        text = "\n".join(lines).encode(errors=errors)
        files[name] = draw(st.one_of(st.just(text), st.binary(max_size=30)))
    # One contestant, so that a comparison is read quickly.
    few = draw(st.sampled_from(([], ["--methods=finetune"]))) if "methods" in names else []
    return few + draw(st.lists(words, min_size=1, max_size=8 - len(few))), files


@pytest.mark.parametrize("program", ["main", "compare"])
def test_odd_command_lines_are_taken_or_refused_in_one_line(
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: Callable[..., int],
    tally: Callable[[str, int, int], None],
) -> None:
    parse = {"main": flags.parse, "compare": comparison_flags.parse}[program]
    names = list(OPTIONS) if program == "main" else [*COMPARED, *OPTIONS]
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    @settings(max_examples=rounds(20, 300, 4000), suppress_health_check=list(HealthCheck))
    @given(command_line(names))
    def ask(case: tuple[list[str], dict[str, bytes]]) -> None:
        words, files = case
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        told.append(complaint(parse, words))
        assert not told[-1]

    try:
        ask()
    finally:
        case = f"odd command lines of {program}, taken or refused in one line"
        tally(case, told.count(""), len(told))


@pytest.mark.parametrize(
    ("module", "word"),
    [
        ("main", "--steps=nan"),
        ("main", f"--steps={LONG}"),
        ("main", b"--model=\xff"),
        ("main", "--target=a\nb"),
        ("main", "--workdir=a\x1b[31mb"),
        ("main", "x" * 100_000),
        ("main", "--" + "x" * 100_000),
        ("main", "--flagfile=self.flags"),
        ("main", "--flagfile=binary.flags"),
        ("main", "--flagfile=/"),
        ("compare", f"--shots={LONG}"),
        ("compare", "--flagfile=long.flags"),
        ("compare", "--methods=" + "(" * 100_000),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_program_refuses_an_odd_word_quickly_and_in_one_line(
    module: str, word: str | bytes, tmp_path: Path
) -> None:
    (tmp_path / "self.flags").write_text("--flagfile=self.flags\n")
    (tmp_path / "long.flags").write_text("--methods=" + "1," * 200_000)
    (tmp_path / "binary.flags").write_bytes(bytes(range(256)))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tl_keras import {module} as program"
    )
    code += "; code = program.main(sys.argv); sys.exit(99 if 'numpy' in sys.modules else code)"
    done = subprocess.run(
        [sys.executable, "-c", code, word],
        capture_output=True, text=True, check=False, timeout=20, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tl_keras: ")
    assert done.stderr.count("\n") == len(done.stderr.splitlines()) == 1
