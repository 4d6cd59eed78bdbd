"""Runs models: the native library, sessions, verification, measurement."""
