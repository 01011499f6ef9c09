"""Files of pictures: which there are, with which labels, and how one becomes an array.

`layout` finds the classes and splits of a folder. `picture_file` opens one file within limits of
memory and time. `images` has the functions on decoded pixels. `duplicates` finds copies among all
decoded pictures of a set, and `data_report` says which of them matter. To read another layout, add
a module that returns a `layout.Layout`.

It may import `config`, `errors`, `runtime` and `storage`.
"""
