"""Speed and memory of eigenmill against a tuned floor and its peers. See README.md."""
