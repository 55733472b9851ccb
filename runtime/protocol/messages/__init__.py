"""The payloads of vfio-user, one file a family."""
