"""The endpoints, one file a noun: parse, call the service, shape."""
