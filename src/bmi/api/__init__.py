"""The REST edge: parses, calls a use case, shapes the answer; every error is a problem document."""
