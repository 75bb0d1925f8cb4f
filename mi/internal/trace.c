// Who called: the return addresses on a thread's stack, and how they are shown. For guarded blocks (guard.c), which
// remember where they were allocated and freed, and for the report of a fault (fault.c); so everything here is safe in
// a signal handler, takes no lock and allocates nothing.
//
// A trace follows frame pointers. What was compiled without them (-fomit-frame-pointer, most compilers' default when
// they optimise) ends it: the word that is taken for a frame pointer is anything then. The innermost frame is right all
// the same, since the library keeps frame pointers itself where a trace begins. No word is followed that does not lead
// up the stack to memory that can be read: of that the kernel is asked, once for each page of a thread's stack.
#define _GNU_SOURCE
#include "mi/internal/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mi/internal/core.h"
#include "mi/internal/os.h"

#define FRAME_SIZE_MAX ((uintptr_t)1024 * 1024)
#define KERNEL_THREAD_MASK ((1u << 22) - 1)

// --- taking -------------------------------------------------------------------------------------------------------

// Can the page be read? The kernel copies the signal set before it looks at what is to be done with it.
static bool page_is_readable(uintptr_t page) {
  const int saved = errno;
  const bool readable = (syscall(SYS_rt_sigprocmask, -1, page, NULL, (size_t)8) != 0 && errno != EFAULT);
  errno = saved;
  return readable;
}

// `known` are pages of the stack that were asked for before: what lies above a thread's frame stays while it is there.
static bool known_page(mi_stack_range_t* known, uintptr_t page) {
  if (page >= known->low && page < known->high) return true;
  if (!page_is_readable(page)) return false;
  if (page == known->high) {
    known->high += MI_OS_PAGE;
  } else {
    *known = (mi_stack_range_t){page, page + MI_OS_PAGE};
  }
  return true;
}

static bool frame_is_readable(mi_stack_range_t* known, uintptr_t frame) {
  const uintptr_t page = ~(MI_OS_PAGE - 1), last = frame + 2 * sizeof(void*) - 1;
  return known_page(known, frame & page) && known_page(known, last & page);
}

// A frame pointer leads to the caller's frame pointer, which the return address follows (x86-64 and AArch64).
__attribute__((no_sanitize("thread"), no_sanitize("address"))) static void follow(mi_trace_t* trace, uintptr_t frame,
                                                                                  mi_stack_range_t* known) {
  while (trace->count < MI_TRACE_FRAMES && frame % sizeof(void*) == 0 && frame >= MI_OS_PAGE &&
         frame_is_readable(known, frame)) {
    const uintptr_t* const words = (const uintptr_t*)frame;
    const uintptr_t caller = words[0], back = words[1];
    if (back < MI_OS_PAGE) return;
    trace->frames[trace->count++] = (void*)back;
    if (caller <= frame || caller - frame > FRAME_SIZE_MAX) return;
    frame = caller;
  }
}

static uint32_t thread_number(void) {
  mi_thread_t* const thread = _mi_tls.thread;
  const uint32_t known = (thread == NULL ? 0 : (uint32_t)mi_load_relaxed(&thread->kernel_thread) & KERNEL_THREAD_MASK);
  return (known != 0 ? known : _mi_os_thread_id());
}

void _mi_trace_take(mi_trace_t* trace, const void* frame) {
  trace->thread = thread_number();
  trace->count = 0;
  mi_thread_t* const thread = _mi_tls.thread;
  mi_stack_range_t unknown = {0, 0};
  if (frame != NULL) follow(trace, (uintptr_t)frame, thread == NULL ? &unknown : &thread->stack_known);
}

void _mi_trace_take_at(mi_trace_t* trace, void* pc, const void* frame) {
  trace->thread = _mi_os_thread_id();
  trace->count = 0;
  if (pc != NULL) trace->frames[trace->count++] = pc;
  mi_stack_range_t unknown = {0, 0};
  if (frame != NULL) follow(trace, (uintptr_t)frame, &unknown);
}

// --- lines --------------------------------------------------------------------------------------------------------

void _mi_line_add(mi_line_t* line, const char* text) {
  while (*text != 0 && line->length + 1 < sizeof(line->text)) line->text[line->length++] = *text++;
  line->text[line->length] = 0;
}

static void line_add_digits(mi_line_t* line, uint64_t n, unsigned base) {
  char digits[24];
  size_t at = sizeof(digits) - 1;
  digits[at] = 0;
  do {
    digits[--at] = "0123456789abcdef"[n % base];
    n /= base;
  } while (n != 0);
  _mi_line_add(line, &digits[at]);
}

void _mi_line_add_number(mi_line_t* line, uint64_t n) { line_add_digits(line, n, 10); }
void _mi_line_add_hex(mi_line_t* line, uint64_t n) {
  _mi_line_add(line, "0x");
  line_add_digits(line, n, 16);
}

// --- the file that an address lies in -------------------------------------------------------------------------------
// By /proc/self/maps, read with system calls alone: a line for each mapping, "START-END PERMS OFFSET DEVICE INODE
// PATH".

typedef struct maps_s {
  int file;
  size_t at, length;
  char text[256];
} maps_t;

static int maps_next(maps_t* maps) {  // the next character; -1: the end
  if (maps->at == maps->length) {
    const ssize_t n = read(maps->file, maps->text, sizeof(maps->text));
    if (n <= 0) return -1;
    maps->at = 0;
    maps->length = (size_t)n;
  }
  return (unsigned char)maps->text[maps->at++];
}

// A number up to a character that is none of its digits, which is returned.
static int maps_number(maps_t* maps, unsigned base, uint64_t* n) {
  *n = 0;
  for (;;) {
    const int c = maps_next(maps);
    const int digit = (c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16);
    if (digit >= (int)base) return c;
    *n = *n * base + (unsigned)digit;
  }
}

typedef struct mapping_s {
  uint64_t start, end, offset, inode;
  bool executable;
  char path[192];
} mapping_t;

static bool maps_read(maps_t* maps, mapping_t* m) {
  uint64_t device;
  if (maps_number(maps, 16, &m->start) != '-' || maps_number(maps, 16, &m->end) != ' ') return false;
  maps_next(maps), maps_next(maps);
  m->executable = (maps_next(maps) == 'x');
  maps_next(maps), maps_next(maps);
  maps_number(maps, 16, &m->offset);
  maps_number(maps, 16, &device), maps_number(maps, 16, &device);
  int c = maps_number(maps, 10, &m->inode);
  size_t length = 0;
  while (c == ' ') c = maps_next(maps);
  for (; c != '\n' && c != -1; c = maps_next(maps)) {
    if (length + 1 < sizeof(m->path)) m->path[length++] = (char)c;
  }
  m->path[length] = 0;
  return true;
}

// Is what is mapped at `start` an ELF file that was linked for that very address? Its addresses are the tools' then,
// and offsets elsewhere.
static bool is_at_fixed_address(uint64_t start) {
  if (!page_is_readable(start)) return false;
  const uint8_t* const head = (const uint8_t*)(uintptr_t)start;
  return memcmp(head, "\177ELF", 4) == 0 && head[16] == 2;
}

static void line_add_place(mi_line_t* line, uint64_t address) {
  maps_t maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
  if (maps.file < 0) return;
  mapping_t m;
  uint64_t base = 0, inode = 0;  // of the file whose mappings these are
  while (maps_read(&maps, &m)) {
    if (m.inode == 0 || m.inode != inode) base = m.start - m.offset;
    inode = m.inode;
    if (address < m.start || address >= m.end) continue;
    if (m.path[0] == 0) break;
    _mi_line_add(line, " ");
    _mi_line_add(line, m.path);
    _mi_line_add(line, "+");
    _mi_line_add_hex(line, is_at_fixed_address(base) ? address : address - base);
    break;
  }
  close(maps.file);
}

void _mi_trace_print(const mi_trace_t* trace, mi_trace_out_fun* out, bool in_handler) {
  const int saved = errno;
  for (uint32_t i = 0; i < trace->count && i < MI_TRACE_FRAMES; i++) {
    mi_line_t line = {0};
    _mi_line_add(&line, "mimalloc:     #");
    _mi_line_add_number(&line, i);
    _mi_line_add(&line, " ");
    _mi_line_add_hex(&line, (uintptr_t)trace->frames[i]);
    line_add_place(&line, (uintptr_t)trace->frames[i]);
    _mi_line_add(&line, "\n");
    out(line.text, in_handler);
  }
  errno = saved;
}
