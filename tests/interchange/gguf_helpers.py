"""Write small GGUF files as llama.cpp's converter does, independently of the code that reads them."""

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize

from glassgpt.data.tokenizers.byte_level import byte_of_character

TYPES = gguf.GGMLQuantizationType
LLAMA_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
GPT2_NAMES = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
MERGES = ["t h", "Ġ a", "th e", "Ġa n", "1 2"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB_SIZE = len(SPECIAL) + 256 + len(MERGES)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def interleaved(weight, n_head):
    """The converter's order of the rows of queries and keys."""
    return (
        weight.reshape(n_head, 2, weight.shape[0] // n_head // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write_tokenizer(writer, pre="smollm", model="gpt2", without_bytes=()):
    alphabet = [name for name, byte in byte_of_character().items() if byte not in without_bytes]
    unused = [f"<unused{at}>" for at in range(len(without_bytes))]
    tokens = [*SPECIAL, *alphabet, *unused, *(merge.replace(" ", "") for merge in MERGES)]
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in (*SPECIAL, *unused) else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)


def write_llama(theirs, path, kind=TYPES.F32, extra=lambda writer: None, arch="llama", leave_out=(), **tokenizer):
    """Write a Llama of transformers; matrices are stored as `kind`, and become its rounded weights in `theirs`, too."""
    config = theirs.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    write_tokenizer(writer, **tokenizer)
    for name, parameter in theirs.named_parameters():
        module, _, part = name.rpartition(".")
        layer, _, inner = module.removeprefix("model.layers.").partition(".")
        head = f"blk.{layer}.{LLAMA_NAMES[inner]}" if inner in LLAMA_NAMES else LLAMA_NAMES[module]
        values, count = parameter.detach().numpy(), heads.get(module.rpartition(".")[2])
        stored = _add(writer, f"{head}.{part}", interleaved(values, count) if count else values, kind, leave_out)
        parameter.data.copy_(_tensor(_reversed(stored, count) if count else stored))
    extra(writer)
    _write(writer)


def write_gpt2(theirs, path, kind=TYPES.F32, leave_out=()):
    """Write a GPT-2 of transformers, whose matrices are (in, out)."""
    config = theirs.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    write_tokenizer(writer, pre="gpt-2")
    for name, parameter in theirs.named_parameters():
        module, _, part = name.rpartition(".")
        layer, _, inner = module.removeprefix("transformer.h.").partition(".")
        head = f"blk.{layer}.{GPT2_NAMES[inner]}" if inner in GPT2_NAMES else GPT2_NAMES[module]
        turned = ".c_" in module and part == "weight"
        values = parameter.detach().numpy()
        stored = _add(writer, f"{head}.{part}", values.T if turned else values, kind, leave_out)
        parameter.data.copy_(_tensor(stored.T if turned else stored))
    _write(writer)


def _add(writer, name, values, kind, leave_out):
    values = np.ascontiguousarray(values)
    kind = kind if values.ndim == 2 else TYPES.F32
    data = quantize(values, kind)
    if name not in leave_out:
        writer.add_tensor(name, data, raw_dtype=kind)
    return dequantize(data, kind)


def _reversed(weight, n_head):
    return (
        weight.reshape(n_head, weight.shape[0] // n_head // 2, 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def _tensor(values):
    return torch.tensor(np.ascontiguousarray(values))


def _write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
