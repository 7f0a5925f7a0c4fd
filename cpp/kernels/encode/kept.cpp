#include "kernels/encode/kept.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernels/encode/screen/byte_copy.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/byte_product.h"

namespace sparse_sae {
namespace {

using Place = std::tuple<const float*, int64_t, int64_t>;
std::mutex copies_mutex;
std::map<Place, std::weak_ptr<const ByteCopy>>& copies() {
    static std::map<Place, std::weak_ptr<const ByteCopy>> all;
    return all;
}

}  // namespace

std::shared_ptr<const ByteCopy> keep_copy(const Rows<float>& rows, const Dictionary<float>& dict, int num_threads) {
    if (dict.D > kByteInputs)
        throw std::invalid_argument("w: " + std::to_string(dict.D) + " inputs, expected at most " +
                                    std::to_string(kByteInputs) + " for sums of 32 bits");
    auto copy = std::make_shared<const ByteCopy>(rows, dict, num_threads);
    const std::lock_guard<std::mutex> lock(copies_mutex);
    for (auto at = copies().begin(); at != copies().end();) at = at->second.expired() ? copies().erase(at) : ++at;
    copies()[{dict.w, dict.M, dict.D}] = copy;
    return copy;
}

std::shared_ptr<const ByteCopy> kept_copy(const float* w, int64_t M, int64_t D) {
    const std::lock_guard<std::mutex> lock(copies_mutex);
    const auto found = copies().find({w, M, D});
    return found == copies().end() ? nullptr : found->second.lock();
}

int64_t kept_bytes(const ByteCopy& kept) { return kept.memory(); }

bool has_fast_bytes() { return kFastBytes; }

bool has_amx() { return has_fast_tiles(); }

}  // namespace sparse_sae
