"""What servers and the agents of hosts say to each other: names, commands, messages, signatures. No input or output."""
