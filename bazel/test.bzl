"""The macros that tests, examples and benchmarks are declared with.

    load("//bazel:test.bzl", "mi_c_binary", "mi_cc_binary", "mi_cc_library", "mi_cc_test")

    mi_cc_test(                         # tests/heap/limit_test.cc, with GoogleTest and its main()
        name = "limit_test",
        srcs = ["limit_test.cc"],
        deps = ["@com_google_absl//:flat_hash_map"],     # optional
        tags = ["tsan"],                                 # optional, see below
        size = "medium",                                 # optional: small (default, 60 s), medium (300 s), large (900 s)
    )
    mi_cc_binary(name = "heap_bench", srcs = ["heap_bench.cc"], deps = ["@debian//:benchmark"])
    mi_c_binary(name = "tour", srcs = ["tour.c"])        # C11, with the public library only

Every target gets the library, the warning flags as errors, -pthread, and static linking. mi_cc_test and mi_cc_library
see the library's private headers too ("mi/internal/page.h", "mi/heap/nursery.h"); `internal = False` takes them away,
and `internal = True` gives them to a binary. mi_cc_test(gtest_main = False) leaves main() to the test.

Tags: tsan        run under ThreadSanitizer by .ci/run: all tests with threads
      no_sanitizer  not run under any sanitizer (measures memory, counts instructions, reserves too much)
      no_secure   not run in the secure build (is about regions, free lists, or calls that are the same in every run)
      suite       //tests/options runs it with libraries of other build options: no part of the step `secure` of .ci/run
      once        says nothing about the compiled code (models, formatting, installation): run in one configuration only
      exclusive   alone on the machine; manual: not in //...
A shell test is a native sh_test, with the tag `once` if it fits. Programs are found in out/bin after a build.
"""

load("//bazel:copts.bzl", "CXX_FLAGS", "C_FLAGS")

_PUBLIC = ["//mi:mimalloc"]
_INTERNAL = ["//mi:internal_for_tests"]

# linkopts of a test that counts the library's calls of the system, or makes some fail: they go to its __wrap_mmap etc.
WRAP_SYSTEM_CALLS = ["-Wl,--wrap=mmap,--wrap=madvise,--wrap=munmap,--wrap=mprotect"]

def _library(internal, library):
    return [library] if library else _INTERNAL if internal else _PUBLIC

def mi_cc_test(
        name,
        srcs,
        deps = [],
        copts = [],
        linkopts = [],
        size = "small",
        internal = True,
        library = None,
        gtest_main = True,
        **kwargs):
    """A GoogleTest program in C++17. `library`: a variant of the library, //mi:mimalloc_padded for example."""
    native.cc_test(
        name = name,
        srcs = srcs,
        size = size,
        copts = CXX_FLAGS + copts,
        linkopts = ["-pthread"] + linkopts,
        linkstatic = True,
        deps = deps + _library(internal, library) + [
            "@com_google_googletest//:gtest_main" if gtest_main else "@com_google_googletest//:gtest",
        ],
        **kwargs
    )

def mi_cc_library(name, deps = [], copts = [], internal = True, **kwargs):
    """Code that tests share, in C++17. May use GoogleTest."""
    native.cc_library(
        name = name,
        copts = CXX_FLAGS + copts,
        linkstatic = True,
        testonly = True,
        deps = deps + _library(internal, None) + ["@com_google_googletest//:gtest"],
        **kwargs
    )

def mi_cc_binary(name, srcs, deps = [], copts = [], linkopts = [], internal = False, library = None, **kwargs):
    """A program in C++17: a benchmark, say."""
    native.cc_binary(
        name = name,
        srcs = srcs,
        copts = CXX_FLAGS + copts,
        linkopts = ["-pthread"] + linkopts,
        deps = deps + _library(internal, library),
        **kwargs
    )

def mi_c_binary(name, srcs, deps = [], copts = [], linkopts = [], internal = False, library = None, **kwargs):
    """A program in C11."""
    native.cc_binary(
        name = name,
        srcs = srcs,
        copts = C_FLAGS + copts,
        linkopts = ["-pthread"] + linkopts,
        deps = deps + _library(internal, library),
        **kwargs
    )
