"""Files of pictures: which there are, with which labels, and how one becomes an array.

`layout` finds the classes and splits of a folder, `csv_layout` those of a CSV file. `picture_set`
decodes all files once: `picture_file` opens one within `limits`, `decode` brings it to the size of
the model, `pixels` to 8 bits. `decoded_set`, `file_set` and `kept_sets` store the result, and
`arrays` are what the program sees of it. `duplicates` finds copies among all pictures, `analysis`
stores what was found, and `data_report` says what of it matters. To read another layout, add a
module that returns a `layout.Layout`.

It may import `config`, `errors`, `runtime` and `storage`.
"""
