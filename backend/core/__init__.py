"""The rules: parsing, policy, limits, messages, the gateway. No clock, no environment, no sockets."""
