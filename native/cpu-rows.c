/** Picks rows of a matrix. */
#include "cpu.h"
#include "kernel.h"

typedef struct TakeRows {
  const char *x;
  const int32_t *rows;
  char *y;
  int64_t count, cols, type;
} TakeRows;

/** y (count, cols) = the named rows of x. */
void KERNEL(take_rows)(const TakeRows *a) {
  int64_t bytes = a->cols * type_bytes(a->type);
  for (int64_t i = 0; i < a->count; i++) memcpy(a->y + i * bytes, a->x + a->rows[i] * bytes, bytes);
}
EXPORT_KERNEL(take_rows);
