#include "check.h"

int main() {
    sparse_sae::test::test_encode();
    sparse_sae::test::test_gather();
    sparse_sae::test::test_grad();
    sparse_sae::test::test_pursuit();
    std::cout << "all kernel tests passed\n";
}
