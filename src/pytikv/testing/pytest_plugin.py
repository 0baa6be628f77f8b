"""Pytest fixtures of pytikv."""
