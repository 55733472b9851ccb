"""The picture of the state machine."""
