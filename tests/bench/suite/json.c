// Documents parsed, changed, printed and dropped: Debian's cJSON, which takes a block per value and one per string,
// with generated documents of a few hundred values. Each of THREADS handles requests; the last few documents stay, as a
// cache would keep them.
#include <cjson/cJSON.h>

#include "tests/bench/suite/suite.h"

enum { kKept = 64, kTexts = 16, kMostText = 1 << 16 };

typedef struct {
  char* const* texts;
  uint64_t seed;
  long requests;
  uint64_t sum;
} worker_t;

static char* make_text(uint64_t seed) {
  char* const text = malloc(kMostText);
  if (text == NULL) suite_fail("no memory");
  size_t at = 0;
  const size_t records = suite_between(&seed, 10, 60);
  at += (size_t)sprintf(text + at, "{\"kind\":\"list\",\"records\":[");
  for (size_t i = 0; i < records; i++) {
    at += (size_t)sprintf(
        text + at,
        "%s{\"id\":%llu,\"name\":\"record %llu of them\",\"tags\":[\"a%llu\",\"some longer tag\",null],"
        "\"at\":{\"x\":%llu.5,\"y\":-%llu,\"seen\":true}}",
        i == 0 ? "" : ",", (unsigned long long)suite_below(&seed, 1000000),
        (unsigned long long)suite_below(&seed, 1000000000), (unsigned long long)suite_below(&seed, 1000),
        (unsigned long long)suite_below(&seed, 10000), (unsigned long long)suite_below(&seed, 10000));
  }
  sprintf(text + at, "]}");
  return text;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  cJSON* kept[kKept] = {NULL};
  for (long i = 0; i < worker->requests; i++) {
    cJSON* const document = cJSON_Parse(worker->texts[suite_below(&worker->seed, kTexts)]);
    if (document == NULL) suite_fail("cannot parse");
    cJSON* const records = cJSON_GetObjectItem(document, "records");
    cJSON_DeleteItemFromArray(records, (int)suite_below(&worker->seed, 10));
    cJSON_AddNumberToObject(document, "count", cJSON_GetArraySize(records));
    char* const printed = cJSON_PrintUnformatted(document);
    if (printed == NULL) suite_fail("cannot print");
    worker->sum += strlen(printed);
    cJSON_free(printed);
    cJSON** const place = &kept[suite_below(&worker->seed, kKept)];
    cJSON_Delete(*place);
    *place = document;
  }
  for (int i = 0; i < kKept; i++) cJSON_Delete(kept[i]);
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  char* texts[kTexts];
  for (int i = 0; i < kTexts; i++) texts[i] = make_text(1500 + (uint64_t)i);
  worker_t workers[1024] = {{NULL, 0, 0, 0}};
  for (int i = 0; i < args.threads; i++) {
    workers[i] = (worker_t){texts, 1600 + (uint64_t)i, suite_scaled(&args, 4000 / args.threads), 0};
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t sum = 0;
  for (int i = 0; i < args.threads; i++) sum += workers[i].sum;
  for (int i = 0; i < kTexts; i++) free(texts[i]);
  return suite_finish(sum);
}
