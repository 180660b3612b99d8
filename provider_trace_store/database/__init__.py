"""What differs between databases and their drivers."""
