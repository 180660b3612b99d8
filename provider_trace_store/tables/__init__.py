"""The two tables: their mapped classes, column types, kinds and rows. Nothing here knows a session."""
