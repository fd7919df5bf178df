"""A language model for llama.cpp that is small enough to be written here: it says one sentence, whatever it is asked.

After each token it knows one that comes next: the row of that token in the last layer is the vector of this one.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

SENTENCE = ("\u2581Hello", ",", "\u2581I", "\u2581am", "\u2581real", "\u2581and", "\u2581very", "\u2581small", ".")
TEXT = "Hello, I am real and very small."
CONTEXT_TOKENS = 262_144
_SIZE = 64
_END = 2
_ASKED = ":"
"""The last token of each prompt."""
_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def write(path: Path, *, ends: bool) -> None:
    """Write the model.

    Args:
        path: the file.
        ends: whether it ends after the sentence; otherwise it begins it again.
    """
    control, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    special = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", control), ("</s>", control)]
    tokens = [*special, *((f"<0x{code:02X}>", byte) for code in range(256))]
    tokens += [(word, normal) for word in (_ASKED, *SENTENCE)]
    numbers = {word: number for number, (word, _) in enumerate(tokens)}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_SIZE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_SIZE)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_SIZE)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([word for word, _ in tokens])
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END)
    writer.add_chat_template(_TEMPLATE)

    vectors = np.random.default_rng(1).standard_normal((len(tokens), _SIZE)).astype(np.float32)
    last = np.zeros_like(vectors)
    said = [numbers[word] for word in (_ASKED, *SENTENCE)]
    for this, following in zip(said, [*said[1:], _END if ends else said[1]], strict=True):
        last[following] += 2 * vectors[this]
    nothing = np.zeros((_SIZE, _SIZE), np.float32)
    ones = np.ones(_SIZE, np.float32)
    writer.add_tensor("token_embd.weight", vectors)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", last)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", nothing)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
