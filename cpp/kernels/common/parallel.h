// The only door to threads.
#pragma once

#include <functional>

#include "kernels/common/types.h"

namespace sparse_sae {

// Runs task(i) for i in [0, n_tasks), each exactly once, on up to num_threads threads.
// Kernels get bit-identical results for any number of threads by a single rule: how work is cut into tasks
// may depend on sizes, never on num_threads, and no two tasks write or accumulate into the same place.
// The first exception a task throws is rethrown here, after all threads have finished.
// More threads than the machine has, and more than 64, are not started: a runtime that cannot start them ends the
// process. After a fork the child runs everything on the calling thread: the threads that OpenMP counts on are the
// parent's, and the child would wait for them for ever.
void parallel_for(int64_t n_tasks, int num_threads, const std::function<void(int64_t)>& task);

// True when the kernels were compiled with OpenMP.
bool has_openmp();

}  // namespace sparse_sae
