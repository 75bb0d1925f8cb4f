#!/usr/bin/env bash
# A plugin opened with RTLD_DEEPBIND, with the library preloaded: it must have the program's malloc, and be found where
# the program's RUNPATH says although the library stands between the program and the loader.
source tests/programs/preloaded.sh "$@"
requires gcc

cat > "$scratch/plugin.c" << 'END'
#include <stdlib.h>
#include <string.h>
char* exchange(char* text) {
  char* answer = strdup("from the plugin");
  free(text);
  return answer;
}
END
cat > "$scratch/program.c" << 'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
  void* plugin = dlopen("libplugin.so", RTLD_NOW | RTLD_DEEPBIND);
  if (plugin == NULL) return puts(dlerror()), 1;
  char* (*exchange)(char*) = (char* (*)(char*))dlsym(plugin, "exchange");
  for (int i = 0; i < 1000; i++) {
    char* text = malloc(10 + i);
    memset(text, 'x', 10 + i);
    text = exchange(text);
    if (i == 999) puts(text);
    free(text);
  }
  dlclose(plugin);
  if (dlopen("libnothing.so", RTLD_LAZY | RTLD_DEEPBIND) != NULL) return 2;
  puts(dlerror());
  return 0;
}
END
mkdir "$scratch/plugins"
gcc -O2 -shared -fPIC "$scratch/plugin.c" -o "$scratch/plugins/libplugin.so"
gcc -O2 "$scratch/program.c" -o "$scratch/program" '-Wl,--enable-new-dtags,-rpath,$ORIGIN/plugins'
same plugin "$scratch/program"
seen program "$runs"
