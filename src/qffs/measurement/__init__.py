"""What networks do on images: accuracy by step, the four noises, and what an inference costs."""
