/* What a delegate needs of TensorFlow Lite's C interface, declared anew.
 *
 * Field order and types follow tflite/core/c/common.h of LiteRT, which is Copyright 2019 The
 * TensorFlow Authors, under the Apache License, Version 2.0. That header says that the order is
 * "semi-ABI stable": new fields come last. Names here are ours where the header's have no meaning
 * to the linker; function pointers that a delegate of ours never calls are `void*`.
 */
#ifndef TESTS_TFLITE_ABI_H
#define TESTS_TFLITE_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STATUS_OK = 0, STATUS_ERROR = 1 };
enum { TYPE_FLOAT32 = 1 };
enum { OP_ADD = 0, OP_FULLY_CONNECTED = 9, OP_MUL = 18, OP_SUB = 41, OP_DELEGATE = 51 };

typedef struct {
  int size;
  int data[];
} IntArray;

typedef struct Delegate Delegate;
typedef struct Context Context;

typedef struct {
  int type;
  union {
    float* f;
    void* raw;
  } data;
  IntArray* dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  Delegate* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int type;
    void* params;
  } quantization;
  void* sparsity;
  const IntArray* dims_signature;
} Tensor;

typedef struct {
  IntArray* inputs;
  IntArray* outputs;
  IntArray* intermediates;
  IntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  Delegate* delegate;
  bool might_have_side_effect;
} Node;

typedef struct {
  void* (*init)(Context*, const char* buffer, size_t length);
  void (*free)(Context*, void* buffer);
  int (*prepare)(Context*, Node*);
  int (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*GetExecutionPlan)(Context*, IntArray** plan);
  Tensor* tensors;
  void* impl_;
  void* ResizeTensor;
  void (*ReportError)(Context*, const char* format, ...);
  void* AddTensors;
  int (*GetNodeAndRegistration)(Context*, int index, Node**, Registration**);
  int (*ReplaceNodeSubsetsWithDelegateKernels)(Context*, Registration, const IntArray* nodes,
                                               Delegate*);
  /* More follows that we never touch. */
};

struct Delegate {
  void* data_;
  int (*Prepare)(Context*, Delegate*);
  void* CopyFromBufferHandle;
  void* CopyToBufferHandle;
  void* FreeBufferHandle;
  int64_t flags;
  void* opaque_delegate_builder;
};

/* What a delegate's kernel is given as `buffer` of `init`. */
typedef struct {
  Delegate* delegate;
  IntArray* nodes_to_replace;
  IntArray* input_tensors;
  IntArray* output_tensors;
} DelegateParams;

#endif
