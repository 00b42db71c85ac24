"""Reading a line: text to words, words to steps of pipelines."""
