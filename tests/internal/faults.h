// Seeded faults: each breaks one invariant of a heap, and can be undone. For the tests of mi_heap_check, which must
// name each of them. A fault holds what it overwrote; nothing else may touch the heap until it is undone.
#ifndef MI_TESTS_INTERNAL_FAULTS_H_
#define MI_TESTS_INTERNAL_FAULTS_H_

#include <stdbool.h>
#include <stddef.h>

#include "mi/mimalloc.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t faults_count(void);
const char* faults_name(size_t fault);
const char* faults_message(size_t fault);  // a part of what mi_heap_check says of it
// Breaks the heap. It has pages of several classes, blocks with pages of their own, one of more than 4 MiB, regions,
// lanes, abandoned pages, pending frees of both kinds, and another heap that was merged into it. False: it has no place
// for this fault.
bool faults_apply(size_t fault, mi_heap_t* heap);
void faults_undo(void);

#ifdef __cplusplus
}
#endif
#endif
