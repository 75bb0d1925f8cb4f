// Who called: return addresses, taken by frame pointers. See trace.c.
#pragma once
#ifndef MI_INTERNAL_TRACE_H
#define MI_INTERNAL_TRACE_H

#include "mi/internal/types.h"

#define MI_TRACE_FRAMES 14

typedef struct mi_trace_s {
  uint32_t thread;  // the kernel's id
  uint32_t count;
  void* frames[MI_TRACE_FRAMES];  // the innermost first
} mi_trace_t;

// The frame of the function that this is used in. It keeps a frame pointer then, whatever the compiler's flags.
#define MI_FRAME __builtin_frame_address(0)
// Makes a function keep one that stands between the program and an allocation.
#define MI_KEEP_FRAME() __asm__ volatile("" : : "r"(MI_FRAME))

// The callers of the function with this frame.
mi_hidden void _mi_trace_take(mi_trace_t* trace, const void* frame);
// In a signal handler: the instruction at `pc`, and the callers by the frame pointer `frame` of that moment.
mi_hidden void _mi_trace_take_at(mi_trace_t* trace, void* pc, const void* frame);

// Writes a text without a line's end. Its argument: is it called in a signal handler?
typedef void mi_trace_out_fun(const char* text, bool in_handler);
// A line for each frame, with the file it is in and the offset there. Safe in signal handlers if `out` is.
mi_hidden void _mi_trace_print(const mi_trace_t* trace, mi_trace_out_fun* out, bool in_handler);

// A line of text, put together without the C library's formatting, which signal handlers must not use.
typedef struct mi_line_s {
  size_t length;
  char text[480];
} mi_line_t;
mi_hidden void _mi_line_add(mi_line_t* line, const char* text);
mi_hidden void _mi_line_add_number(mi_line_t* line, uint64_t n);
mi_hidden void _mi_line_add_hex(mi_line_t* line, uint64_t n);

#endif
