"""A tiny Wan trained on a drawn world, so that every claim can be measured."""
