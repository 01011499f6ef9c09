"""The one training loop, and what it is made of: steps, optimizers, checkpoints, validation.

`task` says what a loop trains; methods make tasks. A new schedule or optimizer is a row in
`optimizers`.

It may import `config`, `data`, `distributed`, `errors`, `models`, `runtime` and `storage`.
"""
