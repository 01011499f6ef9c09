"""The command line: parses flags, prints results and one-line errors, sets exit codes.

Each command has a module for its flags; `console` has what they share. This package does not import
TensorFlow, so `--help` and errors in flags appear at once: of the packages that load TensorFlow it
imports only the `catalog` modules.

A new command has a module here for its flags, a dataclass of settings in `tl_keras.config`, and a
thin module at the top of the package.

It may import `config`, `data`, `distributed`, `errors`, `experiment`, `methods`, `models`,
`runtime` and `storage`.
"""
