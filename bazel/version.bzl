"""The library's version, where Bazel must know it: in the names of packages.

It is written once more in mi/mimalloc.h, as MI_MALLOC_VERSION, for programs; packing fails if the two differ.
"""

VERSION = "3.4.0"
