"""What both ends of a connection use: the channel, the descriptors, the peer, the counts."""
