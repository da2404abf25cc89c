"""The numbers behind the embedded model, apart from the code that trains it."""

from __future__ import annotations

ARCHITECTURE = {
    "vocab_size": 576,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
"""Of ``Qwen2Config``; heads of 32, which vLLM has kernels for."""

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL = (PAD, END, *(f"<|{role}|>" for role in ROLES))
"""The first token ids, in this order."""
NUMBERS = tuple(str(number) for number in range(10, 100))
"""The last token ids."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

SEED = 0
STEPS = {"tiny": 2800, "tiny_early": 1750}
"""Of pre-training: a second base model is the same one at an earlier stage, its learning rate brought down."""
BATCH = 16
LEARNING_RATE = 2e-3
WARMUP = 0.05
SHAPE = {"architectures": ["Qwen2ForCausalLM"], **ARCHITECTURE, "parameters": 591_488}
"""The model's config as far as a card shows it."""
