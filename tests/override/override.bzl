"""override_test: one source, tested in the three ways in which malloc itself becomes ours.

    override_test(name = "new_test", srcs = ["new_test.cc"])

makes new_test_preloaded (the program knows nothing of the library, which is preloaded), new_test_linked (the override
is linked in) and new_test_static (the same without any shared library). A source may use GoogleTest; what it wants of
the library it declares as weak. `gtest = False`: a plain program, which passes by exit code 0.
"""

load("//bazel:copts.bzl", "CXX_FLAGS")

_FLAGS = CXX_FLAGS + [
    "-fno-builtin-malloc",
    "-fsized-deallocation",
]

# The sanitizers have a malloc of their own.
_TAGS = ["no_sanitizer"]

def override_test(name, srcs, size = "small", gtest = True, static_filter = "", tags = [], **kwargs):
    """The three tests of a source.

    static_filter: what GoogleTest runs without shared libraries, for which some tests make no sense.
    """
    deps = ["@com_google_googletest//:gtest_main"] if gtest else []
    native.cc_binary(
        name = name + "_program",
        testonly = True,
        srcs = srcs,
        copts = _FLAGS,
        linkopts = ["-pthread"],
        deps = deps + ["//mi:build_options"],  # whose macros say what the library does
        tags = _TAGS,
    )
    native.sh_test(
        name = name + "_preloaded",
        size = size,
        srcs = ["preloaded.sh"],
        args = ["$(location :%s_program)" % name],
        data = [
            ":%s_program" % name,
            "//mi:libmimalloc.so",
        ],
        tags = _TAGS + tags,
        **kwargs
    )
    native.cc_test(
        name = name + "_linked",
        size = size,
        srcs = srcs,
        copts = _FLAGS,
        linkopts = ["-pthread"],
        linkstatic = True,
        deps = deps + ["//mi:override"],
        tags = _TAGS + tags,
        **kwargs
    )
    native.cc_test(
        name = name + "_static",
        size = size,
        srcs = srcs,
        args = ["--gtest_filter=" + static_filter] if static_filter else [],
        copts = _FLAGS,
        linkopts = [
            "-pthread",
            "-static",
        ],
        linkstatic = True,
        deps = deps + ["//mi:override"],
        tags = _TAGS + tags,
        **kwargs
    )
