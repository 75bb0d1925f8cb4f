// The build options: which macros there are, what they may be, and what follows from them. Every file of the library
// comes by here first, so that a value or a combination that nobody meant ends the build with a sentence. From Bazel
// they are set by `--define NAME=VALUE` (bazel/options.bzl, which makes the same checks).
//
//   MI_DEBUG            0..3    1: internal assertions, and errors are printed; 2: free lists are looked through when a
//                               page is collected; 3: and those of the first pages at every slow path
//   MI_PADDING          0, 1    checked padding behind every block: overflow and double free are reported
//   MI_GUARDED          0, 1    a sample of all blocks lies between inaccessible pages (mi/heap/guarded.c)
//   MI_TRACK_VALGRIND   0, 1    memcheck is told of every block (mi/internal/track.h)
//   MI_TRACK_ASAN       0, 1    AddressSanitizer is told of every block
//   MI_TRACK_TSAN       0, 1    the library is compiled with ThreadSanitizer
//   MI_XMALLOC          0, 1    running out of memory ends the process with a message
//   MI_MIN_ALIGN        8, 16   what blocks of 16 bytes and more are aligned to
//   MI_SECURE           0..4    the secure build: every heap is checked as a hardened one is, 1: block states out of
//                               line, every free checked, blocks in random order, random addresses; 2: guard pages
//                               behind each segment's metadata and behind large blocks; 3: and behind every page; 4:
//                               and what lies behind each block's last byte is checked, where its class has room
#pragma once
#ifndef MI_INTERNAL_CONFIG_H
#define MI_INTERNAL_CONFIG_H

#ifndef MI_DEBUG
#define MI_DEBUG 0
#endif
#ifndef MI_PADDING
#define MI_PADDING 0
#endif
#ifndef MI_GUARDED
#define MI_GUARDED 0
#endif
#ifndef MI_TRACK_VALGRIND
#define MI_TRACK_VALGRIND 0
#endif
#ifndef MI_TRACK_ASAN
#define MI_TRACK_ASAN 0
#endif
#ifndef MI_TRACK_TSAN
#define MI_TRACK_TSAN 0
#endif
#ifndef MI_XMALLOC
#define MI_XMALLOC 0
#endif
#ifndef MI_MIN_ALIGN
#define MI_MIN_ALIGN 16
#endif
#ifndef MI_SECURE
#define MI_SECURE 0
#endif

// A word that is no number counts as 0 for the preprocessor: -DMI_PADDING=ON would switch it off. So the value is
// pasted to a name, and only the names below exist.
#define MI_VALUE_0 1
#define MI_VALUE_1 1
#define MI_VALUE_2 2
#define MI_VALUE_3 2
#define MI_VALUE_8 8
#define MI_VALUE_16 8
#define MI_VALUE_PASTE(value) MI_VALUE_##value
#define MI_VALUE(value) MI_VALUE_PASTE(value)

#if MI_VALUE(MI_DEBUG) != 1 && MI_VALUE(MI_DEBUG) != 2
#error "MI_DEBUG must be 0, 1, 2 or 3"
#endif
#if MI_VALUE(MI_PADDING) != 1
#error "MI_PADDING must be 0 or 1"
#endif
#if MI_VALUE(MI_GUARDED) != 1
#error "MI_GUARDED must be 0 or 1"
#endif
#if MI_VALUE(MI_TRACK_VALGRIND) != 1
#error "MI_TRACK_VALGRIND must be 0 or 1"
#endif
#if MI_VALUE(MI_TRACK_ASAN) != 1
#error "MI_TRACK_ASAN must be 0 or 1"
#endif
#if MI_VALUE(MI_TRACK_TSAN) != 1
#error "MI_TRACK_TSAN must be 0 or 1"
#endif
#if MI_VALUE(MI_XMALLOC) != 1
#error "MI_XMALLOC must be 0 or 1"
#endif
#if MI_VALUE(MI_MIN_ALIGN) != 8
#error "MI_MIN_ALIGN must be 8 or 16"
#endif
#define MI_LEVEL_0 1
#define MI_LEVEL_1 1
#define MI_LEVEL_2 1
#define MI_LEVEL_3 1
#define MI_LEVEL_4 1
#define MI_LEVEL_PASTE(value) MI_LEVEL_##value
#define MI_LEVEL(value) MI_LEVEL_PASTE(value)
#if MI_LEVEL(MI_SECURE) != 1
#error "MI_SECURE must be 0, 1, 2, 3 or 4"
#endif
#if MI_SECURE && (MI_PADDING || MI_GUARDED || MI_TRACK_VALGRIND || MI_TRACK_ASAN)
#error "MI_SECURE does not go with MI_PADDING, MI_GUARDED, MI_TRACK_VALGRIND or MI_TRACK_ASAN: it has checks of its own"
#endif

#if MI_TRACK_VALGRIND + MI_TRACK_ASAN + MI_TRACK_TSAN > 1
#error "MI_TRACK_VALGRIND, MI_TRACK_ASAN and MI_TRACK_TSAN exclude each other: a program runs under one tool at a time"
#endif
#if MI_GUARDED && (MI_TRACK_VALGRIND || MI_TRACK_ASAN)
#error "MI_GUARDED does not go with MI_TRACK_VALGRIND or MI_TRACK_ASAN: the tool sees every block already"
#endif

// Is the library itself instrumented by a sanitizer?
#if defined(__SANITIZE_THREAD__)
#define MI_WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MI_WITH_TSAN 1
#endif
#endif
#ifndef MI_WITH_TSAN
#define MI_WITH_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#define MI_WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MI_WITH_ASAN 1
#endif
#endif
#ifndef MI_WITH_ASAN
#define MI_WITH_ASAN 0
#endif

#if MI_TRACK_TSAN && !MI_WITH_TSAN
#error "MI_TRACK_TSAN needs -fsanitize=thread for the library: ThreadSanitizer must see its atomic operations"
#endif
#if MI_TRACK_ASAN && MI_WITH_ASAN
#error "MI_TRACK_ASAN needs -fno-sanitize=address for the library: it touches free blocks itself"
#endif

#if MI_TRACK_ASAN
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")  // no loop becomes a call of the sanitizer's memset
#endif
#include <string.h>
void* memset(void* to, int value, size_t size) __asm__("_mi_plain_memset");  // track.c
void* memcpy(void* restrict to, const void* restrict from, size_t size) __asm__("_mi_plain_memcpy");
#endif

// Every block ends with a tail that says what was asked for (mi/heap/checked.c).
#define MI_TAIL (MI_PADDING || MI_TRACK_VALGRIND || MI_TRACK_ASAN)
#define MI_TAIL_SIZE 16
// Every allocation and every free comes by mi/heap/checked.c: the fast paths find nothing, and end in the slow ones.
#define MI_CHECKED MI_TAIL

#endif
