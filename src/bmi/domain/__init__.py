"""Pure heart of BMI: nouns, states and plans; no I/O, no clock, no randomness."""
