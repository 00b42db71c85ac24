"""Commands on this machine, in the cage."""
