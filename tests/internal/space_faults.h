// Seeded faults of a space: each breaks one invariant of an isolated heap, and can be undone. For the test that
// mi_heap_check names each of them.
#ifndef MI_TESTS_INTERNAL_SPACE_FAULTS_H_
#define MI_TESTS_INTERNAL_SPACE_FAULTS_H_

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

size_t space_faults_count(void);
const char* space_faults_message(size_t fault);  // a part of what mi_heap_check says of it
// Breaks the heap of `block`, which lies in a page of several blocks that is not full; the next slice has a page too.
void space_faults_apply(size_t fault, void* block);
void space_faults_undo(void);

#ifdef __cplusplus
}
#endif
#endif
