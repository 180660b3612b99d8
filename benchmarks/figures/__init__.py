"""The figures of `make bench`, by the part of the package that they measure."""
