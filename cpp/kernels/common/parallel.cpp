#include "kernels/common/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace sparse_sae {
namespace {

#ifdef SPARSE_SAE_STD_THREADS
// For the thread sanitizer, which does not understand OpenMP's barriers (cpp/tests).
template <class Task>
void run(int64_t n_tasks, int num_threads, Task task) {
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < num_threads; ++t)
        threads.emplace_back([&] {
            for (int64_t i = next++; i < n_tasks; i = next++) task(i);
        });
    for (auto& thread : threads) thread.join();
}
#else
template <class Task>
void run(int64_t n_tasks, [[maybe_unused]] int num_threads, Task task) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
    for (int64_t i = 0; i < n_tasks; ++i) task(i);
}
#endif

std::atomic<bool> forked{false};  // this process is the child of one that had loaded the kernels
#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

int most_threads() {
    static const int most = std::max(64, static_cast<int>(std::thread::hardware_concurrency()));
    return most;
}

}  // namespace

void parallel_for(int64_t n_tasks, int num_threads, const std::function<void(int64_t)>& task) {
    if (num_threads <= 1 || n_tasks <= 1 || forked) {
        for (int64_t i = 0; i < n_tasks; ++i) task(i);
        return;
    }
    num_threads = static_cast<int>(std::min<int64_t>({num_threads, n_tasks, most_threads()}));
    std::exception_ptr failure;
    std::mutex guard;
    // An exception must not leave a parallel region: that would end the process.
    run(n_tasks, num_threads, [&](int64_t i) {
        try {
            task(i);
        } catch (...) {
            std::lock_guard<std::mutex> lock(guard);
            if (!failure) failure = std::current_exception();
        }
    });
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
