"""Files: written whole, locked, trusted, compressed; the container of saved states."""
