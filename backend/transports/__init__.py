"""The fronts: what a socket or a request says, put to the gateway and answered."""
