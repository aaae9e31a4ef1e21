"""Relay: a blind helper that keeps sealed messages for people whom it does not know."""
