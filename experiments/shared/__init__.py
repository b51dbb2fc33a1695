"""Code that the commands of `experiments` share. tests/test_layering.py ranks the modules."""
