"""Architectures, their weights, and weight files.

`catalog` has a row for each architecture. An architecture that is not in keras.applications has a
module of its name, whose `build_features` builds the body. Weights are copied by the names of
tensors (`weights`).

It may import `config`, `errors`, `pictures`, `runtime` and `storage`.
"""
