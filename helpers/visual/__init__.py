"""The slice viewer."""
