"""Protocols, catalogue encoding and ranking."""
