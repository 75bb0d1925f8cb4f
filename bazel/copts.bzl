"""The compiler flags of the tree: LIBRARY for mi/ (C11), TEST_C and TEST_CXX for tests, examples and benchmarks.

What differs between configurations (debug, sanitizers) is in .bazelrc; here is what always holds.
"""

# Errors in this workspace (.bazelrc), and no more than warnings in the build of who depends on it.
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
]

C_FLAGS = [
    "-std=c11",
    "-Wstrict-prototypes",
] + WARNINGS

CXX_FLAGS = ["-std=c++17"] + WARNINGS

# The library's thread-local variables are reached by one instruction (initial-exec), its private names stay
# out of the dynamic symbol table, and an optimised build keeps no frame pointer. C++ exceptions pass through it: those of
# mi_new, and of a program's callbacks.
LIBRARY_FLAGS = C_FLAGS + [
    "-fvisibility=hidden",
    "-ftls-model=initial-exec",
    "-fno-math-errno",
    "-fexceptions",
] + select({
    "//bazel:optimised": ["-fomit-frame-pointer"],
    "//conditions:default": [],
})
