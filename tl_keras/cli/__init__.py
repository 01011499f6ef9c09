"""What stands between the command line and the program: flags in, one line of error out.

A module for the flags of each command, and `console`, which prints, logs and ends with an exit code
for all of them. Nothing heavy is imported here: `--help` and a mistyped flag are answered at once.

A new command has a module here for its flags, a dataclass of settings in `tl_keras.config`, and a
thin module at the top of the package. Of the rooms that load TensorFlow, this one imports the light
`catalog` modules alone.

It may import `config`, `data`, `distributed`, `errors`, `experiment`, `methods`, `models`,
`runtime` and `storage`.
"""
