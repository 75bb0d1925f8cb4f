/* Tables of the whole interface, one for each language and generation: api_table.inc is compiled once for each. */
#ifndef MI_TESTS_API_TABLE_H_
#define MI_TESTS_API_TABLE_H_

#include <stddef.h>

typedef struct mi_api_entry_s {
  const char* name;
  void (*function)(void);
} mi_api_entry_t;

#ifdef __cplusplus
extern "C" {
#endif
/* `*count` entries. The C++ ones are in the standard that their name gives. */
const mi_api_entry_t* mi_api_c11(size_t* count);
const mi_api_entry_t* mi_api_c11_v2(size_t* count);
const mi_api_entry_t* mi_api_cxx11(size_t* count);
const mi_api_entry_t* mi_api_cxx11_v2(size_t* count);
const mi_api_entry_t* mi_api_cxx14(size_t* count);
const mi_api_entry_t* mi_api_cxx14_v2(size_t* count);
const mi_api_entry_t* mi_api_cxx17(size_t* count);
const mi_api_entry_t* mi_api_cxx17_v2(size_t* count);
const mi_api_entry_t* mi_api_cxx20(size_t* count);
const mi_api_entry_t* mi_api_cxx20_v2(size_t* count);
#ifdef __cplusplus
}
#endif

#endif
