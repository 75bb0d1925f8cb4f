// What operator new does when there is no memory, for who defines an operator new.
#pragma once
#ifndef MI_NEW_H
#define MI_NEW_H

#include "mi/internal/bits.h"

// The first try of a request failed: calls the program's new_handler and tries again, until there is memory or no
// handler; then throws std::bad_alloc, or with `nothrow` returns NULL. For blocks of the calling thread's default heap.
mi_hidden void* _mi_new_failed(size_t size, size_t alignment, bool nothrow) __attribute__((cold));

#endif
