// Text that is written into a buffer of the caller's, and measured beyond its end. Nothing here allocates.
#pragma once
#ifndef MI_TEXT_H
#define MI_TEXT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

typedef struct mi_text_s {
  char* buf;
  size_t size;
  size_t length;  // of the whole text, also of what did not fit
} mi_text_t;

static inline __attribute__((format(printf, 2, 3))) void mi_text_append(mi_text_t* text, const char* format, ...) {
  const size_t room = (text->length < text->size ? text->size - text->length : 0);
  va_list args;
  va_start(args, format);
  const int n = vsnprintf(room > 0 ? text->buf + text->length : NULL, room, format, args);
  va_end(args);
  if (n > 0) text->length += (size_t)n;
}

#endif
