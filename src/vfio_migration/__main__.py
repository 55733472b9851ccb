"""`python -m vfio_migration` is the command `vfio-migration`."""

from vfio_migration.cli.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
