"""The command line of `python -m tl_keras.compare`."""

import dataclasses
import re
from collections.abc import Sequence

from tl_keras.cli import flags
from tl_keras.config import Config, from_flat, named_options
from tl_keras.config.comparison import ComparedMethod, Comparison, ComparisonConfig
from tl_keras.config.config import TRANSFER
from tl_keras.config.shots import ALL, parse_shots
from tl_keras.config.training import TARGET_TRAINING
from tl_keras.errors import UsageError
from tl_keras.experiment.validate import check
from tl_keras.methods import catalog as methods

USAGE = """\
Compare methods of transfer from one source: run each of --methods, and training from scratch, with
each number of --shots and each of --seeds. The result is one table and one plot.

  python -m tl_keras.compare --flagfile=experiments/mnist_to_usps.flags --seeds=0,1,2 \\
      --methods=finetune,features,l2sp --shots=1,5,10,50,all

The same command continues a comparison that was stopped. More methods, shots and seeds can be added
later; finished runs are not repeated. --method is ignored. All other flags are those of
tl_keras.main and apply to every run:
"""


SETTINGS: flags.Settings = (Comparison(), Config())


def parse(argv: Sequence[str]) -> ComparisonConfig | None:
    """Parse a command line; `--help` gives None.

    Raises:
        UsageError: a flag of any run is unknown, out of range, or contradicts another one.
    """
    if flags.asks_for_help(argv):
        return None
    values = flags.read(argv, SETTINGS)
    shots = _parse_shots(values.pop("shots", Comparison.shots))
    methods_text = values.pop("methods", Comparison.methods)
    common = from_flat({**values, "method": "scratch", "shots": ALL})
    compared_methods, left_out = [], {}
    for name, settings in _split_methods(methods_text):
        method_config = _parse_method(argv, name, settings)
        try:
            _check_shots(method_config, shots)
        except UsageError as error:
            if methods_text != "all":
                raise UsageError(f"--methods={name}: {error}") from error
            left_out[name] = str(error)
            continue
        compared_methods.append(ComparedMethod(name, method_config))
    if not compared_methods:
        reasons = [f". {name} is left out: {reason}" for name, reason in left_out.items()][:1]
        raise UsageError(
            f"--methods={methods_text} leaves no method to compare with scratch{''.join(reasons)}"
        )
    return ComparisonConfig(
        _choose_common_method(common, compared_methods), tuple(compared_methods), shots, left_out
    )


def help_text(full: bool = False) -> str:
    """Return the text of `--help`, or of `--helpfull`."""
    return flags.help_text(full, USAGE, SETTINGS)


def _parse_shots(text: str) -> tuple[int | None, ...]:
    numbers = []
    for word in text.split(","):
        try:
            numbers.append(parse_shots(word.strip()))
        except ValueError as error:
            raise UsageError(f"--shots={text}: '{word.strip()}' {error}") from None
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"--shots={text} names a number twice. Remove one of them")
    return tuple(numbers)


_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"


def _split_methods(text: str) -> list[tuple[str, list[str]]]:
    """Return the name of each method, and the settings in its parentheses."""
    if text == "all":
        return [(name, []) for name in methods.METHODS if name != "scratch"]
    settings_by_name: dict[str, list[str]] = {}
    for item in _split_at_commas(text):
        match = re.fullmatch(rf"\s*({_NAME}(?::[0-9.:e+-]+)?)(?:\(([^()]*)\))?\s*", item)
        if not match:
            raise UsageError(
                f"--methods={text}: '{item.strip()}' is not NAME or NAME(FLAG=VALUE;FLAG=VALUE)"
            )
        if match[1] in settings_by_name:
            raise UsageError(f"--methods={text} names '{match[1]}' twice. Remove one")
        if match[1] == "scratch" and match[2]:
            raise UsageError(
                f"--methods={text}: scratch is the baseline and cannot have its own settings. Give"
                " it another name, as in NAME(method=scratch;...)"
            )
        settings_by_name[match[1]] = match[2].split(";") if match[2] else []
    # Scratch always runs, as the baseline.
    return [(name, settings) for name, settings in settings_by_name.items() if name != "scratch"]


def _split_at_commas(text: str) -> list[str]:
    """Split text at the commas outside parentheses."""
    cuts, inside = [-1], False
    for match in re.finditer("[(),]", text):
        if match[0] != ",":
            inside = match[0] == "("
        elif not inside:
            cuts.append(match.start())
    return [text[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _parse_method(argv: Sequence[str], name: str, settings: list[str]) -> Config:
    groups = (TRANSFER, TARGET_TRAINING)
    allowed = {flag for flag, option, _ in named_options(Config()) if option.group in groups}
    words = [f"--{setting.strip().removeprefix('--')}" for setting in settings]
    method = [f"--method={name}"] if name.partition(":")[0] in methods.METHODS else []
    says_method = any(word.startswith("--method=") for word in words)
    if method and says_method:
        raise UsageError(
            f"--methods={name}(...): method= cannot be given for {name}, which is a method. Remove"
            " method=, or choose another name"
        )
    if not method and not says_method:
        raise UsageError(
            f"--methods: '{name}' is not a method. Choose from {', '.join(methods.METHODS)}, or"
            f" name its method, as in {name}(method=finetune;...)"
        )
    for word in words:
        if not re.fullmatch(f"--({'|'.join(sorted(allowed))})=.*", word):
            raise UsageError(
                f"--methods={name}(...): {word} cannot be set for one method. Use only flags of the"
                " groups 'How to transfer' and 'Training on the target'"
            )
    try:
        values = flags.read([*argv, *method, *words], SETTINGS)
    except UsageError as error:
        raise UsageError(f"--methods={name}(...): {error}") from error
    return from_flat({**values, "shots": ALL, "baseline": False})


def _check_shots(config: Config, shots: Sequence[int | None]) -> None:
    for count in shots:
        check(dataclasses.replace(config, shots=count))


def _choose_common_method(common: Config, compared_methods: Sequence[ComparedMethod]) -> Config:
    """Return the common settings with the method that needs most of the source."""
    method = max(
        (one.config.method for one in compared_methods),
        key=lambda method: (
            "source" in methods.find(method).streams,
            methods.find(method).copies_weights,
        ),
    )
    return dataclasses.replace(common, method=method)
