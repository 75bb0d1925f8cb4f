// The summary of a JSON document, see server_summary.h. Records are the elements of the document's first array, at
// its top or one level below, or else its members. Recursion is bounded by cJSON's own nesting limit.

#include "examples/server_summary.h"

#include <float.h>
#include <stdbool.h>
#include <string.h>

enum { LONGEST_SHOWN = 80 };  // bytes of the longest string that the answer repeats

struct totals {
  size_t objects, arrays, strings, numbers, booleans, nulls;
  size_t depth;
  size_t text_bytes;
  size_t longest_length;
  const char* longest;
  double sum, min, max;
};

static const struct totals no_totals = {.min = DBL_MAX, .max = -DBL_MAX};

static void add_number(struct totals* totals, double value) {
  totals->numbers++;
  totals->sum += value;
  if (value < totals->min) totals->min = value;
  if (value > totals->max) totals->max = value;
}

static void add_string(struct totals* totals, const char* text) {
  const size_t length = strlen(text);
  totals->strings++;
  totals->text_bytes += length;
  if (length > totals->longest_length) {
    totals->longest_length = length;
    totals->longest = text;
  }
}

static void add_item(struct totals* totals, const cJSON* item, size_t depth) {
  if (depth > totals->depth) totals->depth = depth;
  switch (item->type & 0xFF) {
    case cJSON_Object:
      totals->objects++;
      break;
    case cJSON_Array:
      totals->arrays++;
      break;
    case cJSON_String:
      add_string(totals, item->valuestring);
      break;
    case cJSON_Number:
      add_number(totals, item->valuedouble);
      break;
    case cJSON_NULL:
      totals->nulls++;
      break;
    default:
      totals->booleans++;
      break;
  }
  for (const cJSON* child = item->child; child != NULL; child = child->next) add_item(totals, child, depth + 1);
}

static const cJSON* find_records(const cJSON* document) {
  if (cJSON_IsArray(document)) return document;
  for (const cJSON* child = document->child; child != NULL; child = child->next) {
    if (cJSON_IsArray(child)) return child;
  }
  return document;
}

static void add_counts(cJSON* summary, const struct totals* totals) {
  cJSON* counts = cJSON_AddObjectToObject(summary, "counts");
  cJSON_AddNumberToObject(counts, "objects", (double)totals->objects);
  cJSON_AddNumberToObject(counts, "arrays", (double)totals->arrays);
  cJSON_AddNumberToObject(counts, "strings", (double)totals->strings);
  cJSON_AddNumberToObject(counts, "numbers", (double)totals->numbers);
  cJSON_AddNumberToObject(counts, "booleans", (double)totals->booleans);
  cJSON_AddNumberToObject(counts, "nulls", (double)totals->nulls);
}

static void add_numbers(cJSON* summary, const struct totals* totals) {
  if (totals->numbers == 0) return;
  cJSON* numbers = cJSON_AddObjectToObject(summary, "numbers");
  cJSON_AddNumberToObject(numbers, "sum", totals->sum);
  cJSON_AddNumberToObject(numbers, "min", totals->min);
  cJSON_AddNumberToObject(numbers, "max", totals->max);
}

static void add_longest_string(cJSON* summary, const struct totals* totals) {
  if (totals->longest == NULL) return;
  char shown[LONGEST_SHOWN + 1];
  size_t length = totals->longest_length;
  if (length > LONGEST_SHOWN) {
    length = LONGEST_SHOWN;
    while (length > 0 && ((unsigned char)totals->longest[length] & 0xC0) == 0x80) length--;  // whole characters only
  }
  memcpy(shown, totals->longest, length);
  shown[length] = 0;
  cJSON* longest = cJSON_AddObjectToObject(summary, "longest_string");
  cJSON_AddNumberToObject(longest, "bytes", (double)totals->longest_length);
  cJSON_AddStringToObject(longest, "text", shown);
}

// What identifies a record: its first member that is a string or a number.
static const cJSON* find_identity(const cJSON* record) {
  for (const cJSON* member = record->child; member != NULL; member = member->next) {
    if (cJSON_IsString(member) || cJSON_IsNumber(member)) return member;
  }
  return NULL;
}

static cJSON* build_record(const cJSON* record) {
  struct totals totals = no_totals;
  add_item(&totals, record, 1);
  cJSON* entry = cJSON_CreateObject();
  const cJSON* identity = find_identity(record);
  if (record->string != NULL) cJSON_AddStringToObject(entry, "name", record->string);
  if (identity != NULL) cJSON_AddItemToObjectCS(entry, "id", cJSON_Duplicate(identity, false));
  cJSON_AddNumberToObject(entry, "values", (double)(totals.strings + totals.numbers + totals.booleans + totals.nulls));
  cJSON_AddNumberToObject(entry, "text_bytes", (double)totals.text_bytes);
  if (totals.numbers != 0) cJSON_AddNumberToObject(entry, "sum", totals.sum);
  return entry;
}

cJSON* summary_parse(const char* text, size_t length) {
  const char* end = NULL;
  cJSON* document = cJSON_ParseWithLengthOpts(text, length + 1, &end, true);
  if (document != NULL && end != text + length) {  // a 0 byte within the text
    cJSON_Delete(document);
    document = NULL;
  }
  return document;
}

cJSON* summary_build(const cJSON* document) {
  struct totals totals = no_totals;
  add_item(&totals, document, 1);
  cJSON* summary = cJSON_CreateObject();
  cJSON_AddNumberToObject(summary, "depth", (double)totals.depth);
  add_counts(summary, &totals);
  add_numbers(summary, &totals);
  add_longest_string(summary, &totals);
  cJSON* entries = cJSON_AddArrayToObject(summary, "records");
  if (entries == NULL) return summary;  // out of memory
  for (const cJSON* record = find_records(document)->child; record != NULL; record = record->next) {
    cJSON* entry = build_record(record);
    if (!cJSON_AddItemToArray(entries, entry)) break;
  }
  return summary;
}

char* summary_print(const cJSON* summary) {
  const int guess = 512 + 96 * cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(summary, "records"));
  return cJSON_PrintBuffered(summary, guess, false);
}
