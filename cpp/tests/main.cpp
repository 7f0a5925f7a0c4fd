#include "check.h"

int main() {
    sparse_sae::test::test_encode();
    sparse_sae::test::test_grad();
    std::cout << "all kernel tests passed\n";
}
