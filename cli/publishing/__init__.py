"""What `publish` is made of: the manifest, the figures it lists, and where they are put."""
