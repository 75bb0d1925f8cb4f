// The waist that every allocation and every free of the program comes by in checked builds (MI_CHECKED: padding, and
// the builds that tools see through); see checked.c. In other builds nothing of this is there.
#pragma once
#ifndef MI_HEAP_CHECKED_H
#define MI_HEAP_CHECKED_H

#include "mi/heap/parts.h"
#include "mi/internal/track.h"

#if MI_CHECKED

mi_hidden void* _mi_checked_alloc(const mi_request_t* request);
// The same without checks (alloc.c).
mi_hidden void* _mi_unchecked_alloc(const mi_request_t* request);

// Looks at a block before it is freed. False: it must not be, which was reported.
mi_hidden bool _mi_checked_free(void* p);
// Before the heap's blocks go, all at once.
mi_hidden void _mi_checked_heap_end(mi_heap_t* heap);
// Before those of its blocks go that `is_gone` names.
mi_hidden void _mi_checked_heap_rewind(mi_heap_t* heap, bool (*is_gone)(const void* block, void* arg), void* arg);

#endif

#if MI_TAIL
// The size that was asked for; 0 if no live block starts at `p`.
mi_hidden size_t _mi_checked_size(const void* p);
mi_hidden void* _mi_checked_realloc(mi_heap_t* heap, void* p, size_t newsize, size_t alignment, size_t offset,
                                    bool zero);
mi_hidden void* _mi_checked_expand(void* p, size_t newsize);
// From a block as a walk finds it to what the program knows of it.
mi_hidden void _mi_checked_show(void** block, size_t* size);
#endif

#endif
