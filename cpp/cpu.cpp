// Which CPU levels this machine can run. Compiled without any architecture flag.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using Names = std::vector<std::string>;

// The only table of levels, best first, each with every feature it needs: the levels of the x86-64 psABI, and the
// third and fourth with 8-bit dot products; ARM's with those. CMakeLists.txt compiles each with the flags that allow
// the compiler these features.
const std::vector<std::pair<std::string, Names>>& table() {
    static const Names v2{"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"};
    static const auto with = [](Names base, const Names& more) {
        base.insert(base.end(), more.begin(), more.end());
        return base;
    };
    static const Names v3 = with(v2, {"avx", "avx2", "fma", "bmi", "bmi2"});
    static const Names v4 = with(v3, {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"});
    static const std::vector<std::pair<std::string, Names>> levels{
        {"x86_64_v4_vnni", with(v4, {"avx512vnni"})},
        {"x86_64_v4", v4},
#if defined(SPARSE_SAE_VNNI_AS_EVEX)
        {"x86_64_v3_vnni", with(v3, {"avx512vl", "avx512vnni"})},
#else
        {"x86_64_v3_vnni", with(v3, {"avxvnni"})},
#endif
        {"x86_64_v3", v3},
        {"x86_64_v2", v2},
        {"aarch64_dotprod", {"asimddp"}},
        {"generic", {}},
    };
    return levels;
}

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers, which reading CPUID
// alone would not tell. It takes literals only: a feature that the table names must be asked for here.
std::set<std::string> features() {
    std::set<std::string> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
#define ASK(feature) \
    if (__builtin_cpu_supports(feature)) found.insert(feature)
    ASK("sse3");
    ASK("ssse3");
    ASK("sse4.1");
    ASK("sse4.2");
    ASK("popcnt");
    ASK("avx");
    ASK("avx2");
    ASK("fma");
    ASK("bmi");
    ASK("bmi2");
    ASK("avx512f");
    ASK("avx512bw");
    ASK("avx512cd");
    ASK("avx512dq");
    ASK("avx512vl");
    ASK("avx512vnni");
#undef ASK
    // Compilers differ in whether they know this name. It needs no other state of the operating system than AVX2 does.
    unsigned most, also, b, c, d;
    if (found.count("avx2") && __get_cpuid_count(7, 0, &most, &b, &c, &d) && most >= 1 &&
        __get_cpuid_count(7, 1, &also, &b, &c, &d) && (also >> 4 & 1))
        found.insert("avxvnni");
#elif defined(__aarch64__) && defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.insert("asimddp");
#endif
    return found;
}

Names levels(const std::optional<std::set<std::string>>& given) {
    const std::set<std::string> has = given ? *given : features();
    Names names;
    for (const auto& [name, needs] : table()) {
        bool all = true;
        for (const std::string& feature : needs) all = all && has.count(feature) > 0;
        if (all) names.push_back(name);
    }
    return names;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Names the CPU levels that may be loaded here, best first.";
    m.def("features", &features, "The features of this CPU among those that levels need.");
    m.def("levels", &levels, pybind11::arg("features") = pybind11::none(),
          "Levels that a CPU with these features (default: this one) can run, best first.");
    m.def("needs", &table, "Every level, best first, with the features it needs.");
}
