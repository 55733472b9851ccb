"""Single edits of the table: each killed by an obligation or proved equivalent."""
