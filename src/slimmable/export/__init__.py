"""What leaves the library: the artifact of all widths, and ordinary files of one width for other runtimes."""
