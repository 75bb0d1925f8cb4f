// What a tool that watches memory is told (build options MI_TRACK_VALGRIND and MI_TRACK_ASAN; nothing in other builds).
// To the tool, an arena is forbidden ground in which each block that the program holds is a clearing of exactly the
// size that was asked for. The library walks on forbidden ground all the time: free lists, tails, page slots. Under
// valgrind it is therefore compiled with -finstrument-functions, and errors are not reported from the moment a thread
// enters a function of the library until it leaves it, callbacks of the program apart (track.c). Under
// AddressSanitizer it is compiled without checks, and its memset and memcpy are plain ones.
#pragma once
#ifndef MI_INTERNAL_TRACK_H
#define MI_INTERNAL_TRACK_H

#include "mi/internal/atomic.h"

#define MI_TRACKED (MI_TRACK_VALGRIND || MI_TRACK_ASAN)

#if MI_TRACKED
// The program got a block / gave it back / has it at another size now / gave back what is no block of its own.
mi_hidden void _mi_track_alloc(void* p, size_t size, bool zero);
mi_hidden void _mi_track_free(void* p, size_t size);
mi_hidden void _mi_track_free_invalid(void* p);
mi_hidden void _mi_track_resize(void* p, size_t size, size_t newsize);
// Memory that the library takes into its hands: forbidden ground from now on.
mi_hidden void _mi_track_hide(void* start, size_t size);
// Memory of the library that the program may read from now on: the name of a heap.
mi_hidden void _mi_track_show(void* start, size_t size);
// Memory whose blocks may hold the only pointers to what the program's other allocators returned.
mi_hidden void _mi_track_root(void* start, size_t size);
// Around a callback of the program.
mi_hidden unsigned _mi_track_leave(void);
mi_hidden void _mi_track_return(unsigned depth);
// Does the program run under the tool at all? Only valgrind can be absent.
mi_hidden bool _mi_track_is_active(void);
#else
static inline void _mi_track_alloc(void* p, size_t size, bool zero) { (void)p, (void)size, (void)zero; }
static inline void _mi_track_free(void* p, size_t size) { (void)p, (void)size; }
static inline void _mi_track_free_invalid(void* p) { (void)p; }
static inline void _mi_track_resize(void* p, size_t size, size_t newsize) { (void)p, (void)size, (void)newsize; }
static inline void _mi_track_hide(void* start, size_t size) { (void)start, (void)size; }
static inline void _mi_track_show(void* start, size_t size) { (void)start, (void)size; }
static inline void _mi_track_root(void* start, size_t size) { (void)start, (void)size; }
static inline unsigned _mi_track_leave(void) { return 0; }
static inline void _mi_track_return(unsigned depth) { (void)depth; }
static inline bool _mi_track_is_active(void) { return false; }
#endif

// A call of a function of the program.
#define MI_CALL_USER(call)                            \
  do {                                                \
    const unsigned mi_call_depth = _mi_track_leave(); \
    call;                                             \
    _mi_track_return(mi_call_depth);                  \
  } while (0)

#endif
