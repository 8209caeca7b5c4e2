"""One file for each thing that `python dev.py bench NAME` measures: `main(arguments)` prints one JSON object, on one line with --json."""
