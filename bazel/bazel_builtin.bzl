"""The repositories that Bazel 4 wants for its own rules, written here so that no build goes to the network.

Holds @rules_cc, @rules_java and @remote_coverage_tools, as thin as this workspace needs them: the native rules under
their new names, and empty coverage tools. It holds nothing that the library or its tests depend on themselves.
"""

_NATIVE_RULES = {
    "cc": [
        "cc_binary",
        "cc_import",
        "cc_library",
        "cc_proto_library",
        "cc_test",
        "cc_toolchain",
        "cc_toolchain_suite",
        "fdo_prefetch_hints",
        "fdo_profile",
        "objc_import",
        "objc_library",
    ],
    "java": [
        "java_binary",
        "java_import",
        "java_library",
        "java_lite_proto_library",
        "java_package_configuration",
        "java_plugin",
        "java_proto_library",
        "java_runtime",
        "java_test",
        "java_toolchain",
    ],
}

def _native_rules_impl(ctx):
    names = _NATIVE_RULES[ctx.attr.language]
    ctx.file("WORKSPACE", "workspace(name = \"%s\")\n" % ctx.name)
    ctx.file("BUILD", "")
    ctx.file(ctx.attr.language + "/BUILD", "")
    ctx.file(
        ctx.attr.language + "/defs.bzl",
        "".join(["def {0}(**kwargs):\n    native.{0}(**kwargs)\n\n".format(name) for name in names]),
    )

_native_rules = repository_rule(
    implementation = _native_rules_impl,
    attrs = {"language": attr.string(mandatory = True, values = _NATIVE_RULES.keys())},
    doc = "A repository with <language>/defs.bzl, whose macros are Bazel's own native rules.",
)

def _no_coverage_tools_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = \"%s\")\n" % ctx.name)
    ctx.file("BUILD", "".join([
        "filegroup(name = \"%s\", visibility = [\"//visibility:public\"])\n" % name
        for name in ["coverage_report_generator", "lcov_merger"]
    ]))

_no_coverage_tools = repository_rule(
    implementation = _no_coverage_tools_impl,
    doc = "The names that every test rule depends on, empty: this workspace collects no coverage.",
)

def bazel_builtin_repositories():
    _native_rules(name = "rules_cc", language = "cc")
    _native_rules(name = "rules_java", language = "java")
    _no_coverage_tools(name = "remote_coverage_tools")
