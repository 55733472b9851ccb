"""What is proved: the families T, D, S, G and W, and claims of users."""
