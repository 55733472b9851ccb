"""The transition systems of which the obligations speak."""
