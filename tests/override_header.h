#ifndef MI_TESTS_OVERRIDE_HEADER_H_
#define MI_TESTS_OVERRIDE_HEADER_H_

#define ALLOCATED 32

#ifdef __cplusplus
extern "C" {
#endif
// A block of each function that the header redirects; their number, or less than 0 if one failed.
int allocate_all(void* blocks[ALLOCATED]);
void free_all(void* blocks[], int count);
#ifdef __cplusplus
}
#endif

#endif
