"""Architectures, their weights, and the files that weights are read from and written to.

`catalog` has a row for each architecture; those that are not of keras.applications have a module of
their name whose `build` gives the body. Weights travel by the names of tensors (`weights`).

It may import `config`, `errors`, `runtime` and `storage`.
"""
