#include "kernels/parallel.h"

#include <exception>
#include <mutex>

namespace sparse_sae {

void parallel_for(int64_t n_tasks, int num_threads, const std::function<void(int64_t)>& task) {
    if (num_threads <= 1 || n_tasks <= 1) {
        for (int64_t i = 0; i < n_tasks; ++i) task(i);
        return;
    }
    if (num_threads > n_tasks) num_threads = static_cast<int>(n_tasks);
    std::exception_ptr failure;
    std::mutex guard;
    // An exception must not leave an OpenMP region: that would end the process.
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
    for (int64_t i = 0; i < n_tasks; ++i) {
        try {
            task(i);
        } catch (...) {
            std::lock_guard<std::mutex> lock(guard);
            if (!failure) failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

}  // namespace sparse_sae
