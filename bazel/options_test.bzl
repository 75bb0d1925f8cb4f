"""Tests of the build options themselves: that what is not known is refused."""

load("//bazel:options.bzl", "mi_build_options")

def _refusal_test_impl(ctx):
    options = ctx.attr.options[0]  # a transition makes a list of it
    if AnalysisFailureInfo not in options:
        return [AnalysisTestResultInfo(success = False, message = "the options are accepted")]
    messages = [cause.message for cause in options[AnalysisFailureInfo].causes.to_list()]
    said = any([ctx.attr.sentence in message for message in messages])
    return [AnalysisTestResultInfo(
        success = said,
        message = "" if said else "the message is: " + "; ".join(messages),
    )]

_refusal_test = rule(
    implementation = _refusal_test_impl,
    attrs = {
        "options": attr.label(
            cfg = analysis_test_transition(settings = {"//command_line_option:allow_analysis_failures": "True"}),
        ),
        "sentence": attr.string(),
    },
    analysis_test = True,
)

def options_refused_test(name, values, sentence, **kwargs):
    """The options are refused with a message that holds the sentence."""
    mi_build_options(
        name = name + "_options",
        tags = ["manual"],
        values = values,
    )
    _refusal_test(
        name = name,
        options = ":" + name + "_options",
        sentence = sentence,
        **kwargs
    )
