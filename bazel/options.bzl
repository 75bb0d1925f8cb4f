"""The library's build options, named as mimalloc names its own: `--define NAME=VALUE`.

    bazel build --define MI_PADDING=ON //mi:mimalloc

mi_build_options is what the library depends on: it turns the options into macros for the library and whoever depends on
it, and fails with a sentence if a name, a value or a combination is not known. mi/internal/config.h checks the macros
once more, for who builds without Bazel. mi_library makes a library for a set of options: that of the command line, or a
fixed one for the tests, so that the test command runs every option.
"""

load("//bazel:copts.bzl", "LIBRARY_FLAGS")

_SWITCH = {
    "0": "0",
    "1": "1",
    "OFF": "0",
    "ON": "1",
}

# Name: (values as --define has them and as the macro has them, default).
_OPTIONS = {
    "MI_DEBUG": ({"0": "0", "1": "1", "2": "2", "3": "3"}, "0"),
    "MI_GUARDED": (_SWITCH, "0"),
    "MI_MIN_ALIGN": ({"16": "16", "8": "8"}, "16"),
    "MI_OVERRIDE": (_SWITCH, "1"),
    "MI_PADDING": (_SWITCH, "0"),
    "MI_SECURE": ({"0": "0", "1": "1", "2": "2", "3": "3", "4": "4", "OFF": "0", "ON": "4"}, "0"),
    "MI_TRACK_ASAN": (_SWITCH, "0"),
    "MI_TRACK_TSAN": (_SWITCH, "0"),
    "MI_TRACK_VALGRIND": (_SWITCH, "0"),
    "MI_XMALLOC": (_SWITCH, "0"),
}

_TOOLS = ["MI_TRACK_ASAN", "MI_TRACK_TSAN", "MI_TRACK_VALGRIND"]

# What stays in mi/BUILD: it chooses files, not macros.
_NO_MACRO = ["MI_OVERRIDE"]

def _check(given):
    """The macro's value of every option; fails if something is not known."""
    for name in given:
        if name.startswith("MI_") and name not in _OPTIONS:
            fail("%s is no build option of the library; there are: %s" % (name, ", ".join(sorted(_OPTIONS))))
    values = {}
    for name in sorted(_OPTIONS):
        known, default = _OPTIONS[name]
        value = given.get(name)
        if value == None:
            values[name] = default
        elif value in known:
            values[name] = known[value]
        else:
            fail("%s=%s is not known; the values are: %s" % (name, value, ", ".join(sorted(known))))
    tools = [name for name in _TOOLS if values[name] == "1"]
    if len(tools) > 1:
        fail("%s exclude each other: a program runs under one tool at a time" % " and ".join(tools))
    if values["MI_GUARDED"] == "1" and tools and tools[0] != "MI_TRACK_TSAN":
        fail("MI_GUARDED does not go with %s: the tool sees every block already" % tools[0])
    others = [name for name in ["MI_GUARDED", "MI_PADDING"] + ["MI_TRACK_ASAN", "MI_TRACK_VALGRIND"] if values[name] == "1"]
    if values["MI_SECURE"] != "0" and others:
        fail("MI_SECURE does not go with %s: it has checks of its own" % others[0])
    return values

def _mi_build_options_impl(ctx):
    given = ctx.attr.values
    if ctx.attr.command_line:
        given = {name: value for name, value in ctx.var.items() if name.startswith("MI_")}
    values = _check(given)
    defines = [
        "%s=%s" % (name, values[name])
        for name in sorted(values)
        if values[name] != _OPTIONS[name][1] and name not in _NO_MACRO
    ]
    return [CcInfo(compilation_context = cc_common.create_compilation_context(defines = depset(defines)))]

mi_build_options = rule(
    implementation = _mi_build_options_impl,
    attrs = {
        "command_line": attr.bool(doc = "The options are those of --define."),
        "values": attr.string_dict(doc = "The options, if not command_line."),
    },
    doc = "The macros of a set of build options.",
)

# Flags that options bring along.
_VALGRIND_FLAGS = [
    "-finstrument-functions",  # mi/internal/track.c
    "-fexceptions",
]
_ASAN_FLAGS = [
    "-fno-sanitize=address",
    "-U_FORTIFY_SOURCE",  # the headers' memset is not the one that config.h renames
    "-fno-builtin",  # no loop becomes a call of the sanitizer's memset: for clang; config.h tells gcc
    "-Wno-ignored-optimization-argument",
]
_TSAN_FLAGS = ["-fsanitize=thread"]

# The flags for the options of the command line.
OPTION_FLAGS = (
    select({
        "//bazel:track_valgrind": _VALGRIND_FLAGS,
        "//conditions:default": [],
    }) + select({
        "//bazel:track_asan": _ASAN_FLAGS,
        "//conditions:default": [],
    }) + select({
        "//bazel:track_tsan": _TSAN_FLAGS,
        "//conditions:default": [],
    })
)

OPTION_LINK_FLAGS = select({
    "//bazel:track_tsan": _TSAN_FLAGS,
    "//conditions:default": [],
})

def _setting(name, option, choices, **kwargs):
    """`name` holds if --define gave the option one of two values."""
    either = ["%s_%s" % (name, value.lower()) for value in choices]
    for setting, value in zip(either, choices):
        native.config_setting(
            name = setting,
            define_values = {option: value},
            **kwargs
        )
    native.alias(
        name = name,
        actual = select({
            ":" + either[0]: ":" + either[0],
            "//conditions:default": ":" + either[1],
        }),
    )

def option_settings():
    """What OPTION_FLAGS and mi/BUILD choose by. For bazel/BUILD."""
    on = ["ON", "1"]
    _setting("track_asan", "MI_TRACK_ASAN", on)
    _setting("track_tsan", "MI_TRACK_TSAN", on)
    _setting("track_valgrind", "MI_TRACK_VALGRIND", on)
    _setting("override_off", "MI_OVERRIDE", ["OFF", "0"])
    native.alias(
        name = "no_override",
        actual = select({
            ":override_off": ":override_off",
            "//conditions:default": ":track_asan",
        }),
    )
    _setting("optimised_for_asan", "MI_TRACK_ASAN", on, values = {"compilation_mode": "opt"})

def mi_library_variant(name, values, srcs, private_hdrs, hdrs, visibility):
    """The library with fixed options, as //mi:NAME, for tests; //mi:NAME_internal has the private headers as well."""
    copts = LIBRARY_FLAGS + ["-g"]
    linkopts = ["-pthread"]
    if values.get("MI_TRACK_VALGRIND") == "ON":
        copts = copts + _VALGRIND_FLAGS
    if values.get("MI_TRACK_ASAN") == "ON":
        copts = copts + _ASAN_FLAGS
        linkopts = linkopts + ["-fsanitize=address"]
    if values.get("MI_TRACK_TSAN") == "ON":
        copts = copts + _TSAN_FLAGS
        linkopts = linkopts + _TSAN_FLAGS
    mi_build_options(
        name = name + "_options",
        values = values,
    )
    native.cc_library(
        name = name,
        testonly = True,
        srcs = srcs + private_hdrs,
        hdrs = hdrs,
        copts = copts,
        includes = ["."],
        linkopts = linkopts,
        linkstatic = True,
        tags = ["manual"],
        visibility = visibility,
        deps = [":" + name + "_options"],
    )
    native.cc_library(
        name = name + "_internal",
        testonly = True,
        hdrs = private_hdrs,
        linkstatic = True,
        tags = ["manual"],
        visibility = visibility,
        deps = [":" + name],
    )
