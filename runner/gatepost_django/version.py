"""The version of the runner, which it reports to the server."""

VERSION = "0.1.0"
