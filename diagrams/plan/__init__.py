"""The picture of a plan for a group of devices."""
