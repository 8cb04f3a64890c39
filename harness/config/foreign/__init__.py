"""Configurations of Self-Forcing, LongLive and Self-Forcing-Plus, key by key in this project's terms."""
