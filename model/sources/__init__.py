"""Tables read from the sources of others: of Linux, and of libvfio-user.

`c_source` reads C, `linux` and `libvfio_user` read what stands in those files, `derive` makes a
table of it and of a base table, and `read` is the way in. Needs the extra `import` (tree-sitter).
"""
