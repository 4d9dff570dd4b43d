/* Runs early-exit bundles: the C interface of the native runner.
 *
 * A bundle is opened once and may be shared by threads. A runner runs it, for one thread at a time; any number of
 * runners share a bundle's sessions. Texts are UTF-8 and end with NUL. Handles may be freed in any order.
 *
 * Whoever calls zeroes a struct, sets its `size` to `sizeof`, and then sets what it wants: 0 is the default of every
 * field, so that later versions can add fields behind the last.
 */
#ifndef EETOOLKIT_H
#define EETOOLKIT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EE_API __declspec(dllexport)
#else
#define EE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EE_API_VERSION 1

/* The EE_API_VERSION of the library that is loaded. */
EE_API int32_t ee_version(void);

/* Errors: what every function that can fail returns. The names are those of the Python runtime. */
typedef int32_t ee_code;
enum {
  EE_OK = 0,
  EE_BUNDLE_ERROR = 1,    /* a bundle that cannot be used */
  EE_MANIFEST_ERROR = 2,  /* its plan is wrong */
  EE_INTEGRITY_ERROR = 3, /* its files are missing, changed or cannot be loaded */
  EE_RUN_ERROR = 4,       /* a run that failed, or a setting that cannot be had */
  EE_INPUT_ERROR = 5,     /* an input, exit, threshold or deadline that the bundle does not take */
  EE_DEADLINE_ERROR = 6,  /* no answer existed when time was up or the run was interrupted */
  EE_PROVIDER_ERROR = 7   /* onnxruntime cannot use an execution provider that was asked for */
};

/* `ManifestError` and so on; `OK` for EE_OK. */
EE_API const char *ee_code_name(ee_code code);

/* What went wrong in the last call that it was passed to. Every function takes NULL in its place. */
typedef struct ee_error ee_error;
EE_API ee_error *ee_error_new(void);
EE_API void ee_error_free(ee_error *error);
EE_API ee_code ee_error_code(const ee_error *error);
/* One line that a terminal may show: what, where, got, expected, and the fix. */
EE_API const char *ee_error_text(const ee_error *error);

/* Element types. */
typedef int32_t ee_dtype;
enum {
  EE_FLOAT32 = 0,
  EE_FLOAT64 = 1,
  EE_FLOAT16 = 2,
  EE_INT64 = 3,
  EE_INT32 = 4,
  EE_INT16 = 5,
  EE_INT8 = 6,
  EE_UINT64 = 7,
  EE_UINT32 = 8,
  EE_UINT16 = 9,
  EE_UINT8 = 10,
  EE_BOOL = 11 /* a byte, 0 or 1 */
};

/* `float32` and so on; NULL for what is none. */
EE_API const char *ee_dtype_name(ee_dtype dtype);
/* 0 for what is none. */
EE_API size_t ee_dtype_bytes(ee_dtype dtype);

/* A tensor in C order. */
typedef struct ee_tensor {
  const char *name;
  const void *data;
  const int64_t *shape; /* outermost first; not read where `rank` is 0 */
  size_t rank;
  size_t size_bytes;
  ee_dtype dtype;
} ee_tensor;

/* Opening. */
enum { EE_CHECK_QUICK = 0, EE_CHECK_FULL = 1 };
enum { EE_SPIN_BRIEF = 0, EE_SPIN_ALWAYS = 1, EE_SPIN_NEVER = 2 };
enum { EE_POOL_OWN = 0, EE_POOL_SHARED = 1 };
enum { EE_LOAD_LAZY = 0, EE_LOAD_EAGER = 1 };
enum { EE_FALLBACK_BUNDLE = 0, EE_FALLBACK_LAST = 1, EE_FALLBACK_MOST_CONFIDENT = 2 };

typedef struct ee_provider {
  const char *name;          /* as onnxruntime calls it, such as `QNN` or `XNNPACK` */
  const char *const *keys;   /* options, passed on as they are */
  const char *const *values;
  size_t option_count;
} ee_provider;

typedef struct ee_options {
  size_t size;
  const char *onnxruntime;   /* path of the library; NULL: $EETOOLKIT_ONNXRUNTIME, else as the system finds it */
  const void *ort_api_base;  /* an OrtApiBase that the host has; NULL: the library is opened */
  const ee_provider *providers; /* tried in this order, and the CPU behind them */
  size_t provider_count;
  int32_t check;             /* EE_CHECK_*: quick: every size and each graph's hash; full: every hash */
  int32_t threads;           /* workers for each operator; 0: one per physical core */
  int32_t spin;              /* EE_SPIN_*: what idle workers do: spin for 20 us and then sleep, spin, sleep */
  int32_t pool;              /* EE_POOL_*: a pool of workers per segment, or one per process, the fastest */
  int32_t load;              /* EE_LOAD_*: segments are opened when first reached, or all now */
  int32_t fallback;          /* EE_FALLBACK_*: which exit answers when none fired */
  int32_t no_arena;          /* 1: segments do not keep the memory of their intermediate tensors for the next call */
  int32_t no_prepack;        /* 1: all weights are read from the mapped files, slower and with less memory */
} ee_options;

typedef struct ee_bundle ee_bundle;

/* Opens a bundle's folder: its plan is proved and its files are checked. `options` may be NULL. */
EE_API ee_code ee_bundle_open(const char *folder, const ee_options *options, ee_bundle **bundle, ee_error *error);
EE_API void ee_bundle_free(ee_bundle *bundle);

/* What a bundle says of itself; all texts and tensors live as long as it. */
EE_API const char *ee_bundle_name(const ee_bundle *bundle);
/* manifest.json as it stands: labels, preprocessing and all else that a run does not need. */
EE_API const char *ee_bundle_manifest(const ee_bundle *bundle, size_t *length);
EE_API size_t ee_bundle_input_count(const ee_bundle *bundle);
/* An input, without data. A dimension is -1 where it is a symbol, as rows are. */
EE_API ee_tensor ee_bundle_input(const ee_bundle *bundle, size_t index);
EE_API size_t ee_bundle_exit_count(const ee_bundle *bundle);
/* Exits are in the order of the plan; NULL beyond the last. */
EE_API const char *ee_bundle_exit(const ee_bundle *bundle, size_t index);
/* What a confidence must reach; NaN where the exit never fires by itself, because it is off or ends the plan. */
EE_API double ee_bundle_exit_threshold(const ee_bundle *bundle, size_t index);
/* Segments with a model; NULL beyond the last. */
EE_API size_t ee_bundle_segment_count(const ee_bundle *bundle);
EE_API const char *ee_bundle_segment(const ee_bundle *bundle, size_t index);
EE_API size_t ee_bundle_label_count(const ee_bundle *bundle);
/* The name of a class; NULL where there is none. */
EE_API const char *ee_bundle_label(const ee_bundle *bundle, int64_t index);
/* Which onnxruntime runs it, such as `1.21.0`. */
EE_API const char *ee_bundle_onnxruntime(const ee_bundle *bundle);

/* Running. */
typedef struct ee_threshold {
  const char *exit;
  double confidence; /* what the exit's confidence must reach */
  int32_t never;     /* 1: the exit does not fire, and does not stand in for another */
} ee_threshold;

typedef struct ee_call {
  size_t size;
  const ee_tensor *inputs; /* one row, in any order, by name; copied */
  size_t input_count;
  const char *exit_at;     /* the exit that answers whatever the confidences; NULL: confidences decide */
  const ee_threshold *thresholds; /* other thresholds than the bundle's, for this call */
  size_t threshold_count;
  double deadline_ms;      /* from the beginning of the call; 0: none */
  int32_t interruptible;   /* 1: an interrupt gives the best answer by then, which is copied at every exit; 0: an error */
} ee_call;

enum { EE_STOPPED_BY_EXIT = 0, EE_STOPPED_BY_END = 1, EE_STOPPED_BY_DEADLINE = 2, EE_STOPPED_BY_INTERRUPT = 3 };

typedef struct ee_decision {
  const char *segment;
  int64_t decision; /* 1 or 0 of a gate, the case of a switch */
} ee_decision;

/* What a run says; all of it is valid until the next call on the same runner, or until that is freed. */
typedef struct ee_answer {
  size_t size;
  const char *exit;
  const ee_tensor *outputs;
  size_t output_count;
  const char *const *path; /* the segments with a model, in the order run */
  size_t path_count;
  const ee_decision *gates; /* the decisions met, in order */
  size_t gate_count;
  float confidence;
  int32_t stopped_by;  /* EE_STOPPED_BY_* */
  int64_t prediction;  /* the class that the outputs say; -1: none */
} ee_answer;

typedef struct ee_runner ee_runner;

EE_API ee_code ee_runner_new(const ee_bundle *bundle, ee_runner **runner, ee_error *error);
EE_API void ee_runner_free(ee_runner *runner);

/* Gives the answer of the first exit that fires. With a deadline or an interrupt, the best one finished by then. */
EE_API ee_code ee_run(ee_runner *runner, const ee_call *call, const ee_answer **answer, ee_error *error);

/* Is told of an answer, which is valid until it returns; 0 goes on, anything else stops the run. Neither throws nor
 * calls the runner that told it, but to interrupt it. */
typedef int32_t (*ee_on_answer)(void *user, const ee_answer *answer);

/* Tells the answers of one row as they get better, each as soon as its exit is reached; `answer` is the last of them. */
EE_API ee_code ee_refine(ee_runner *runner, const ee_call *call, ee_on_answer told, void *user,
                         const ee_answer **answer, ee_error *error);

/* Tells the answers of all exits that a row meets on its way to the end, none of them firing. */
EE_API ee_code ee_run_all_exits(ee_runner *runner, const ee_call *call, ee_on_answer told, void *user,
                                ee_error *error);

/* Is told of a segment that has run, with its milliseconds. */
typedef void (*ee_on_segment)(void *user, const char *segment, double latency_ms);

/* Has every later call tell of its segments; NULL: none does. */
EE_API void ee_runner_trace(ee_runner *runner, ee_on_segment told, void *user);

/* Stops the call that runs now, also in the middle of a segment, and later ones before they start; from any thread. */
EE_API void ee_runner_interrupt(ee_runner *runner);
/* Lets later calls start again. */
EE_API void ee_runner_clear(ee_runner *runner);

/* Compares the golden samples of a bundle with what this machine computes, every file's hash checked first.
 * `report` is text for people, valid until the next call for the bundle, or until that is freed; `passed` is 1 where
 * nothing failed. For one thread at a time. */
EE_API ee_code ee_verify(ee_bundle *bundle, int32_t *passed, const char **report, ee_error *error);

#ifdef __cplusplus
}
#endif

#endif
