"""Django projects whose management commands run: what servers and runners say to each other."""
