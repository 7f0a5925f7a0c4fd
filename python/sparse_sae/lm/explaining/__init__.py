"""Which latents made the model say this, and which tokens a latent promotes."""

from sparse_sae.lm._extra import require_extra

require_extra()
