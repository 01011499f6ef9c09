"""Read a folder of pictures: `folder:PATH`.

Layouts: `PATH/train/CLASS/*` with `PATH/test/CLASS/*`, where a folder for validation beside them
(val, valid, validation, dev) is left alone; or `PATH/CLASS/*`, of which a fifth of every class,
always the same (`held_out.choose_test`), is the test split. Classes are the names of the folders,
in any script; everything is sorted by the bytes of its name, whatever the locale.

- Hidden files and folders (a name that begins with a dot) are ignored. So is a file that is no
  picture, unless its extension says that it is one: then it is corrupt. How many were ignored is
  logged. What a file is, its content decides; a wrong extension does no harm.
- Every picture is decoded once when the folder is opened; what is corrupt, unreadable, of floating
  point, or larger than 50 million pixels (by its header: such a one is not decoded) is listed.
- Symbolic links that lead out of PATH are refused. PATH itself may be a link.
- Transparency is laid over white; palettes, CMYK and 16 bits come to 8 bits a channel; of an
  animation the first frame counts; the orientation that a camera noted is applied.
- A folder whose pictures are all grey, even where they are stored as colours, has 1 channel, else 3.
- Pictures come resized to squares, antialiased, their aspect not kept; framed ones are not.
"""
