"""The path of a command: model, targets, gateway, sequence."""
