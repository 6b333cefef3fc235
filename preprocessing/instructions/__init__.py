"""Published instruction data -> our one form (spa3r/instructions.py): a module for each format."""
