"""The `bmi` command line: noun, verb, and what it says to people and to scripts."""
