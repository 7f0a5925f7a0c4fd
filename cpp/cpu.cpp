// Which CPU levels this machine can run. Compiled without any architecture flag.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace {

// The levels of the x86-64 psABI, and the fourth with 8-bit dot products. __builtin_cpu_supports also asks the
// operating system whether it saves the wide registers, which reading CPUID alone would not tell.
std::vector<std::string> levels() {
    std::vector<std::string> names;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v2 =
        __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
    const bool v3 =
        v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512cd");
    if (v4 && __builtin_cpu_supports("avx512vnni")) names.push_back("x86_64_v4_vnni");
    if (v4) names.push_back("x86_64_v4");
    if (v3) names.push_back("x86_64_v3");
    if (v2) names.push_back("x86_64_v2");
#else
    names.push_back("generic");
#endif
    return names;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Names the CPU levels that may be loaded here, best first.";
    m.def("levels", &levels);
}
