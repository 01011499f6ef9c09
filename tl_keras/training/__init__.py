"""The training loop and its parts: steps, optimizers, checkpoints, validation.

A `Task` describes what the loop trains; methods make tasks. New schedules and optimizers belong in
`optimizers`.

It may import `config`, `data`, `distributed`, `errors`, `models`, `pictures`, `runtime` and
`storage`.
"""
