"""Image datasets: by name, how they are read, split, framed and augmented, and input pipelines.

`catalog` has a row for each known dataset. Other names are folders (`folder:PATH`) or datasets of
tensorflow-datasets. To add a dataset, add a row. If its files need a new reader, add a module and
call it in `reading.open_dataset`.

It may import `config`, `errors`, `pictures`, `runtime` and `storage`.
"""
