"""Pictures: datasets by name, how they are read, split, framed and augmented, and batches of them.

`catalog` has a row for each known dataset. A dataset that is no row and no folder of pictures is
looked up in tensorflow-datasets. A new one is a row; where its files are read in a new way, it is
also a module, which `reading.open_dataset` calls.

It may import `config`, `errors`, `runtime` and `storage`.
"""
