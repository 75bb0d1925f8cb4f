// What the server computes: a summary of a JSON document. Knows cJSON and nothing of HTTP, heaps or threads; all
// memory comes from cJSON's hooks. The result depends on the document alone, so that a client can check it.
#pragma once

#include <cjson/cJSON.h>
#include <stddef.h>

/// Parses `length` bytes of text, of which all must be one JSON document; `text[length]` must be 0. NULL if they are
/// not, or without memory. The caller deletes the result.
cJSON* summary_parse(const char* text, size_t length);

/// The summary of a document: counts by type, depth, numbers, the longest string, and an entry for each record. NULL
/// or an incomplete tree if cJSON's hooks ran out of memory. The caller deletes the result.
cJSON* summary_build(const cJSON* document);

/// The summary as text without white space; NULL without memory. The caller frees it with cJSON_free.
char* summary_print(const cJSON* summary);
