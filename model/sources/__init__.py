"""Tables read from the sources of others: of Linux, of libvfio-user, of the text of vfio-user.

`files` finds them, `c_source` reads C, `linux`, `libvfio_user` and `vfio_user` read what is in
those files, `derive` makes a table of it and of a base table, `prose` holds comments against that,
and `read` is the way in. Needs the extra `import` (tree-sitter, docutils).
"""
