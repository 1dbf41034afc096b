"""The main job end to end, told as a story and checked: `make demo`."""
