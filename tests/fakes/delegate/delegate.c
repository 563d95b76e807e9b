/* A TensorFlow Lite external delegate that really computes: float ADD, SUB, MUL, FULLY_CONNECTED.
 *
 * The option `flavour` says what is wrong with it:
 *   correct       nothing
 *   wrong         what FULLY_CONNECTED makes is off by a half, up and down in turn
 *   crash         SIGSEGV when it first computes
 *   crash-load    SIGSEGV when it is created
 *   crash-late    SIGSEGV when it computes for the time that the option `after` gives
 *   abort         abort() when it is handed its nodes
 *   hang          computes for ever
 *   half          takes every other node that it could
 *   none          takes no node
 *   refuse        cannot be created
 *   leak          forgets 64 KiB each time that it computes
 *   grab          takes 8 GiB, and touches them, when it is created
 * The option `switch` names a file whose first word is the flavour instead, while there is one: so
 * a device's driver can change under a running agent.
 */
#include "tflite_abi.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RANK 8
#define EXPORT __attribute__((visibility("default")))

typedef struct {
  char flavour[32];
  long after;
  long computed;
} Chip;

typedef struct {
  int code;
  int inputs[3];
  int output;
} Step;

/* A tensor that lives between two of our own nodes has no memory but ours. */
typedef struct {
  int tensor;
  float* data;
} Inner;

typedef struct {
  Chip* chip;
  int steps_size;
  Step* steps;
  int inner_size;
  Inner* inner;
} Kernel;

static bool is(const Chip* chip, const char* flavour) {
  return strcmp(chip->flavour, flavour) == 0;
}

static void crash(void) {
  volatile int* nowhere = NULL;
  *nowhere = 1;
}

static bool is_float(const Context* context, int tensor) {
  return tensor >= 0 && context->tensors[tensor].type == TYPE_FLOAT32 &&
         context->tensors[tensor].dims->size <= MAX_RANK;
}

static bool can_run(const Context* context, const Node* node, const Registration* registration) {
  int code = registration->builtin_code;
  bool known = code == OP_ADD || code == OP_SUB || code == OP_MUL || code == OP_FULLY_CONNECTED;
  /* The fused activation comes first in the parameters of each of them; 0 is none. */
  if (!known || (node->builtin_data && *(const int*)node->builtin_data != 0)) return false;
  for (int i = 0; i < 2; i++) {
    if (!is_float(context, node->inputs->data[i])) return false;
  }
  return is_float(context, node->outputs->data[0]);
}

static size_t count(const IntArray* dims) {
  size_t product = 1;
  for (int i = 0; i < dims->size; i++) product *= (size_t)dims->data[i];
  return product;
}

static float* data_of(const Context* context, const Kernel* kernel, int tensor) {
  for (int i = 0; i < kernel->inner_size; i++) {
    if (kernel->inner[i].tensor == tensor) return kernel->inner[i].data;
  }
  return context->tensors[tensor].data.f;
}

/* Elements to go on by for one step along each axis of `out`; 0 where `in` is repeated. */
static void strides(const IntArray* in, const IntArray* out, size_t* found) {
  size_t step = 1;
  for (int axis = out->size - 1; axis >= 0; axis--) {
    int at = axis - (out->size - in->size);
    int size = at >= 0 ? in->data[at] : 1;
    found[axis] = size == 1 ? 0 : step;
    step *= (size_t)size;
  }
}

static void elementwise(const Context* context, const Kernel* kernel, const Step* step) {
  const IntArray* shape = context->tensors[step->output].dims;
  const float* a = data_of(context, kernel, step->inputs[0]);
  const float* b = data_of(context, kernel, step->inputs[1]);
  float* out = data_of(context, kernel, step->output);
  size_t by_a[MAX_RANK], by_b[MAX_RANK];
  strides(context->tensors[step->inputs[0]].dims, shape, by_a);
  strides(context->tensors[step->inputs[1]].dims, shape, by_b);
  size_t size = count(shape);
  for (size_t i = 0; i < size; i++) {
    size_t rest = i, at_a = 0, at_b = 0;
    for (int axis = shape->size - 1; axis >= 0; axis--) {
      size_t index = rest % (size_t)shape->data[axis];
      rest /= (size_t)shape->data[axis];
      at_a += index * by_a[axis];
      at_b += index * by_b[axis];
    }
    float x = a[at_a], y = b[at_b];
    out[i] = step->code == OP_ADD ? x + y : step->code == OP_SUB ? x - y : x * y;
  }
}

static void fully_connected(const Context* context, const Kernel* kernel, const Step* step) {
  const IntArray* shape = context->tensors[step->inputs[1]].dims;
  size_t outputs = (size_t)shape->data[0], inputs = (size_t)shape->data[1];
  size_t rows = count(context->tensors[step->inputs[0]].dims) / inputs;
  const float* in = data_of(context, kernel, step->inputs[0]);
  const float* weights = data_of(context, kernel, step->inputs[1]);
  const float* bias = step->inputs[2] < 0 ? NULL : data_of(context, kernel, step->inputs[2]);
  float* out = data_of(context, kernel, step->output);
  for (size_t row = 0; row < rows; row++) {
    for (size_t o = 0; o < outputs; o++) {
      float sum = bias ? bias[o] : 0.0f;
      for (size_t i = 0; i < inputs; i++) sum += in[row * inputs + i] * weights[o * inputs + i];
      out[row * outputs + o] = sum;
    }
  }
}

static int kernel_invoke(Context* context, Node* node) {
  Kernel* kernel = node->user_data;
  Chip* chip = kernel->chip;
  if (is(chip, "crash")) crash();
  if (is(chip, "crash-late") && ++chip->computed > chip->after) crash();
  if (is(chip, "hang")) {
    for (;;) pause();
  }
  if (is(chip, "leak")) {
    char* lost = malloc(64 << 10);
    memset(lost, 1, 64 << 10);
  }
  for (int i = 0; i < kernel->steps_size; i++) {
    const Step* step = &kernel->steps[i];
    if (step->code == OP_FULLY_CONNECTED) {
      fully_connected(context, kernel, step);
    } else {
      elementwise(context, kernel, step);
    }
    if (is(chip, "wrong") && step->code == OP_FULLY_CONNECTED) {
      float* out = data_of(context, kernel, step->output);
      size_t size = count(context->tensors[step->output].dims);
      for (size_t at = 0; at < size; at++) out[at] += at % 2 ? 0.5f : -0.5f;
    }
  }
  return STATUS_OK;
}

static int kernel_prepare(Context* context, Node* node) {
  Kernel* kernel = node->user_data;
  for (int i = 0; i < kernel->inner_size; i++) {
    Inner* inner = &kernel->inner[i];
    inner->data = realloc(inner->data, count(context->tensors[inner->tensor].dims) * sizeof(float));
    if (!inner->data) return STATUS_ERROR;
  }
  return STATUS_OK;
}

static bool holds(const IntArray* array, int value) {
  for (int i = 0; i < array->size; i++) {
    if (array->data[i] == value) return true;
  }
  return false;
}

static void* kernel_init(Context* context, const char* buffer, size_t length) {
  (void)length;
  const DelegateParams* params = (const DelegateParams*)buffer;
  Kernel* kernel = calloc(1, sizeof *kernel);
  kernel->chip = params->delegate->data_;
  kernel->steps_size = params->nodes_to_replace->size;
  kernel->steps = calloc((size_t)kernel->steps_size, sizeof *kernel->steps);
  kernel->inner = calloc((size_t)kernel->steps_size, sizeof *kernel->inner);
  for (int i = 0; i < kernel->steps_size; i++) {
    Node* node;
    Registration* registration;
    context->GetNodeAndRegistration(context, params->nodes_to_replace->data[i], &node,
                                    &registration);
    Step* step = &kernel->steps[i];
    step->code = registration->builtin_code;
    for (int at = 0; at < 3; at++) {
      step->inputs[at] = at < node->inputs->size ? node->inputs->data[at] : -1;
    }
    step->output = node->outputs->data[0];
    if (!holds(params->output_tensors, step->output)) {
      kernel->inner[kernel->inner_size++].tensor = step->output;
    }
  }
  return kernel;
}

static void kernel_free(Context* context, void* buffer) {
  (void)context;
  Kernel* kernel = buffer;
  for (int i = 0; i < kernel->inner_size; i++) free(kernel->inner[i].data);
  free(kernel->inner);
  free(kernel->steps);
  free(kernel);
}

static int delegate_prepare(Context* context, Delegate* delegate) {
  Chip* chip = delegate->data_;
  if (is(chip, "abort")) abort();
  IntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != STATUS_OK) return STATUS_ERROR;
  size_t room = sizeof(IntArray) + sizeof(int) * (size_t)plan->size;
  IntArray* all = malloc(room);
  memcpy(all, plan, room);
  IntArray* mine = malloc(room);
  mine->size = 0;
  int could = 0;
  for (int i = 0; i < all->size; i++) {
    Node* node;
    Registration* registration;
    if (context->GetNodeAndRegistration(context, all->data[i], &node, &registration) != STATUS_OK) {
      return STATUS_ERROR;
    }
    if (!can_run(context, node, registration) || is(chip, "none")) continue;
    if (is(chip, "half") && could++ % 2) continue;
    mine->data[mine->size++] = all->data[i];
  }
  Registration kernel = {0};
  kernel.init = kernel_init;
  kernel.free = kernel_free;
  kernel.prepare = kernel_prepare;
  kernel.invoke = kernel_invoke;
  kernel.builtin_code = OP_DELEGATE;
  kernel.custom_name = "TestDelegate";
  kernel.version = 1;
  int status = mine->size ? context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, mine,
                                                                           delegate)
                          : STATUS_OK;
  free(mine);
  free(all);
  return status;
}

static void read_switch(const char* path, Chip* chip) {
  FILE* file = fopen(path, "r");
  if (!file) return;
  if (fscanf(file, "%31s", chip->flavour) != 1) strcpy(chip->flavour, "correct");
  fclose(file);
}

EXPORT Delegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values,
                                               size_t size, void (*report)(const char*)) {
  Chip* chip = calloc(1, sizeof *chip);
  strcpy(chip->flavour, "correct");
  for (size_t i = 0; i < size; i++) {
    if (!strcmp(keys[i], "flavour")) {
      snprintf(chip->flavour, sizeof chip->flavour, "%s", values[i]);
    } else if (!strcmp(keys[i], "switch")) {
      read_switch(values[i], chip);
    } else if (!strcmp(keys[i], "after")) {
      chip->after = atol(values[i]);
    } else {
      report("the option is not known");
      free(chip);
      return NULL;
    }
  }
  if (is(chip, "crash-load")) crash();
  if (is(chip, "refuse")) {
    report("the chip does not answer");
    free(chip);
    return NULL;
  }
  if (is(chip, "grab")) {
    for (int i = 0; i < 8192; i++) memset(malloc(1 << 20), 1, 1 << 20);
  }
  Delegate* delegate = calloc(1, sizeof *delegate);
  delegate->data_ = chip;
  delegate->Prepare = delegate_prepare;
  return delegate;
}

EXPORT void tflite_plugin_destroy_delegate(Delegate* delegate) {
  if (!delegate) return; /* LiteRT destroys what it could not create. */
  free(delegate->data_);
  free(delegate);
}
