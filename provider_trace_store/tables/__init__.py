"""The two tables: their mapped classes, column types, kinds and rows. No module here uses a session."""
