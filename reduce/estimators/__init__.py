"""Estimators: a few passes and small dense algebra in between."""
