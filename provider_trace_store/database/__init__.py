"""The differences between databases and between their drivers."""
