// Heaps by name: see table.c.
#pragma once
#ifndef MI_HEAP_TABLE_H
#define MI_HEAP_TABLE_H

#include "mi/internal/stats.h"

// What is known of a name that heaps were given. Never freed; a program that makes up names without end finds those
// beyond the first MI_NAMES_MAX counted together.
#define MI_NAMES_MAX 1000
typedef struct mi_name_s {
  char name[64];
  mi_gauge_t heaps;
} __attribute__((aligned(MI_CACHE_LINE))) mi_name_t;

// The entry of a name, made if need be; NULL without memory. Only the first 63 bytes count.
mi_hidden mi_name_t* _mi_name_of(const char* name);
// A new heap, which has extras, is one of those with this name.
mi_hidden void _mi_heap_name_begin(mi_heap_t* heap, mi_name_t* entry);
// The heap ends, or its blocks become another's.
mi_hidden void _mi_heap_name_end(mi_heap_t* heap);

// Prints the table if that was asked for by a signal. On a slow path, with nothing held.
mi_hidden void _mi_table_answer(mi_thread_t* thread);
mi_hidden void _mi_table_at_start(void);

#endif
