"""How other projects name and order the tensors of the networks that we have, too. See
docs/checkpoints.md.
"""
