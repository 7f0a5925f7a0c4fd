"""Numbers that say how good an SAE is, and the classic mistakes, found and named."""
