"""Tests of the program that compares methods."""

from pathlib import Path

import pytest
from made import program, program_help

from tl_keras.cli import comparison_flags

ROOT = Path(__file__).resolve().parents[1]


def test_program_prints_its_help_and_loads_nothing_heavy():
    assert program_help("compare") == comparison_flags.help_text() + "\n"


@pytest.mark.parametrize(
    ("word", "code", "told"),
    [
        ("--methods=nix", 2, "'nix' is not a method"),
        ("--target=mnits", 2, "did you mean mnist"),
        ("--workdir=/dev/null/x", 73, "cannot be written"),
    ],
)
def test_program_ends_with_one_line_for_a_mistake(word, code, told):
    done = program("tl_keras.compare", word)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("tl_keras: ") and told in done.stderr
