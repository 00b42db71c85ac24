"""What may run: profiles, the rules of programs, the verdict on a line."""
