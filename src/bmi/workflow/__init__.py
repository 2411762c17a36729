"""The effect side: makes happen what operations say, one idempotent step at a time."""
