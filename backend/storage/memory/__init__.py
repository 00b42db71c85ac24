"""The stores in memory: they fulfil the contracts of the ports without a database or a disk, for one process."""
