"""A custom node pack for the test host only: see prestartup_script.py."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
