"""Packs: many whole traces of one organization and agent, compressed together."""
